"""L1 BatchNormalization, against its formula in float64 and Keras' own layer."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.quantize import L1BatchNormalization, with_l1_batchnorm
from tests.nets import randomize

layers = keras.layers
RNG = np.random.default_rng(0)


def formula(x, axis, gamma, beta, epsilon=1e-3):
    """(output, mean, deviation) in float64."""
    x = np.moveaxis(x.astype(np.float64), axis, -1)
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axis=axes)
    deviation = np.sqrt(np.pi / 2) * np.abs(x - mean).mean(axis=axes)
    y = gamma * (x - mean) / np.sqrt(deviation**2 + epsilon) + beta
    return np.moveaxis(y, -1, axis), mean, deviation


def network(**settings):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv"),
            L1BatchNormalization(momentum=0.9, name="bn", **settings),
            layers.ReLU(name="relu"),
            layers.Conv2D(8, 3, strides=2, use_bias=False, name="conv2"),
            L1BatchNormalization(momentum=0.9, name="bn2", **settings),
            layers.ReLU(name="relu2"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(10, name="head"),
        ]
    )


@pytest.mark.parametrize(("shape", "axis"), [((32, 5, 4, 3), -1), ((16, 3, 4, 5), 1), ((64, 6), -1), ((8, 7, 3), -1)])
def test_training_is_the_formula(shape, axis):
    x = RNG.normal(2, 3, shape).astype(np.float32)
    channels = shape[axis]
    layer = L1BatchNormalization(axis=axis, momentum=0.8)
    layer.build(shape)
    gamma, beta = RNG.normal(size=(2, channels)).astype(np.float32)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    layer.moving_mean.assign(np.full(channels, 0.5))
    layer.moving_variance.assign(np.full(channels, 4.0))
    expected, mean, deviation = formula(x, axis, gamma, beta)
    np.testing.assert_allclose(layer(x, training=True), expected, atol=2e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.8 * 0.5 + 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(layer.moving_variance), 0.8 * 2 + 0.2 * deviation, rtol=1e-5)


def test_gradient_is_that_of_differences():
    x = RNG.normal(size=(6, 3)).astype(np.float32)
    weights = RNG.normal(size=x.shape)
    layer = L1BatchNormalization()
    with tf.GradientTape() as tape:
        inputs = tf.Variable(x)
        loss = tf.reduce_sum(layer(inputs, training=True) * weights.astype(np.float32))
    gradient = tape.gradient(loss, inputs).numpy()
    for index in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[index] = 1e-6
        change = [np.sum(formula(x.astype(np.float64) + s * step, -1, 1, 0)[0] * weights) for s in (1, -1)]
        assert gradient[index] == pytest.approx((change[0] - change[1]) / 2e-6, abs=1e-3)


def test_normal_inputs_are_normalized_to_variance_1():
    x = RNG.normal(5, 7, (20_000, 2)).astype(np.float32)
    np.testing.assert_allclose(np.std(L1BatchNormalization()(x, training=True), axis=0), 1, atol=0.02)


@pytest.mark.parametrize("settings", [{}, {"scale": False}, {"center": False}, {"axis": 1}])
def test_inference_is_keras_own_layer(settings):
    x = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
    one, own = L1BatchNormalization(**settings), layers.BatchNormalization(**settings)
    one(x)
    own(x)
    values = [RNG.random(weight.shape) + 0.1 for weight in own.weights]
    one.set_weights(values)
    own.set_weights(values)
    np.testing.assert_array_equal(one(x, training=False), own(x))
    one.trainable = False
    np.testing.assert_array_equal(one(x, training=True), own(x))
    np.testing.assert_allclose(one.moving_mean, values[-2], rtol=1e-6)


def test_training_flag_as_a_tensor():
    x = RNG.normal(size=(8, 3)).astype(np.float32)
    layer = L1BatchNormalization()
    layer(x)
    run = tf.function(lambda training: layer(x, training=training))
    np.testing.assert_allclose(run(tf.constant(False)), layer(x, training=False), atol=1e-6)
    np.testing.assert_allclose(run(tf.constant(True)), formula(x, -1, 1, 0)[0], atol=1e-5)


@pytest.fixture(scope="module")
def trained(digits):
    """A float network, trained by the training step of [ESQ] that only repeats Keras' own."""
    keras.utils.set_random_seed(0)
    model = esq.ErrorSilencedModel(network(), objective="natural")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(digits.x_train, digits.y_train, epochs=8, verbose=0)
    return model


@pytest.fixture(scope="module")
def low_bit(trained, digits):
    """Ternary weights, and one epoch for the statistics to follow."""
    model = esq.ErrorSilencedModel(esq.quantize_model(trained, "ternary"), attack=esq.attacks.FGSM(eps=0.05))
    model.compile(keras.optimizers.Adam(0.001), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits.x_train, digits.y_train, epochs=1, verbose=0)
    return model


