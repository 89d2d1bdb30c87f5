"""The logits behind every kind of head, and that attacks go through heads without loss."""

import re

import numpy as np
import pytest
import tensorflow as tf

from keras_esq._keras import keras, tfmot_quantization
from keras_esq.attacks import BIM, PGD, NAttack, class_logits, head_kind, logits_fn, logits_of
from keras_esq.attacks.logits import input_shape_of
from keras_esq.evaluation import evaluate_robustness

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(6, 4)).astype(np.float32)
KERNEL = RNG.normal(size=(4, 3)).astype(np.float32)
BIAS = RNG.normal(size=3).astype(np.float32)


def sequential(*stack):
    return keras.Sequential([layers.Input((4,)), *stack])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, activation="softmax")

    def call(self, inputs):
        return self.dense(inputs)


class Wrapper(keras.Model):
    """Like ErrorSilencedModel: a Model around a network."""

    is_its_network = True

    def __init__(self, network):
        super().__init__()
        self.network = network

    def call(self, inputs, training=None):
        return self.network(inputs, training=training)


def functional():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Softmax()(layers.Dense(3)(inputs)))


class NoConfig(tfmot_quantization.QuantizeConfig):
    """Quantizes nothing: only the wrapper is under test."""

    def get_weights_and_quantizers(self, layer):
        return []

    get_activations_and_quantizers = get_output_quantizers = get_weights_and_quantizers

    def set_quantize_weights(self, layer, quantize_weights):
        pass

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_config(self):
        return {}


def quantize_wrapped():
    return sequential(tfmot_quantization.QuantizeWrapperV2(layers.Dense(3, activation="softmax"), NoConfig()))


THREE_CLASSES = {
    "linear": (lambda: sequential(layers.Dense(3)), "logits"),
    "dense softmax": (lambda: sequential(layers.Dense(3, activation="softmax")), "softmax"),
    "activation": (lambda: sequential(layers.Dense(3), layers.Activation("softmax")), "softmax"),
    "Softmax": (lambda: sequential(layers.Dense(3), layers.Softmax()), "softmax"),
    "lambda": (lambda: sequential(layers.Dense(3), layers.Lambda(tf.nn.softmax)), "softmax"),
    "log softmax": (lambda: sequential(layers.Dense(3, activation=tf.nn.log_softmax)), "logits"),
    "one-vs-rest": (lambda: sequential(layers.Dense(3, activation="sigmoid")), "sigmoid"),
    "cast": (
        lambda: sequential(
            layers.Dense(3), layers.Softmax(dtype="float64"), layers.Lambda(lambda p: tf.cast(p, "float32"))
        ),
        "softmax",
    ),
    "map": (
        lambda: sequential(layers.Reshape((1, 1, 4)), layers.Conv2D(3, 1, activation="softmax"), layers.Flatten()),
        "softmax",
    ),
    "nested": (lambda: sequential(keras.Sequential([layers.Dense(3), layers.Softmax()])), "softmax"),
    "functional": (functional, "softmax"),
    "subclassed": (Subclassed, "softmax"),
    "wrapper": (lambda: Wrapper(functional()), "softmax"),
    "tfmot wrapper": (quantize_wrapped, "softmax"),
}


@pytest.mark.parametrize("name", THREE_CLASSES)
def test_logits_behind_every_head(name):
    build, kind = THREE_CLASSES[name]
    model = build()
    model(X)
    for weight in model.trainable_weights:
        weight.assign(KERNEL.reshape(weight.shape) if weight.shape.rank > 1 else BIAS)
    want = X @ KERNEL + BIAS

    kinds = []

    @tf.function
    def traced(x):
        outputs = model(x, training=False)
        kinds.append(head_kind(outputs))
        return logits_of(outputs), logits_fn(model)(x)

    for logits in (*traced(X), logits_fn(model)(tf.constant(X))):
        assert logits.dtype == tf.float32
        np.testing.assert_allclose(logits, want, atol=2e-6)
    assert set(kinds) == {kind}
    if kind == "softmax":
        np.testing.assert_allclose(model(X), tf.nn.softmax(want), atol=1e-6)


def test_8bit_fake_quantized_softmax():
    model = tfmot_quantization.quantize_model(sequential(layers.Dense(3, activation="softmax")))
    logits = logits_fn(model)(tf.constant(X))
    np.testing.assert_allclose(tf.nn.softmax(logits), model(X), atol=0.02)  # one step of 8 bits


def test_mixed_precision_with_a_float32_head():
    model = sequential(layers.Dense(3, dtype="mixed_float16"), layers.Activation("softmax", dtype="float32"))
    logits = logits_fn(model)(tf.constant(X))
    assert logits.dtype == tf.float32
    np.testing.assert_allclose(tf.nn.softmax(logits), model(X), atol=1e-6)


def test_single_sigmoid_becomes_two_classes():
    model = sequential(layers.Dense(1, activation="sigmoid"))
    logits = logits_fn(model)(tf.constant(X))
    assert logits.shape == (6, 2)
    np.testing.assert_allclose(tf.nn.softmax(logits)[:, 1:], model(X), atol=1e-6)
    np.testing.assert_allclose(class_logits(tf.constant([[2.0]])), [[0.0, 2.0]])


