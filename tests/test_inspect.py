"""Looking inside of .tflite files."""

import numpy as np
import pytest
import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.conversion import convert, inspect
from keras_esq.conversion.lowering import lower
from keras_esq.quantize import quantize_model
from keras_esq.runtime import Flatbuffer, available_runtimes

L = keras.layers
X = np.random.default_rng(0).random((16, 8, 8, 3), np.float32)


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(4, 3, name="conv"),
            L.DepthwiseConv2D(3, name="dw"),
            L.Flatten(),
            L.Dense(5, name="logits"),
        ]
    )


# Weights of conv, dw and logits.
SIZES = (4 * 3 * 3 * 3, 3 * 3 * 4, 4 * 4 * 4 * 5)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    models = {"float": network(), "mcu": network(), "ternary": quantize_model(network(), "ternary")}
    for name, model in models.items():
        target = "float" if name == "float" else "mcu"
        convert(model, folder / name, target=target, calibration=X, weights="int8")
    return folder


def test_rows_of_an_int8_file(files):
    summary = inspect(files / "ternary")
    kernels = [row for row in summary.rows if row.is_weight]
    assert [(row.op, row.type, row.bits) for row in kernels] == [
        ("CONV_2D", "INT8", 8), ("DEPTHWISE_CONV_2D", "INT8", 8), ("FULLY_CONNECTED", "INT8", 8)
    ]  # fmt: skip
    assert [row.shape for row in kernels] == [(4, 3, 3, 3), (1, 3, 3, 4), (5, 64)]
    assert tuple(row.size for row in kernels) == tuple(row.num_bytes for row in kernels) == SIZES
    assert [row.distinct for row in kernels] == [3, 3, 3]
    assert any(row.type == "INT32" and row.op == "CONV_2D" for row in summary.rows)
    assert summary.ops == ("CONV_2D", "DEPTHWISE_CONV_2D", "RESHAPE", "FULLY_CONNECTED")


def test_totals(files):
    for name, bits, ratio in (("float", 32, 1), ("mcu", 8, 4)):
        summary = inspect(str(files / name))
        assert summary.path == files / name
        assert summary.file_bytes == (files / name).stat().st_size
        assert summary.weights == sum(SIZES)
        assert summary.weight_bytes == sum(SIZES) * bits // 8
        assert summary.bits_per_weight == bits
        assert summary.float_ratio == ratio
        assert summary.overhead_bytes == summary.file_bytes - summary.weight_bytes


def test_float_weights_have_many_values(files):
    assert max(row.distinct for row in inspect(files / "float").rows if row.is_weight) == 64
    assert 3 < max(row.distinct for row in inspect(files / "mcu").rows if row.is_weight) <= 64


def test_distinct_is_that_of_the_channel_that_has_most():
    """A file of one channel [1, 1, 2] and one [3, 4, 5] holds at most 3 values a channel, 5 in all."""
    from keras_esq.conversion.inspection import _distinct

    values = np.array([[1, 1, 2], [3, 4, 5]])
    assert _distinct(values, 0) == 3
    assert _distinct(values, 1) == 2
    assert _distinct(values, None) == 5
    assert _distinct(np.array(7), 0) == 1


def test_table(files):
    table = inspect(files / "ternary").table()
    lines = table.splitlines()
    assert lines[0].split() == ["op", "tensor", "type", "shape", "bits", "distinct", "zeros", "bytes"]
    assert set(lines[1]) == {"-"}
    assert "8.00 bits a weight, 4.0x smaller than float32" in lines[-2]
    assert lines[-1].startswith("runs in litert, tflite-runtime, tf,")
    rows = lines[2:-2]
    assert len(rows) == len(inspect(files / "ternary").rows)
    # Columns are aligned: numbers end where their headings end.
    assert len({len(line) for line in [lines[0], *rows]}) == 1
    assert str(inspect(files / "ternary")) == table


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "empty"), (b"PK\x03\x04 zip file", "TFL3"), (b"\x40\0\0\0TFL3", "damaged")]
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        inspect(tmp_path / "x")


def test_truncated_files_are_refused(files, tmp_path):
    content = (files / "mcu").read_bytes()
    for share in (0.2, 0.5, 0.9, 0.99):
        (tmp_path / "cut").write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=r"cut'"):
            inspect(tmp_path / "cut")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        inspect(tmp_path / "none")
    with pytest.raises(IsADirectoryError, match="folder"):
        inspect(tmp_path)


