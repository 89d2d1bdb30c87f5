"""The stochastic partition against a roulette wheel that is turned filter by filter."""

import numpy as np
import pytest
import tensorflow as tf

import keras_esq as esq
from keras_esq.quantize import draw_partitions
from keras_esq.quantize.schedules import get_schedule

ERRORS = np.array([0.1, 0.2, 0.25, 0.4, 0.8, 0.05, 0.3], np.float32)
DRAWS = 20_000


def chances(errors, probability, partition):
    f = 1 / (errors.astype(np.float64) + 1e-7) if partition == "quantized" else errors.astype(np.float64) + 1e-7
    p = {
        "constant": np.ones_like(f),
        "linear": f,
        "softmax": np.exp(f - f.max()),
        "sigmoid": 1 / (1 + np.exp(-f)),
    }[probability]
    return p / p.sum()


def roulette(p, count, rng):
    """[SQ]: turn the wheel `count` times, each time without the filters that are out already."""
    left, drawn = list(range(len(p))), []
    for _ in range(count):
        weights = p[left] / p[left].sum()
        drawn.append(left.pop(np.searchsorted(np.cumsum(weights), rng.random() * (1 - 1e-12))))
    return drawn


@pytest.mark.parametrize("partition", ["quantized", "real"])
@pytest.mark.parametrize("probability", ["constant", "linear", "softmax", "sigmoid"])
def test_inclusion_frequencies_are_those_of_a_roulette_wheel(probability, partition):
    ratio = 3 / 7
    draw = tf.function(
        lambda n: tf.map_fn(
            # Between two other weights, which must not take part in this one's draw.
            lambda i: draw_partitions(
                [tf.constant([0.01, 0.9]), tf.constant(ERRORS), tf.constant([0.5])],
                [0.5, ratio, 1.0],
                tf.stack([i, 5]),
                probability=probability,
                partition=partition,
            )[1],
            tf.range(n),
            fn_output_signature=tf.float32,
        )
    )
    masks = draw(DRAWS).numpy()
    assert (masks.sum(axis=1) == 3).all()
    rng = np.random.default_rng(7)
    p = chances(ERRORS, probability, partition)
    count = 3 if partition == "quantized" else 4
    wheel = np.zeros(7)
    for _ in range(DRAWS):
        wheel[roulette(p, count, rng)] += 1
    expected = wheel / DRAWS if partition == "quantized" else 1 - wheel / DRAWS
    # Two estimates of at most sqrt(0.25 / 20000) = 0.0035 standard deviation each: 4 of their difference.
    np.testing.assert_allclose(masks.mean(axis=0), expected, atol=4 * np.sqrt(2) * 0.0036)


@pytest.mark.parametrize("partition", ["quantized", "real"])
@pytest.mark.parametrize("m", [1, 2, 5, 64])
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.875, 1.0])
def test_exactly_the_share_is_quantized(partition, m, ratio):
    errors = np.random.default_rng(m).random(m).astype(np.float32)
    masks = draw_partitions(
        [tf.constant(errors), tf.constant(errors[: m // 2 + 1])], ratio, [1, 2], partition=partition
    )
    for mask in masks:
        assert tf.reduce_sum(mask) == np.floor(ratio * len(mask) + 0.5)
        assert set(np.unique(mask)) <= {0.0, 1.0}


def test_extreme_errors_are_drawn_without_nan():
    errors = tf.constant([0.0, 0.0, 1e-30, 1.0, 0.5, 0.0])
    for probability in ("constant", "linear", "softmax", "sigmoid"):
        (mask,) = draw_partitions([errors], 0.5, [3, 4], probability=probability)
        assert tf.reduce_sum(mask) == 3


def test_quantizer_error_is_the_papers():
    w = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)
    w[..., 1] = 0.0
    q = esq.ternarize(w)
    norm = np.abs(w.astype(np.float64)).sum((0, 1, 2))
    expected = np.abs(w - q.numpy().astype(np.float64)).sum((0, 1, 2)) / np.where(norm > 0, norm, 1)
    np.testing.assert_allclose(esq.Ternary().error(w, q), expected, rtol=1e-5)
    assert esq.Binary(axis=(2, 3)).error(w, q).shape == (2, 4)


@pytest.mark.parametrize(
    ("schedule", "epochs", "expected"),
    [
        ("uniform", 120, {0: 0.2, 24: 0.2, 25: 0.4, 50: 0.6, 75: 0.8, 99: 0.8, 100: 1.0, 119: 1.0}),
        ("uniform", 1, {0: 1.0}),
        ("uniform", 3, {0: 0.2, 2: 1.0}),
        ("exponential", 8, {0: 0.5, 1: 0.5, 2: 0.75, 4: 0.875, 6: 1.0, 7: 1.0}),
        ("exponential", 2, {0: 0.5, 1: 1.0}),
        ("full", 5, {0: 1.0, 4: 1.0}),
        ({0: 0.5, 3: 1.0}, 5, {0: 0.5, 2: 0.5, 3: 1.0, 4: 1.0}),
        ({np.int64(0): 0.5, np.int64(3): 1.0}, 5, {2: 0.5, 3: 1.0}),
        (lambda epoch: epoch / 4, 5, {0: 0.0, 4: 1.0}),
        (lambda epoch, epochs: (epoch + 1) / epochs, 5, {0: 0.2, 4: 1.0}),
    ],
)
def test_schedules(schedule, epochs, expected):
    function = get_schedule(schedule)
    assert {epoch: function(epoch, epochs) for epoch in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "error", "words"),
    [
        ("unifrom", ValueError, "uniform"),
        ({}, ValueError, "epoch 0"),
        ({3: 0.5}, ValueError, "epoch 0"),
        ({0: 1.5}, ValueError, "0 to 1"),
        ({0: 0.5, 1.5: 1.0}, ValueError, "whole numbers"),
        (0.5, TypeError, "schedule"),
    ],
)
def test_unusable_schedules(schedule, error, words):
    with pytest.raises(error, match=words):
        get_schedule(schedule)
