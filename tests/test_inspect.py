"""Looking inside of .tflite files."""

import numpy as np
import pytest

from keras_esq._keras import keras
from keras_esq.conversion import convert, inspect
from keras_esq.quantize import quantize_model

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
