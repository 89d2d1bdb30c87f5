"""Pruned networks: tfmot's wrappers at every door, and zeros through quantization, training and files."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot

import keras_esq as esq
from keras_esq._keras import keras, tfmot_sparsity
from keras_esq.quantize import low_bit_weights
from keras_esq.quantize.pruning import hold_zeros, unpruned
from tests.nets import tiny

SPARSITY = 0.75
PRUNED = esq.Ternary(keep_zeros=True)
X = np.random.default_rng(0).random((32, 8, 8, 3), dtype=np.float32)
Y = np.arange(32) % 3


def prune(model, sparsity=SPARSITY):
    schedule = tfmot_sparsity.ConstantSparsity(sparsity, begin_step=0, frequency=1)
    return tfmot_sparsity.prune_low_magnitude(model, schedule)


def fit(network, attack=None, **settings):
    model = esq.ErrorSilencedModel(network, attack=attack or esq.attacks.FGSM(eps=0.05), seed=1)
    model.compile(settings.pop("optimizer", "sgd"), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, epochs=2, batch_size=16, verbose=0, **settings)
    return model


@pytest.fixture(scope="module")
def pruned():
    """A network that an ErrorSilencedModel trained while tfmot pruned it."""
    keras.utils.set_random_seed(0)
    network = prune(tiny())
    fit(network, esq.attacks.PGD(eps=0.05, steps=2), callbacks=[tfmot_sparsity.UpdatePruningStep()])
    return network


def zeros(model):
    return {row.name: row.zeros for row in esq.summary(model).rows if row.weights}


def test_it_is_tfmots_own_module():
    assert tfmot_sparsity is tfmot.sparsity.keras


def test_error_silenced_training_prunes(pruned):
    for layer in (pruned.get_layer("prune_low_magnitude_conv"), pruned.get_layer("prune_low_magnitude_head")):
        assert np.mean(layer.layer.kernel.numpy() == 0) == SPARSITY
        # Once a training step: the attack's passes through the network don't count.
        assert int(layer.pruning_step) == 4


def test_without_its_callback_training_says_so():
    with pytest.raises(tf.errors.InvalidArgumentError, match="UpdatePruningStep"):
        fit(prune(tiny()))


def test_summary_and_strip_look_through_the_wrappers(pruned):
    assert zeros(pruned) == {"conv": SPARSITY, "head": SPARSITY}
    rows, plain = esq.summary(pruned).rows, esq.summary(tiny()).rows
    assert [(r.name, r.kind, r.weights, r.macs) for r in rows] == [(r.name, r.kind, r.weights, r.macs) for r in plain]
    stripped = esq.strip(pruned)
    assert [layer.name for layer in stripped.layers][1:] == ["conv", "bn", "relu", "pool", "head"]
    np.testing.assert_allclose(stripped(X), pruned(X), atol=1e-6)
    assert unpruned(stripped) is stripped
    assert not {id(w) for w in stripped.weights} & {id(w) for w in pruned.weights}


def test_nested_models():
    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")], name="inner")
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), inner, keras.layers.Flatten(), keras.layers.Dense(3, name="head")]
    )
    nested = prune(model)
    assert esq.summary(nested).rows == esq.summary(model).rows
    np.testing.assert_allclose(esq.strip(nested)(X), model(X), atol=1e-6)
    assert [row.bits for row in esq.summary(esq.quantize_model(nested, PRUNED)).rows] == [2, 2]


# --- quantizing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "schedule"), [("sgd", "full"), ("momentum", "uniform"), ("adam", "uniform")])
def test_zeros_stay_zero_through_training(pruned, optimizer, schedule):
    optimizers = {
        "sgd": lambda: keras.optimizers.SGD(0.1),
        "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-3),
        "adam": lambda: keras.optimizers.Adam(0.1),
    }
    low_bit = esq.quantize_model(pruned, PRUNED)
    before = [weight.latent.numpy() for weight in low_bit_weights(low_bit)]
    fit(low_bit, optimizer=optimizers[optimizer](), callbacks=[esq.QuantizationRatio(schedule)])
    for weight, old in zip(low_bit_weights(low_bit), before, strict=True):
        new = weight.latent.numpy()
        assert (new[old == 0] == 0).all()
        assert (new[old != 0] != old[old != 0]).any()
    assert min(zeros(low_bit).values()) >= SPARSITY


def test_without_keep_zeros_they_come_back(pruned):
    low_bit = esq.quantize_model(pruned, "ternary")
    assert min(zeros(low_bit).values()) >= SPARSITY
    fit(low_bit, optimizer=keras.optimizers.SGD(0.5))
    latent = low_bit_weights(low_bit)[0].latent.numpy()
    assert np.mean(latent == 0) < SPARSITY / 2


def test_binary_and_a_mask(pruned):
    low_bit = esq.quantize_model(pruned, esq.Ternary(threshold=0, keep_zeros=True))
    for weight in low_bit_weights(low_bit):
        w, q = weight.latent.numpy().astype(np.float64), weight.quantized.numpy()
        for i in range(w.shape[-1]):
            kept = w[..., i] != 0
            alpha = np.abs(w[..., i][kept]).mean() if kept.any() else 0
            np.testing.assert_allclose(q[..., i], alpha * np.sign(w[..., i]), rtol=1e-5)
    # One bit has no zero.
    assert max(zeros(esq.quantize_model(pruned, "binary")).values()) < SPARSITY
    with pytest.raises(ValueError, match="threshold=0"):
        esq.Binary(keep_zeros=True)


def test_gradient_of_held_zeros():
    w = tf.constant([0.0, 2.0, -0.0, -1e-30])
    with tf.GradientTape() as tape:
        tape.watch(w)
        out = tf.reduce_sum(hold_zeros(w) * [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(tape.gradient(out, w), [0, 2, 0, 4])
    np.testing.assert_array_equal(hold_zeros(w), w)


def test_saved_and_loaded(pruned, tmp_path):
    low_bit = esq.quantize_model(pruned, PRUNED)
    low_bit.save(tmp_path / "m.keras")
    again = esq.load_model(tmp_path / "m.keras")
    assert [weight.quantizer.keep_zeros for weight in low_bit_weights(again)] == [True, True]
    np.testing.assert_array_equal(again(X), low_bit(X))


def test_a_pruned_float_network_is_loaded_without_a_scope(pruned, tmp_path):
    pruned.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(esq.load_model(tmp_path / "m.keras")(X), pruned(X))


@pytest.mark.parametrize("target", ["float", "phone", "mcu"])
def test_files_tell_the_zeros(pruned, tmp_path, target):
    low_bit = esq.quantize_model(pruned, PRUNED)
    file = esq.convert(low_bit, tmp_path / "m.tflite", target=target, calibration=X)
    rows = [row for row in esq.inspect(file.path).rows if row.is_weight]
    assert [row.zeros for row in rows] == pytest.approx(list(zeros(low_bit).values()))
    assert f"{rows[0].zeros:.1%}" in esq.inspect(file.path).table()
    assert all(row.zeros is None or 0 <= row.zeros <= 1 for row in esq.inspect(file.path).rows)
