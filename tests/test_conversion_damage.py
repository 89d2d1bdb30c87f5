"""Damaged files: an error each, never a crash of the process, whatever runtime they were meant for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_esq._keras import keras
from keras_esq.conversion import convert, inspect
from keras_esq.conversion.lowering import lower
from keras_esq.quantize import quantize_model
from keras_esq.runtime import Flatbuffer, available_runtimes
from keras_esq.runtime.flatbuffer_format import op_name, parse
from keras_esq.runtime.flatbuffer_writing import pack_model

L = keras.layers
TARGETS = {"phone": "tf", "phone-small": "tf-builtin", "mcu": "tflm", "float": "tf-builtin"}
SHAPE = (8, 8, 3)
needs_tflm = pytest.mark.skipif("tflm" not in available_runtimes(), reason="no tflite-micro here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    keras.utils.set_random_seed(0)
    where = tmp_path_factory.mktemp("damage")
    layers = [keras.Input(SHAPE), L.Conv2D(16, 3), L.ReLU(), L.Conv2D(32, 3), L.DepthwiseConv2D(3), L.Flatten()]
    network = keras.Sequential([*layers, L.Dense(64), L.Dense(5)])
    x = np.random.default_rng(0).random((8, *SHAPE), np.float32)
    for target in [*TARGETS, "ethos-u"]:
        convert(quantize_model(network, "ternary"), where / f"{target}.tflite", target=target, calibration=x)
    convert(quantize_model(network, "binary"), where / "binary.tflite", target="mcu", calibration=x)
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


# ---- files of others, which have no checksum


def foreign(path):
    """The bytes of a file as another writer would make it: without our entry."""
    model = parse(path.read_bytes())
    model.metadata = None
    return pack_model(model)


# Runs in a child process. Prints each number before its run, so that the parent knows which one ended the process.
FOREIGN_CHILD = """
import os, sys
import numpy as np
from keras_esq.runtime import Flatbuffer

