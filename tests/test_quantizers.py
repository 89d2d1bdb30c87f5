"""Weight quantizers against the paper's formulas in float64, written out filter by filter."""

import numpy as np
import pytest
import tensorflow as tf

import keras_esq as esq
from keras_esq.quantize import get_quantizer, round_int8

SHAPES_AND_AXES = [
    ((7,), -1),
    ((5, 4), -1),
    ((3, 5, 4), -1),
    ((3, 3, 2, 6), -1),
    ((3, 3, 6, 2), -2),  # Conv2DTranspose: (height, width, out, in)
    ((3, 3, 4, 2), (-2, -1)),  # DepthwiseConv2D: (height, width, in, multiplier)
    ((3, 3, 4, 2), (2, 3)),
    ((2, 3, 3, 2, 5), -1),
]


def filters(w, axis):
    """Each filter of `w` as a flat float64 row, and a function that puts such rows back."""
    axes = [a % w.ndim for a in ((axis,) if isinstance(axis, int) else axis)]
    moved = np.moveaxis(w.astype(np.float64), axes, range(len(axes)))
    rows = moved.reshape(int(np.prod(moved.shape[: len(axes)])), -1)
    return rows, lambda out: np.moveaxis(np.reshape(out, moved.shape), range(len(axes)), axes)


def bwn(row):
    return np.mean(np.abs(row)) * np.where(row >= 0, 1, -1)


def twn(row, threshold=0.7):
    kept = np.abs(row) > threshold * np.mean(np.abs(row))
    return np.where(kept, np.mean(np.abs(row[kept])) * np.sign(row), 0) if kept.any() else np.zeros_like(row)


def int8(row):
    scale = np.abs(row).max() / 127
    return np.round(row / scale) * scale


@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
@pytest.mark.parametrize(("quantize", "formula"), [(esq.binarize, bwn), (esq.ternarize, twn), (round_int8, int8)])
def test_values_are_those_of_the_paper(shape, axis, quantize, formula):
    w = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    rows, back = filters(w, axis)
    np.testing.assert_allclose(quantize(w, axis), back([formula(r) for r in rows]), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES[1:])
@pytest.mark.parametrize(("quantize", "levels"), [(esq.binarize, 2), (esq.ternarize, 3)])
def test_each_filter_has_exactly_its_levels(shape, axis, quantize, levels):
    w = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    rows, _ = filters(quantize(w, axis).numpy(), axis)
    for row in rows:
        values = np.unique(row)
        assert len(values) <= levels
        assert len(np.unique(np.abs(values[values != 0]))) == 1  # plus and minus one and the same number


@pytest.mark.parametrize("quantize", [esq.binarize, esq.ternarize, round_int8])
def test_zero_filters_stay_zero_and_nan_stays_visible(quantize):
    w = np.zeros((3, 2), np.float32)
    w[:, 1] = [1.0, -2.0, 3.0]
    q = quantize(w).numpy()
    assert (q[:, 0] == 0).all()
    assert np.isfinite(q).all()
    w[0, 1] = np.nan
    assert np.isnan(quantize(w).numpy()[:, 1]).all()
    w[0, 1] = np.inf
    assert not np.isfinite(quantize(w).numpy()[:, 1]).any()


@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_int8_values_are_what_a_file_can_hold_and_rounding_them_again_changes_nothing(shape, axis):
    w = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    q = round_int8(w, axis)
    for row in filters(q.numpy(), axis)[0]:
        whole = row * 127 / np.abs(row).max()
        np.testing.assert_allclose(whole, np.round(whole), atol=1e-4)
    np.testing.assert_allclose(round_int8(q, axis), q, rtol=1e-6)
    assert np.abs(q - w).max() <= 0.5001 * np.abs(w).max() / 127


def test_sign_of_zero_is_plus():
    np.testing.assert_array_equal(esq.binarize(np.array([[0.0], [-0.0], [-3.0]], np.float32)), [[1.0], [1.0], [-1.0]])


def test_ternary_threshold():
    w = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
    rows, back = filters(w, -1)
    for threshold in (0.0, 0.3, 1.5, 100.0, np.float32(0.3)):
        expected = back([twn(r, threshold) for r in rows])
        np.testing.assert_allclose(esq.ternarize(w, threshold=threshold), expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("quantize", [esq.binarize, esq.ternarize, round_int8])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_gradient_is_straight_through_in_every_float_type(quantize, dtype):
    w = tf.Variable(tf.cast(tf.random.normal((400, 3)) * 500, dtype))
    upstream = tf.cast(tf.random.normal((400, 3)), dtype)
    with tf.GradientTape() as tape:
        q = quantize(w)
    assert q.dtype == w.dtype
    assert np.isfinite(tf.cast(q, tf.float32)).all()  # a float16 sum of these would overflow
    np.testing.assert_array_equal(tape.gradient(q, w, upstream), upstream)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: esq.binarize(np.ones((2, 2), np.int32)), TypeError, "floating"),
        (lambda: esq.binarize(np.ones((2, 2), np.float32), axis=2), ValueError, "channel axis"),
        (lambda: round_int8(np.ones((2, 2), np.int32)), TypeError, "floating"),
        (lambda: esq.ternarize(np.ones((2, 2), np.float32), threshold=-1), ValueError, "threshold"),
        (lambda: esq.Ternary(threshold=float("nan")), ValueError, "threshold"),
        (lambda: esq.Ternary(threshold="0.7"), TypeError, "threshold"),
        (lambda: esq.Binary(probability="linaer"), ValueError, "linear"),
        (lambda: esq.Binary(partition="reel"), ValueError, "real"),
        (lambda: get_quantizer("ternery"), ValueError, "ternary"),
        (lambda: get_quantizer(3), TypeError, "quantizer"),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    "quantizer",
    [
        esq.Binary(),
        esq.Int8(),
        esq.Ternary(threshold=0.5),
        esq.Ternary(axis=(2, 3), probability="softmax", partition="real"),
    ],
)
def test_config_round_trip_and_identifiers(quantizer):
    copy = type(quantizer).from_config(quantizer.get_config())
    assert copy == quantizer
    assert hash(copy) == hash(quantizer)
    assert copy != esq.Binary(stochastic=False)
    assert get_quantizer(quantizer) is quantizer
    assert get_quantizer(quantizer.alias) == get_quantizer(type(quantizer)) == type(quantizer)()
    assert quantizer.precision == {"binary": 1, "ternary": 2, "int8": 8}[quantizer.alias]
