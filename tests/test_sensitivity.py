"""Sensitivity of layers to few bits, and the allocation of bits to layers."""

import itertools
import json

import numpy as np
import pytest

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.attacks import FGSM, PGD
from keras_esq.evaluation import allocate_bits, evaluate_robustness, sensitivity
from keras_esq.evaluation.allocation import cheapest, fixed_bytes
from keras_esq.evaluation.layer_sensitivity import NAMES, layer_bytes, quantized
from tests.nets import tiny, zoo

ATTACK = FGSM(eps=0.05)


@pytest.fixture(scope="module")
def trained(digits):
    keras.utils.set_random_seed(0)
    network = esq.models.small_cnn(width=4)
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.optimizer.learning_rate = 0.01
    network.fit(digits.x_train, digits.y_train, epochs=4, verbose=0)
    return network


@pytest.fixture(scope="module")
def found(trained, digits):
    return sensitivity(trained, digits.x_test[:100], digits.y_test[:100], attack=ATTACK, batch_size=64, progress=False)


# --- sensitivity ----------------------------------------------------------------------------------------------------


def test_a_row_is_the_network_with_that_layer_quantized(trained, found, digits):
    """Against quantize_model and evaluate_robustness, a way of its own to the same numbers."""
    x, y = digits.x_test[:100], digits.y_test[:100]
    assert found.n == 100
    before = evaluate_robustness(trained, x, y, attacks=ATTACK, progress=False)
    assert found.accuracy == pytest.approx(before.accuracy("fgsm"))
    for layer, bits in ((found.layers[0], 1), (found.layers[-1], 2)):
        row = found.of(layer)[bits]
        low_bit = esq.quantize_model(trained, {layer: NAMES[bits]})
        report = evaluate_robustness(low_bit, x, y, attacks=ATTACK, progress=False)
        # A sample at the border may fall to the other side by rounding.
        assert row.accuracy == pytest.approx(report.accuracy("fgsm"), abs=0.011)
        (of_summary,) = (one for one in esq.summary(low_bit).rows if one.name == layer)
        assert (row.num_bytes, row.weights) == (of_summary.low_bit_bytes, of_summary.weights)
    assert all(row.increase == row.loss - found.loss for row in found.rows)


def test_fewer_bits_hurt_more(found):
    increase = {bits: sum(found.of(layer)[bits].increase for layer in found.layers) for bits in NAMES}
    assert increase[1] > increase[2] > increase[8]
    assert abs(increase[8]) < 0.05 * increase[1]


def test_model_is_not_changed_and_seeds_repeat():
    network = tiny()
    before = network.get_weights()
    x, y = np.random.default_rng(0).random((20, 8, 8, 3)), np.arange(20) % 3
    random = {"attack": PGD(eps=0.05, steps=1), "bits": 2, "progress": False}
    one, two = (sensitivity(network, x, y, seed=3, **random) for _ in range(2))
    assert one == two
    assert one != sensitivity(network, x, y, seed=4, **random)
    assert {row.bits for row in one.rows} == {2}
    assert all((a == b).all() for a, b in zip(before, network.get_weights(), strict=True))


def test_eight_bits_are_the_files():
    """Per-channel symmetric int8, as TensorFlow's converter rounds."""
    rng = np.random.default_rng(0)
    for shape, axis in (((3, 3, 4, 5), -1), ((3, 3, 4, 2), (-2, -1)), ((3, 3, 5, 4), -2), ((7, 5), -1)):
        kernel = rng.normal(size=shape).astype(np.float32)
        new = quantized(kernel, 8, axis)
        filters = np.moveaxis(kernel, axis, np.arange(len(np.atleast_1d(axis))))
        rounded = np.moveaxis(new, axis, np.arange(len(np.atleast_1d(axis))))
        for index in np.ndindex(filters.shape[: len(np.atleast_1d(axis))]):
            scale = np.abs(filters[index]).max() / 127
            np.testing.assert_allclose(rounded[index], scale * np.rint(filters[index] / scale), rtol=1e-5)
    assert (quantized(np.zeros((3, 2), np.float32), 8, -1) == 0).all()