SCALES = np.random.default_rng(1).uniform(0.5, 1.5, (1, 3, 1, 2)).astype(np.float32)
IMAGE, SEQUENCE, CUBES = (6, 6, 4), (5, 6), (2, 3, 4, 2)
# Input, layer, what the table names for runtimes that can't run its float and its int8 file.
LACKING = [
    (IMAGE, lambda: L.ELU(), {"tflite-runtime-ref": "no operator ELU"}, ...),
    ((4, 6, 6, 3), lambda: L.Conv3D(2, 2), {"tflm": "no operator CONV_3D"}, ...),
    (IMAGE, lambda: L.Activation("gelu"), {"tflm": "no operator GELU"}, ...),
    (IMAGE, lambda: L.Lambda(tf.exp), {}, {"tflm": "EXP takes no int8"}),
    (
        *(IMAGE, lambda: L.Lambda(lambda x: tf.math.log(x + 1.0)), {}),
        {"tflm": "LOG takes no int8", "tflite-runtime": "LOG of version 2", "tflite-runtime-ref": "LOG of version 2"},
    ),
    (
        *(IMAGE, lambda: L.Lambda(lambda x: x / (x + 2.0)), {}),
        {"tflite-runtime": "DIV takes no int8", "tflite-runtime-ref": "DIV takes no int8"},
    ),
    (IMAGE, lambda: L.Lambda(lambda x: tf.reduce_sum(x, [1, 2])), {}, {"tflite-runtime-ref": "SUM of int8 is wrong"}),
    (SEQUENCE, lambda: L.Dense(3), {}, {"tflite-runtime-ref": "FULLY_CONNECTED of int8 is wrong"}),
    (IMAGE, lambda: L.GroupNormalization(2), {"tflite-runtime-ref": "MUL of shapes"}, {"tflite-runtime-ref": "SUM"}),
    (CUBES, lambda: L.BatchNormalization(), {"tflite-runtime-ref": "MUL of shapes"}, ...),
    (
        *(CUBES, lambda: L.Lambda(lambda x: x * SCALES), {"tflite-runtime-ref": "ends its process"}),
        {"tflite-runtime-ref": "ends its process", "tflite-runtime": r"MUL of shapes .* ends its process"},
    ),
    # The batch itself makes the difference.
    (
        *(CUBES, lambda: L.Lambda(lambda x: x * SCALES[:, :, :1]), {"tflite-runtime-ref": "ends its process"}),
        {"tflite-runtime-ref": "ends its process", "tflite-runtime": "ends its process"},
    ),
    (CUBES, lambda: L.Cropping3D(((0, 1), (1, 1), (1, 0))), {"tflm": "STRIDED_SLICE takes 4 axes"}, ...),
]


@pytest.mark.parametrize("case", LACKING, ids=lambda case: str(case[2] or case[3]))
def test_the_table_tells_the_truth_about_kernels(case, tmp_path):
    """What it says runs computes what the plain kernels of TF do, and what it says does not is refused when opened."""
    shape, layer, lacking_float, lacking_int8 = case
    x = np.random.default_rng(0).random((6, *shape), np.float32)
    inputs = keras.Input(shape)
    network = keras.Model(inputs, layer()(inputs))
    for calibration, lacking in ((None, lacking_float), (x, lacking_float if lacking_int8 is ... else lacking_int8)):
        content = lower(network, calibration)
        (tmp_path / "x.tflite").write_bytes(content)
        refusals = inspect(tmp_path / "x.tflite").refusals
        assert {runtime for runtime, why in refusals.items() if why} == set(lacking)
        reference = Flatbuffer.from_bytes(content, "tf-builtin").predict(x)
        atol = (1e-5 if calibration is None else 0.05) * np.abs(reference).max()
        for runtime in available_runtimes():
            if runtime in lacking:
                with pytest.raises(RuntimeError, match=f"can run.*{lacking[runtime]}"):
                    Flatbuffer.from_bytes(content, runtime, verify=False)
            else:
                outputs = Flatbuffer.from_bytes(content, runtime, verify=False).predict(x)
                np.testing.assert_allclose(outputs, reference, atol=atol)
