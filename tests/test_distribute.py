"""Training on several devices and machines."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("distributed_training.py")


def test_two_devices_train_as_one():
    """Same losses, and the same partition on every replica."""
    # How oneDNN's kernels round depends on the size of the batch, and a sign in the attack makes much of a rounding.
    plain = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    command = [sys.executable, str(SCRIPT), "mirrored"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=plain)
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["same"] == [True] * 3
    assert {"loss", "pairing_loss", "val_adversarial_accuracy", "ratio"} <= set(found["difference"])
    assert max(found["difference"].values()) < 1e-4, found


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_workers(folder):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    processes = []
    for index in range(2):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        processes.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPT), "worker", str(folder)],
                env={**os.environ, "TF_CONFIG": config, "WORKER": str(index)},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    return processes


def finish(processes):
    answers = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in processes]
    return [answer["weights"] for answer in answers]


@pytest.mark.slow
def test_two_machines_go_on_after_one_was_killed(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    expected = finish(start_workers(whole))
    assert expected[0] == expected[1]
    processes = start_workers(killed)
    note = killed / "epochs-1"
    for _ in range(3000):
        if note.exists() and len(note.read_text().splitlines()) >= 2:
            break
        time.sleep(0.1)
    for process in (processes[1], processes[0]):
        process.kill()
        process.wait()
    done = len(note.read_text().splitlines())
    assert done >= 2
    assert finish(start_workers(killed))[0] > 0
    epochs = [int(line.split()[0]) for line in note.read_text().splitlines()]
    assert epochs[-1] == 3
    assert epochs[done] >= 1, "it began anew instead of going on"