def test_bytes_of_every_kind_of_kernel():
    network = zoo()
    flat = esq.strip(network)
    for bits, name in ((1, "binary"), (2, "ternary")):
        rows = {row.name: row for row in esq.summary(esq.quantize_model(network, name)).rows}
        for layer in flat.layers:
            if layer.name in rows and rows[layer.name].weights:
                assert layer_bytes(layer, bits) == rows[layer.name].low_bit_bytes
    total = esq.summary(esq.quantize_model(network, "binary")).totals.low_bit_bytes
    kernels = [layer for layer in flat.layers if layer.name in rows and rows[layer.name].weights]
    assert fixed_bytes(flat) + sum(layer_bytes(layer, 1) for layer in kernels) == total


def test_tables(found, tmp_path):
    text = found.table()
    assert all(layer in text for layer in found.layers)
    assert found.to_markdown().count("\n| ") == len(found.rows) + 1
    content = json.loads(found.to_json(tmp_path / "s.json"))
    assert json.loads((tmp_path / "s.json").read_text()) == content
    assert [row["increase"] for row in content["rows"]] == [row.increase for row in found.rows]
    assert found.plot(tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(KeyError, match=found.layers[0]):
        found.of(found.layers[0] + "x")


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"bits": (1, 4)}, ValueError, "out of"),
        ({"bits": ()}, ValueError, "out of"),
        ({"attack": "pgd"}, TypeError, "PGD"),
        ({"attack": PGD(targeted=True)}, ValueError, "targeted"),
        ({"model": keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])}, ValueError, "kernel"),
        ({"model": 3}, TypeError, "Keras|tf_keras"),
        ({"x": np.full((3, 8, 8, 3), np.nan)}, ValueError, "NaN"),
        ({"y": [0, 1]}, ValueError, "label"),
        ({"y": [0, 1, 9]}, ValueError, "ids"),
    ],
)
def test_errors(arguments, error, says):
    x = np.random.default_rng(0).random((3, 8, 8, 3))
    with pytest.raises(error, match=says):
        sensitivity(**{"model": tiny(), "x": x, "y": [0, 1, 2], "progress": False, **arguments})


def test_quantized_model_is_refused():
    with pytest.raises(ValueError, match="float model"):
        sensitivity(esq.quantize_model(tiny(), "ternary"), np.zeros((1, 8, 8, 3)), [0])


# --- allocation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_cheapest_is_that_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    items = rng.integers(1, 7)
    # Small numbers make ties, and some options are better though smaller.
    sizes = [rng.integers(1, 30, rng.integers(1, 4)) for _ in range(items)]
    losses = [np.round(rng.normal(size=len(size)), 1 if seed % 2 else 9) for size in sizes]
    least, most = sum(size.min() for size in sizes), sum(size.max() for size in sizes)
    for budget in rng.integers(least, most + 2, 4):
        choice = cheapest(sizes, losses, int(budget))
        used, lost = (sum(one[i] for one, i in zip(of, choice, strict=True)) for of in (sizes, losses))
        best = min(
            sum(loss[i] for loss, i in zip(losses, picks, strict=True))
            for picks in itertools.product(*(range(len(size)) for size in sizes))
            if sum(size[i] for size, i in zip(sizes, picks, strict=True)) <= budget
        )
        assert used <= budget
        assert lost == pytest.approx(best, abs=1e-9)