def test_it_trains(trained, digits):
    assert trained.evaluate(digits.x_test, digits.y_test, verbose=0, return_dict=True)["accuracy"] > 0.8


@pytest.mark.parametrize("target", ["float", "phone", "mcu"])
def test_files_agree(low_bit, digits, tmp_path, target):
    file = esq.convert(low_bit, tmp_path / "m.tflite", target=target, calibration=digits.x_train[:100])
    # Folded: no operator of its own is left.
    assert not {"MUL", "SUB", "RSQRT", "ADD"} & set(esq.inspect(file.path).ops)
    agreed = file.predict(digits.x_test).argmax(axis=1) == low_bit.predict(digits.x_test, verbose=0).argmax(axis=1)
    assert np.mean(agreed) > 0.95


def test_strip_needs_nothing_of_this_package(low_bit, digits):
    stripped = esq.strip(low_bit)
    assert type(stripped.get_layer("bn")) is layers.BatchNormalization
    np.testing.assert_allclose(stripped(digits.x_test), low_bit(digits.x_test), atol=1e-4)
    assert type(esq.strip(low_bit, latent=True).get_layer("bn")) is esq.L1BatchNormalization  # it is trained further


@pytest.mark.parametrize("ending", [".keras", ".h5", ""])
def test_saved_and_loaded(tmp_path, ending):
    model = network(epsilon=0.01)
    randomize(model)
    x = RNG.random((4, 8, 8, 1), dtype=np.float32)
    model.save(tmp_path / f"m{ending}")
    again = esq.load_model(tmp_path / f"m{ending}")
    np.testing.assert_allclose(again(x), model(x), atol=1e-6)
    layer = again.get_layer("bn")
    assert (type(layer).__name__, layer.momentum, layer.epsilon) == ("L1BatchNormalization", 0.9, 0.01)
    np.testing.assert_allclose(again(x, training=True), model(x, training=True), atol=1e-5)


def test_mixed_precision():
    # A thousand of a thousand pixels of 100: a float16 sum would overflow.
    x = (100 + RNG.normal(size=(10, 32, 32, 2))).astype(np.float16)
    layer = L1BatchNormalization(dtype="mixed_float16")
    y = layer(x, training=True)
    assert y.dtype == tf.float16
    assert layer.moving_variance.dtype == tf.float32
    np.testing.assert_allclose(tf.cast(y, tf.float32), formula(x, -1, 1, 0)[0], atol=0.01)


def test_quantizers_and_pruning_take_it():
    binary = esq.quantize_model(network(), "binary", activation_bits=8)
    x = RNG.random((4, 8, 8, 1), dtype=np.float32)
    assert np.isfinite(binary(x, training=True)).all()
    pruned = tfmot.sparsity.keras.prune_low_magnitude(network())
    assert [row.kind for row in esq.summary(pruned).rows] == [row.kind for row in esq.summary(network()).rows]


@pytest.mark.parametrize("settings", [{"synchronized": True}, {"virtual_batch_size": 4}])
def test_settings_that_it_does_not_know(settings):
    with pytest.raises(ValueError, match="without"):
        L1BatchNormalization(**settings)


def test_mask_is_refused():
    with pytest.raises(ValueError, match="mask"):
        L1BatchNormalization()(np.zeros((2, 3, 1), np.float32), training=True, mask=np.ones((2, 3), bool))


def test_put_in_place_of_keras_own():
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.BatchNormalization(name="inner"), layers.ReLU()])
    shared = layers.BatchNormalization(scale=False, epsilon=0.01, name="shared")
    x = keras.Input((8, 8, 1))
    y = layers.Conv2D(4, 3, padding="same")(x)
    model = keras.Model(x, layers.Flatten()(shared(inner(shared(y)))))
    randomize(model)
    before = model.get_weights()
    images = RNG.random((6, 8, 8, 1), np.float32)
    copy = with_l1_batchnorm(model)
    np.testing.assert_allclose(copy.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-6)
    found = [layer for layer in copy.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert [type(layer) for layer in found] == [L1BatchNormalization] * 2
    assert copy.get_layer("shared").epsilon == 0.01
    assert not np.allclose(copy(images, training=True), model(images, training=True), atol=1e-3)
    copy.get_layer("shared").beta.assign_add(np.ones(4))
    for one, other in zip(before, model.get_weights(), strict=True):
        if one.shape != (4,):  # the statistics of the pass in training mode
            np.testing.assert_array_equal(one, other)
    again = with_l1_batchnorm(copy)
    np.testing.assert_array_equal(again.predict(images, verbose=0), copy.predict(images, verbose=0))
    with pytest.raises(TypeError, match="tf_keras"):
        with_l1_batchnorm("model")
