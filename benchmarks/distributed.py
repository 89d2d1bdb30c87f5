"""Images a second of two training processes with one thread each against one process with one thread.

    python benchmarks/distributed.py          # about 4 minutes; writes the figure into benchmarks/README.md

MultiWorkerMirroredStrategy on this machine's loopback, one core a process. Rounds of the two alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

BATCH, STEPS = 64, 12
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- distributed -->", "<!-- /distributed -->"


def work() -> None:
    """A training in this process; prints images a second of one worker, without the first step."""
    core = int(os.environ["CORE"])
    os.sched_setaffinity(0, {core})
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    alone = "TF_CONFIG" not in os.environ
    strategy = tf.distribute.get_strategy() if alone else tf.distribute.MultiWorkerMirroredStrategy()
    import numpy as np

    import keras_esq as esq
    from keras_esq._keras import keras

    workers = strategy.num_replicas_in_sync
    with strategy.scope():
        network = esq.quantize_model(esq.models.small_cnn((32, 32, 3), width=28), "ternary")
        model = esq.ErrorSilencedModel(network, attack=esq.attacks.PGD(steps=10), seed=0)
        model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    n = BATCH * workers
    x, y = rng.random((n, 32, 32, 3), dtype=np.float32), rng.integers(0, 10, n)
    data = tf.data.Dataset.from_tensors((x, y)).repeat()
    model.fit(data, steps_per_epoch=2, verbose=0)
    start = time.perf_counter()
    model.fit(data, steps_per_epoch=STEPS, verbose=0)
    print(json.dumps(n * STEPS / (time.perf_counter() - start)))


def images_a_second(processes: int) -> float:
    """Of so many processes together."""
    sockets = [socket.socket() for _ in range(processes)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    cluster = {"worker": [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]}
    for one in sockets:
        one.close()
    cores, started = sorted(os.sched_getaffinity(0)), []
    for index in range(processes):
        environment = {**os.environ, "CORE": str(cores[index]), "TF_CPP_MIN_LOG_LEVEL": "3"}
        if processes > 1:
            task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            environment["TF_CONFIG"] = json.dumps(task)
        command = [sys.executable, __file__, "--work"]
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        )
    return statistics.mean(json.loads(process.communicate()[0].splitlines()[-1]) for process in started)


def main() -> None:
    """Measure, print, and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work()
        return
    rounds = [(images_a_second(1), images_a_second(2)) for _ in range(arguments.rounds)]
    ratios = [two / one for one, two in rounds]
    one, two = (statistics.median(column) for column in zip(*rounds, strict=True))
    text = (
        f"Two processes with one thread each train **{statistics.median(ratios):.2f} x** the images of one process "
        f"with one thread (goal >= 1.8; {min(ratios):.2f} - {max(ratios):.2f} in {len(ratios)} alternating rounds; "
        f"{one:.0f} and {two:.0f} images a second): error-silenced step with PGD-10, batch {BATCH} a process, loopback."
    )
    print(text)
    page = README.read_text()
    if BEGIN in page:
        README.write_text(f"{page.split(BEGIN)[0]}{BEGIN}\n{text}\n{END}{page.split(END)[1]}")


if __name__ == "__main__":
    main()