def test_cheapest_of_many_layers_is_that_of_a_solver():
    from scipy.optimize import LinearConstraint, milp

    rng = np.random.default_rng(0)
    weights = rng.integers(1_000, 2_400_000, 155)
    sizes = [np.ceil(n * np.array([1, 2, 8]) / 8).astype(int) for n in weights]
    losses = [rng.exponential(0.1) * np.array([1, 0.4, 0.01]) for _ in weights]
    budget = int(weights.sum() * 2.5 / 8)
    choice = cheapest(sizes, losses, budget)
    lost = sum(loss[i] for loss, i in zip(losses, choice, strict=True))
    one_each = np.kron(np.eye(155), np.ones(3))
    solved = milp(
        np.concatenate(losses),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(np.concatenate(sizes), 0, budget)],
        integrality=np.ones(3 * 155),
        bounds=(0, 1),
        options={"mip_rel_gap": 0, "time_limit": 20},
    )
    assert sum(size[i] for size, i in zip(sizes, choice, strict=True)) <= budget
    assert lost <= solved.fun + 1e-7
    assert lost >= solved.mip_dual_bound - 1e-7


def test_allocation_goes_into_quantize_model(trained, found):
    every = {
        bits: fixed_bytes(esq.strip(trained)) + sum(found.of(x)[bits].num_bytes for x in found.layers) for bits in NAMES
    }
    assert set(allocate_bits(trained, max_bytes=every[1], sensitivity=found).values()) == {"binary"}
    assert sum(allocate_bits(trained, max_bytes=every[8], sensitivity=found)[x] is None for x in found.layers) >= 1
    last = np.inf
    for budget in (every[1], every[2], (every[2] + every[8]) // 2, every[8]):
        weights = allocate_bits(trained, max_bytes=budget, sensitivity=found)
        bits_of = {name: bits for bits, name in NAMES.items()}
        rows = [found.of(layer)[bits_of[name]] for layer, name in weights.items()]
        assert fixed_bytes(esq.strip(trained)) + sum(row.num_bytes for row in rows) <= budget
        increase = sum(row.increase for row in rows)
        assert increase <= last
        last = increase
        if any(weights.values()):
            low_bit = {row.name: row for row in esq.summary(esq.quantize_model(trained, weights)).rows}
            for layer, name in weights.items():
                assert low_bit[layer].quantizer == (name or "float")


def test_impossible_budget_names_the_least(trained, found):
    least = esq.summary(esq.quantize_model(trained, "binary")).totals.low_bit_bytes
    with pytest.raises(ValueError, match=f"{least:,}"):
        allocate_bits(trained, max_bytes=least - 1, sensitivity=found)
    assert allocate_bits(trained, max_bytes=least, sensitivity=found)


def test_wrong_sensitivity_is_refused(trained, found):
    with pytest.raises(ValueError, match="Measure this model"):
        allocate_bits(tiny(), max_bytes=10**6, sensitivity=found)
    with pytest.raises(ValueError, match="bytes at 1 bits"):
        allocate_bits(esq.models.small_cnn(width=6), max_bytes=10**6, sensitivity=found)
    with pytest.raises(TypeError, match="Expected sensitivity from"):
        allocate_bits(trained, max_bytes=10**6, sensitivity={})
    with pytest.raises(TypeError, match="integer"):
        allocate_bits(trained, max_bytes=1e6, sensitivity=found)


def test_nested_layers_go_by_their_flat_names():
    def block(name):
        return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 1, name="conv")], name=name)

    network = keras.Sequential(
        [keras.Input((8, 8, 3)), block("a"), block("b"), keras.layers.Flatten(), keras.layers.Dense(3, name="head")]
    )
    x = np.random.default_rng(0).random((6, 8, 8, 3))
    rows = sensitivity(network, x, np.arange(6) % 3, attack=ATTACK, bits=(1, 8), progress=False)
    weights = allocate_bits(network, max_bytes=10**6, sensitivity=rows)
    assert list(weights) == ["conv", "b_conv", "head"]
    summary = {row.name: row for row in esq.summary(esq.quantize_model(network, weights | {"b_conv": "binary"})).rows}
    assert summary["b_conv"].bits == 1
    assert summary["b_conv"].low_bit_bytes == rows.of("b_conv")[1].num_bytes
