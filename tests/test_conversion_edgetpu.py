"""The Edge TPU's rules on files that keep and break them."""

import numpy as np
import pytest

from keras_esq._keras import keras
from keras_esq.conversion import check_edgetpu, convert
from keras_esq.quantize import quantize_model

L = keras.layers
X = np.random.default_rng(0).random((8, 8, 8, 4), np.float32)


def report(tmp_path, *layers, target="edgetpu", **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 4)), *layers])
    path = tmp_path / "x.tflite"
    convert(quantize_model(model, "ternary"), path, target=target, calibration=X, **options)
    return check_edgetpu(path)


def test_an_ordinary_network_maps(tmp_path):
    layers = [L.Conv2D(8, 3, activation="relu"), L.MaxPooling2D(2), L.DepthwiseConv2D(3), L.Flatten(), L.Dense(5)]
    for io in ("int8", "uint8"):
        found = report(tmp_path, *layers, io=io)
        assert {op.verdict for op in found.ops} <= {"pass", "maybe"}
        assert found.mac_share == 1
        assert found.fits_cache
    table = str(found)
    assert "100.0 % of the MACs" in table
    assert "necessary, not sufficient" in table


def test_macs(tmp_path):
    layers = [L.Conv2D(8, 3), L.DepthwiseConv2D(3), L.Conv2DTranspose(4, 3), L.Flatten(), L.Dense(5)]
    found = report(tmp_path, *layers)
    assert [op.macs for op in found.ops if op.macs] == [
        6 * 6 * 9 * 4 * 8, 4 * 4 * 9 * 8, 4 * 4 * 9 * 8 * 4, 6 * 6 * 4 * 5
    ]  # fmt: skip


BREAKING = [
    ([L.Conv2D(4, 3, dilation_rate=(1, 2)), L.Flatten(), L.Dense(3)], "CONV_2D", "dilation"),
    ([L.Dense(8), L.Flatten(), L.Dense(3)], "FULLY_CONNECTED", "not one-dimensional"),
    ([L.Softmax(), L.Flatten(), L.Dense(3)], "SOFTMAX", "not one-dimensional"),
    ([L.LeakyReLU(), L.Flatten(), L.Dense(3)], "LEAKY_RELU", "no such operator"),
]


@pytest.mark.parametrize(("layers", "op", "why"), BREAKING)
def test_rules_that_are_broken(layers, op, why, tmp_path):
    found = report(tmp_path, *layers)
    bad = next(row for row in found.ops if row.verdict == "fail")
    assert bad.op == op
    assert why in bad.why
    # One partition: what follows runs on the CPU.
    assert not any(row.on_tpu for row in found.ops[found.ops.index(bad) :])
    assert found.verdict == "fail"
    assert found.mac_share < 1


@pytest.mark.parametrize("target", ["float", "phone", "phone-small", "mcu"])
def test_files_of_other_targets_fail(target, tmp_path):
    found = report(tmp_path, L.Conv2D(64, 3), L.Flatten(), L.Dense(20), target=target)
    assert found.verdict == "fail"


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"PK")
    with pytest.raises(ValueError, match="TFL3"):
        check_edgetpu(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        check_edgetpu(tmp_path / "y")