content, start, stop = open(sys.argv[1], "rb").read(), int(sys.argv[2]), int(sys.argv[3])
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
for seed in range(start, stop):
    rng = np.random.default_rng(seed)
    damaged, kind = bytearray(content), seed % 4
    if kind == 0:
        for position in rng.integers(0, len(damaged), 3):
            damaged[position] ^= 1 << rng.integers(0, 8)
    elif kind == 1:
        position = 4 * rng.integers(0, len(damaged) // 4 - 1)
        damaged[position : position + 4] = rng.choice([0, 1, 7, 2**31 - 1, 2**32 - 1]).astype("<u4").tobytes()
    elif kind == 2:
        damaged[rng.integers(0, len(damaged))] = rng.integers(0, 256)
    else:
        start, size = rng.integers(0, len(damaged) - 8), rng.integers(1, 8)
        damaged[start : start + size] = rng.integers(0, 256, size).astype(np.uint8).tobytes()
    print(seed, end=" ", flush=True)
    try:
        file = Flatbuffer.from_bytes(bytes(damaged), "tflm")
        assert file.predict(np.zeros((1, *file.input_shape))).shape == (1, *file.output_shape)
        print("ran", flush=True)
    except (ValueError, RuntimeError):
        print("refused", flush=True)
"""


def run_foreign(folder, target, count):
    path = folder / f"{target}-foreign.tflite"
    path.write_bytes(foreign(folder / f"{target}.tflite"))
    command = [sys.executable, "-c", FOREIGN_CHILD, str(path), "0", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=900)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"mutation {lines[-1]!r} ended the process with {done.returncode}"
    assert len(lines) == count
    answers = [line.split()[1] for line in lines]
    # Most bytes are weights, of which any is as good as another; those of ternary tables have a value to spare.
    assert answers.count("refused") > count / 20
    assert answers.count("ran") > count / 20


@needs_tflm
@pytest.mark.parametrize("target", ["mcu", "ethos-u"])
def test_damaged_files_of_others_never_crash_tflm(target, folder):
    run_foreign(folder, target, 200)


@needs_tflm
@pytest.mark.slow
@pytest.mark.parametrize("target", ["mcu", "ethos-u", "binary"])
def test_more_damaged_files_of_others_never_crash_tflm(target, folder):
    run_foreign(folder, target, 2000)


def table_of(model):
    """The table of the first TFLM_DECODE, as a buffer that may be written to."""
    decode = next(o for o in model.subgraphs[0].operators if op_name(model, o) == "TFLM_DECODE")
    buffer = model.buffers[model.subgraphs[0].tensors[decode.inputs[1]].buffer]
    buffer.data = np.array(buffer.data, np.uint8)
    return decode, buffer


def set_header(byte, value):
    def change(model):
        table_of(model)[1].data[byte] = value

    return change


def shorten_table(model):
    decode, buffer = table_of(model)
    buffer.data = buffer.data[:40]
    model.subgraphs[0].tensors[decode.inputs[1]].shape = np.array([40], np.int32)


def shorten_indices(model):
    decode, _ = table_of(model)
    tensor = model.subgraphs[0].tensors[decode.inputs[0]]
    buffer = model.buffers[tensor.buffer]
    buffer.data, tensor.shape = buffer.data[:-1], np.array([len(buffer.data) - 1], np.int32)


def spare_index(model):
    decode, _ = table_of(model)
    buffer = model.buffers[model.subgraphs[0].tensors[decode.inputs[0]].buffer]
    buffer.data = np.array(buffer.data)
    buffer.data[3] = 0xFF


def first(name, field, value):
    """Change an attribute of the first operator of that name."""

    def change(model):
        operator = next(o for o in model.subgraphs[0].operators if op_name(model, o) == name)
        setattr(operator.builtinOptions, field, value)

    return change


def bias_of_others(model):
    dense = next(o for o in model.subgraphs[0].operators if op_name(model, o) == "FULLY_CONNECTED")
    convolution = next(o for o in model.subgraphs[0].operators if op_name(model, o) == "CONV_2D")
    dense.inputs[2] = convolution.inputs[2]


def larger_output(model):
    convolution = next(o for o in model.subgraphs[0].operators if op_name(model, o) == "CONV_2D")
    tensor = model.subgraphs[0].tensors[convolution.outputs[0]]
    tensor.shape = np.array([1, 5, 6, 16], np.int32)


def lost_attributes(model):
    convolution = next(o for o in model.subgraphs[0].operators if op_name(model, o) == "CONV_2D")
    convolution.builtinOptions, convolution.builtinOptionsType = None, 0


def written_constant(model):
    convolution = next(o for o in model.subgraphs[0].operators if op_name(model, o) == "CONV_2D")
    convolution.outputs = np.array([convolution.inputs[1]], np.int32)


def other_operator(model):
    reshape = next(o for o in model.subgraphs[0].operators if op_name(model, o) == "RESHAPE")
    code = model.operatorCodes[reshape.opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = 101  # ABS, as TFLM has no EXP of int8


PLANTED = [
    (set_header(0, 1), "kind and versions"), (set_header(1, 9), "kind and versions"),
    (set_header(5, 0x10 | 2), "along axis 1"), (set_header(5, 0), "0 bits"), (set_header(5, 8), "8 bits"),
    (set_header(6, 0), "0 values a channel"), (set_header(6, 9), "9 values a channel"),
    (shorten_table, "too small|too few"), (shorten_indices, "too few for"), (spare_index, "an index is 3 of 3"),
    (first("CONV_2D", "strideH", 0), "stride"), (first("CONV_2D", "dilationWFactor", 100), "larger than its input"),
    (first("CONV_2D", "fusedActivationFunction", 9), "activation"),
    (first("DEPTHWISE_CONV_2D", "depthMultiplier", 3), "other channels"), (bias_of_others, "a bias of"),
    (larger_output, "an output of shape"), (lost_attributes, "lacks its attributes"),
    (written_constant, "constant or written|not computed before"), (other_operator, "can't verify|not supported"),
]  # fmt: skip


@needs_tflm
@pytest.mark.parametrize(("change", "message"), PLANTED)
def test_what_tflm_would_take_on_trust(change, message, folder):
    model = parse(foreign(folder / "mcu.tflite"))
    change(model)
    with pytest.raises(ValueError, match=message):
        Flatbuffer.from_bytes(pack_model(model), "tflm")


@needs_tflm
def test_good_files_of_others_run(folder):
    ours = Flatbuffer(folder / "mcu.tflite", "tflm").predict(np.ones((1, *SHAPE)))
    np.testing.assert_array_equal(
        Flatbuffer.from_bytes(foreign(folder / "mcu.tflite"), "tflm").predict(np.ones((1, *SHAPE))), ours
    )


@needs_tflm
def test_operators_that_cant_be_verified_need_trust():
    x = keras.Input(SHAPE)
    content = lower(keras.Model(x, L.Flatten()(keras.backend.exp(x))))
    with pytest.raises(ValueError, match=r"EXP .*can't verify.*verify=False"):
        Flatbuffer.from_bytes(content, "tflm")
    assert Flatbuffer.from_bytes(content, "tflm", verify=False).predict(np.zeros((1, *SHAPE))).max() == 1
