"""Damaged files: an error each, never a crash of the process, whatever runtime they were meant for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_esq._keras import keras
from keras_esq.conversion import convert, inspect
from keras_esq.quantize import quantize_model
from keras_esq.runtime import Flatbuffer

L = keras.layers
TARGETS = {"phone": "tf", "phone-small": "tf-builtin", "mcu": "tflm", "float": "tf-builtin"}
SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    keras.utils.set_random_seed(0)
    where = tmp_path_factory.mktemp("damage")
    layers = [keras.Input(SHAPE), L.Conv2D(16, 3), L.ReLU(), L.Conv2D(32, 3), L.DepthwiseConv2D(3), L.Flatten()]
    model = quantize_model(keras.Sequential([*layers, L.Dense(5)]), "ternary")
    for target in TARGETS:
        x = np.random.default_rng(0).random((8, *SHAPE), np.float32)
        convert(model, where / f"{target}.tflite", target=target, weights="auto", calibration=x)
    return where


# Runs in a child process, which a crash would end. Prints "ran refused unseen".
CHILD = """
import sys
import numpy as np
from keras_esq.conversion import inspect
from keras_esq.runtime import Flatbuffer
from pathlib import Path

folder, target, runtime, count = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
content = (folder / f"{target}.tflite").read_bytes()
damaged_path = folder / f"{target}-damaged.tflite"
same = refused = 0
for seed in range(count):
    rng = np.random.default_rng(seed)
    damaged = bytearray(content)
    kind = seed % 5
    if kind == 0:
        damaged = damaged[: rng.integers(0, len(damaged))]
    elif kind == 1:
        for position in rng.integers(0, len(damaged), 4):
            damaged[position] ^= 1 << rng.integers(0, 8)
    elif kind == 2:
        start, size = rng.integers(0, len(damaged) - 64), rng.integers(1, 64)
        damaged[start : start + size] = rng.integers(0, 256, size).astype(np.uint8).tobytes()
    elif kind == 3:
        position = 4 * rng.integers(0, len(damaged) // 4 - 1)
        damaged[position : position + 4] = rng.choice([0, 1, 2**31 - 1, 2**32 - 1]).astype("<u4").tobytes()
    else:
        start = rng.integers(0, len(damaged) - 64)
        first, second = damaged[start : start + 32], damaged[start + 32 : start + 64]
        damaged[start : start + 64] = second + first
    damaged = bytes(damaged)
    same += damaged == content
    damaged_path.write_bytes(damaged)
    for use in (inspect, lambda p: Flatbuffer(p, runtime).predict(np.zeros((2, 8, 8, 3)))):
        try:
            use(damaged_path)
        except (ValueError, RuntimeError):
            refused += 1
print(same, refused)
"""


@pytest.mark.parametrize(("target", "runtime"), TARGETS.items())
def test_damaged_files_are_refused(target, runtime, folder):
    """500 a target: cut, with flipped bits, with garbage, with wild offsets, with blocks exchanged."""
    command = [sys.executable, "-c", CHILD, str(folder), target, runtime, "500"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=500)
    assert done.returncode == 0, (done.stdout, done.stderr[-1000:])
    same, refused = map(int, done.stdout.split()[-2:])
    # The one change that the checksum can't see is in the name of its own entry, 9 bytes of each file.
    assert refused >= 2 * (500 - same) - 12


def test_verify_false_is_for_edits_that_were_meant(folder, tmp_path):
    content = (folder / "float.tflite").read_bytes()
    changed = content.replace(b"MLIR Converted.", b"Edited by hand.")
    assert changed != content
    (tmp_path / "x").write_bytes(changed)
    for use in (inspect, Flatbuffer):
        with pytest.raises(ValueError, match=r"x'.*changed since.*verify=False"):
            use(tmp_path / "x")
        use(tmp_path / "x", verify=False)
    np.testing.assert_array_equal(
        Flatbuffer(tmp_path / "x", "tf", verify=False).predict(np.ones((1, *SHAPE))),
        Flatbuffer(folder / "float.tflite", "tf").predict(np.ones((1, *SHAPE))),
    )


def test_a_damaged_entry_is_refused(folder, tmp_path):
    content = (folder / "float.tflite").read_bytes()
    (tmp_path / "x").write_bytes(content.replace(b'{"version"', b'["version"'))
    for use in (inspect, Flatbuffer):
        with pytest.raises(ValueError, match="changed since"):
            use(tmp_path / "x")
        with pytest.raises(ValueError, match="can't be read"):
            use(tmp_path / "x", verify=False)