def test_dropout_and_batch_statistics_are_in_inference_mode():
    model = sequential(layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.9), layers.Softmax())
    np.testing.assert_allclose(tf.nn.softmax(logits_fn(model)(tf.constant(X))), model(X, training=False), atol=1e-6)


def test_gradient_passes_through_the_eager_function():
    model = sequential(layers.Dense(3, activation="softmax"))
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = logits_fn(model)(x)[:, 0]
    np.testing.assert_allclose(tape.gradient(logits, x), np.tile(model.get_weights()[0][:, 0], (6, 1)), atol=1e-6)


@pytest.mark.parametrize("attack", [BIM(loss="margin"), PGD(seed=1, norm="l2", eps=0.3, step_size=0.1)])
def test_attack_through_softmax_equals_attack_on_logits(attack):
    plain = sequential(layers.Dense(5, activation="relu"), layers.Dense(3))
    # Weights so large that the softmax saturates: through it the gradient would be 0.
    plain.set_weights([30 * w for w in plain.get_weights()])
    headed = keras.Sequential([plain, layers.Softmax()])
    y = np.argmax(plain(X), axis=1)
    result = attack(plain, X, y)
    np.testing.assert_array_equal(result, attack(headed, X, y))
    assert np.abs(result - X).max() > 0


def many_outputs():
    inputs = keras.Input((4,))
    return keras.Model(inputs, {"a": layers.Dense(3)(inputs), "b": layers.Dense(3)(inputs)})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (many_outputs, "one output tensor"),
        (lambda: sequential(layers.Reshape((2, 2))), r"shape \(n, classes\)"),
        (lambda: sequential(layers.Dense(1, activation="softmax")), "1 unit"),
    ],
)
def test_outputs_that_are_no_classifier(build, message):
    with pytest.raises(ValueError, match=message):
        logits_fn(build())(tf.constant(X))


def test_eager_tensors_and_foreign_models_are_refused():
    with pytest.raises(ValueError, match="eager"):
        logits_of(tf.constant(X))
    with pytest.raises(TypeError, match=r"tf_keras\.Model"):
        logits_fn(lambda x: x)


def test_hidden_softmax_is_an_error_not_a_weak_attack():
    inputs = keras.Input((4,))
    average = layers.Average()([layers.Dense(3, activation="softmax")(inputs) for _ in range(2)])
    with pytest.raises(ValueError, match="probabilities"):
        BIM()(keras.Model(inputs, average), X, np.zeros(6, int))
    BIM()(keras.Model(inputs, layers.Lambda(tf.math.log)(average)), X, np.zeros(6, int))


class HiddenUnit(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1, activation="sigmoid")

    def call(self, inputs):
        return self.dense(inputs)


def loaded_unit(folder):
    model = HiddenUnit()
    model(X)
    model.save(folder / "saved", save_format="tf")
    return keras.models.load_model(folder / "saved", custom_objects={})


def averaged_units(folder):
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Average()([layers.Dense(1, activation="sigmoid")(inputs) for _ in range(2)]))


LOGIT = "lambda p: tf.math.log(p + 1e-7) - tf.math.log(1 - p + 1e-7)"


@pytest.mark.parametrize("attack", [BIM(), NAttack(query_budget=30, population=10)])
@pytest.mark.parametrize("build", [averaged_units, loaded_unit])
def test_hidden_sigmoid_is_an_error_not_a_logit(build, attack, tmp_path, monkeypatch):
    # As in another process, which does not know the class.
    monkeypatch.delitem(keras.utils.get_custom_objects(), "HiddenUnit", raising=False)
    model, y = build(tmp_path), np.arange(6) % 2
    for images in (X, X[:1]):
        with pytest.raises(ValueError, match="one unit whose values are probabilities"):
            attack(model, images, y[: len(images)])
    with pytest.raises(ValueError, match="one unit whose values are probabilities"):
        evaluate_robustness(model, X, y, attacks=attack, progress=False)
    with pytest.raises(ValueError, match=re.escape(LOGIT)):
        attack(model, X, y)
    attack(keras.Sequential([layers.Input((4,)), model, layers.Lambda(eval(LOGIT))]), X, y)


@pytest.mark.parametrize("bias", [-0.2, 0.5, 0.9])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_logit_between_0_and_1_by_chance_is_a_logit(depth, bias):
    model = sequential(*[layers.Dense(8, activation="relu") for _ in range(depth)], layers.Dense(1))
    model.set_weights([0.05 * abs(w) if w.ndim > 1 else w for w in model.get_weights()])
    model.layers[-1].bias.assign([bias])
    BIM()(model, X, np.zeros(6, int))
    visible = sequential(layers.Dense(1), layers.Activation("sigmoid"))
    visible.set_weights([np.full((4, 1), 0.1), np.full(1, 0.1)])  # the logits are in [0, 1] too
    BIM()(visible, X, np.zeros(6, int))
    flat = sequential(layers.Dense(1, kernel_initializer="zeros"))
    BIM()(flat, X, np.zeros(6, int))


def test_input_shape():
    assert input_shape_of(functional()) == (None, 4)
    assert input_shape_of(Wrapper(functional())) == (None, 4)
    assert input_shape_of(Subclassed()) is None
    a, b = keras.Input((4,)), keras.Input((4,))
    with pytest.raises(ValueError, match="one input"):
        input_shape_of(keras.Model([a, b], a + b))
