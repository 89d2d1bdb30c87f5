"""The error-silenced training step: partition, objectives, Keras' own behaviour around it."""

import dataclasses
import warnings

import numpy as np
import pytest
import tensorflow as tf
from nets import layers, randomize, tiny

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.attacks.base import Attack
from keras_esq.quantize import get_ratio, low_bit_weights
from keras_esq.training.heads import trace_head
from keras_esq.training.pairing import pairing_distance

Y = np.arange(12) % 3
PGD = esq.attacks.PGD(eps=0.1, step_size=0.05, steps=3)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shift(Attack):
    """No attack at all: a fixed change of every image, so that losses can be computed by hand. Notes what it sees."""

    by: float = 0.05

    def generate(self, model_fn, x, labels, seed):
        logits = model_fn(x)
        if SEEN:
            SEEN[-1].assign(logits)
        return x + self.by


SEEN: list = []


def plain_net(head=None, units=3):
    """Without BatchNormalization training mode computes what inference does, as long as nothing is partitioned."""
    net = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(units, activation=head, name="head"),
        ]
    )
    randomize(net)
    return net


def compiled(net, lr=0.0, **kwargs):
    model = esq.ErrorSilencedModel(net, **{"attack": PGD, **kwargs})
    model.compile(keras.optimizers.SGD(lr), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def softmax_ce(logits, y):
    z = np.asarray(logits, np.float64)
    z = z - z.max(1, keepdims=True)
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]


def numpy_distance(a, b, kind):
    a, b = (np.asarray(t, np.float64).reshape(len(t), -1) for t in (a, b))
    l1, l2 = np.abs(a - b).sum(1), np.sqrt(((a - b) ** 2).sum(1))
    return {
        "l2": l2,
        "squared_l2": l2**2,
        "l1": l1,
        "relative_l2": l2 / np.sqrt((a**2).sum(1)),
        "relative_l1": l1 / np.abs(a).sum(1),
    }[kind]


DISTANCES = ["l2", "squared_l2", "l1", "relative_l2", "relative_l1"]


# The partition.


def mixed_copy(low_bit):
    """A plain net that holds the partly quantized weights of the present partition."""
    plain = esq.strip(low_bit)
    for w in low_bit_weights(low_bit):
        getattr(plain.get_layer(w.wrapper.name), w.attribute).assign(
            w.quantizer.mix(w.latent, w.quantized, w.partition)
        )
    return plain


@pytest.mark.parametrize("partition", ["quantized", "real"])
def test_attack_and_update_see_the_partition_of_the_step(images, partition):
    low_bit = esq.quantize_model(plain_net(), "binary", partition=partition)
    model = compiled(low_bit, attack=Shift(), pairing=esq.LogitPairing(0.0))
    esq.quantize.set_ratio(low_bit, 0.5)
    SEEN.append(tf.Variable(tf.zeros((12, 3))))
    try:
        partitions = []
        for _ in range(3):
            logs = model.train_on_batch(images, Y, return_dict=True)
            mixed = mixed_copy(low_bit)(images).numpy()
            np.testing.assert_allclose(SEEN[-1], mixed, atol=1e-5)  # the attack's forward pass
            assert logs["loss"] == pytest.approx(softmax_ce(mixed, Y).mean(), rel=1e-5)  # the update's
            assert np.abs(mixed - low_bit(images)).max() > 1e-2  # neither float nor fully quantized
            assert np.abs(mixed - plain_net()(images)).max() > 1e-2
            partitions.append(low_bit_weights(low_bit)[0].partition.numpy())
        assert all(p.sum() == 4 for p in partitions)
        assert len({tuple(p) for p in partitions}) > 1
    finally:
        SEEN.clear()


@pytest.mark.filterwarnings("ignore:The schedule ends")
def test_outside_the_step_every_filter_is_quantized(images):
    low_bit = esq.quantize_model(tiny(), "ternary")
    model = compiled(low_bit, lr=0.1, validation_attack=PGD)
    stripped, validated = [], []

    class Spy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            stripped.append(np.abs(esq.strip(low_bit)(images) - self.model.predict(images, verbose=0)).max())
            assert low_bit_weights(low_bit)[0].partition.numpy().sum() < 4

        def on_epoch_end(self, epoch, logs=None):
            logits = esq.strip(low_bit)(images)
            validated.append((logs["val_loss"], softmax_ce(logits, Y).mean()))

    ratios = model.fit(
        images,
        Y,
        batch_size=6,
        epochs=2,
        validation_data=(images, Y),
        callbacks=[esq.QuantizationRatio({0: 0.5, 1: 0.75, 2: 1.0}), Spy()],
        verbose=0,
    ).history["ratio"]
    assert ratios == [0.5, 0.75]
    assert max(stripped) < 1e-5
    for logged, by_hand in validated:
        assert logged == pytest.approx(by_hand, rel=1e-4)
    assert get_ratio(model) == 1.0


def test_schedule_is_followed_and_logged(images):
    model = compiled(esq.quantize_model(tiny(), "ternary"))
    callbacks = [esq.QuantizationRatio("uniform")]
    history = model.fit(images, Y, epochs=12, callbacks=callbacks, verbose=0).history
    expected = [0.2, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.6, 0.8, 0.8, 1.0, 1.0]
    assert history["ratio"] == pytest.approx(expected)
    with pytest.warns(UserWarning, match="ends at a ratio of 0.5"):
        model.fit(images, Y, callbacks=[esq.QuantizationRatio({0: 0.5})], verbose=0)


def test_quantization_ratio_refuses_other_models(images):
    net = tiny("softmax")
    net.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(TypeError, match="ErrorSilencedModel"):
        net.fit(images, Y, callbacks=[esq.QuantizationRatio()], verbose=0)
    with pytest.raises(ValueError, match="low-bit"):
        compiled(tiny()).fit(images, Y, callbacks=[esq.QuantizationRatio()], verbose=0)


def test_not_stochastic_is_always_full(images):
    low_bit = esq.quantize_model(plain_net(), "binary", stochastic=False)
    model = compiled(low_bit, objective="natural", attack=None)
    esq.quantize.set_ratio(low_bit, 0.5)
    loss = model.train_on_batch(images, Y, return_dict=True)["loss"]
    assert loss == pytest.approx(softmax_ce(esq.strip(low_bit)(images), Y).mean(), rel=1e-5)


# The objectives, against float64.


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 4, 2)])
def test_distances(distance, shape):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(pairing_distance(a, b, distance), numpy_distance(a, b, distance), rtol=1e-5)
    same = tf.Variable(a)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(pairing_distance(same, tf.constant(a), distance))
    assert np.isfinite(value)
    assert np.isfinite(tape.gradient(value, same)).all()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("head", [None, "softmax"])
def test_pairing_loss_is_the_formula(images, distance, head):
    images = images * 0.9
    net = plain_net(head)
    logits = keras.Model(net.inputs, net.get_layer("pool").output)
    dense = net.get_layer("head")

    def activations(x):
        pool = logits(x).numpy()
        return net.get_layer("conv")(x).numpy(), pool, pool @ dense.kernel.numpy() + dense.bias.numpy()

    weights = {"conv": 0.3, "pool": 0.2}
    pairing = [esq.LogitPairing(0.7, distance), esq.ActivationPairing(weights, distance)]
    model = compiled(net, attack=Shift(), pairing=pairing)
    logs = model.train_on_batch(images, Y, return_dict=True)
    clean, adv = activations(images), activations(images + np.float32(0.05))
    expected = sum(
        w * numpy_distance(a, b, distance).mean() for w, a, b in zip((0.3, 0.2, 0.7), clean, adv, strict=True)
    )
    assert logs["pairing_loss"] == pytest.approx(expected, rel=1e-4)
    assert logs["loss"] == pytest.approx(expected + softmax_ce(clean[2], Y).mean(), rel=1e-4)
    assert logs["adversarial_accuracy"] == pytest.approx((adv[2].argmax(1) == Y).mean())
    assert logs["accuracy"] == pytest.approx((clean[2].argmax(1) == Y).mean())


def test_added_losses_are_those_of_the_paired_pass(images):
    base, logged = plain_net(), []
    for weight in (0.0, 0.5):
        x = keras.Input((8, 8, 3))
        h = base.get_layer("conv")(x)
        network = keras.Model(x, base.get_layer("head")(base.get_layer("pool")(h)))
        network.add_loss(weight * tf.reduce_mean(h**2))
        model = compiled(network, attack=Shift(), pairing=esq.ActivationPairing({"conv": 0.1}))
        logged.append(model.fit(images, Y, verbose=0).history["loss"][0])
    h = base.get_layer("conv")(np.concatenate([images, np.clip(images + np.float32(0.05), 0, 1)])).numpy()
    assert logged[1] - logged[0] == pytest.approx(0.5 * np.mean(h**2), rel=1e-3)


def test_adversarial_loss_is_that_on_x_adv(images):
    images = images * 0.9
    net = plain_net()
    model = compiled(net, attack=Shift(), objective="adversarial")
    logs = model.train_on_batch(images, Y, return_dict=True)
    adv = net(images + np.float32(0.05))
    assert logs["loss"] == pytest.approx(softmax_ce(adv, Y).mean(), rel=1e-5)
    assert "pairing_loss" not in logs


def test_no_gradient_runs_through_the_attack(images):
    """The update must be that of a fixed x_adv."""
    images = images * 0.9
    net = plain_net()
    before = [w.numpy() for w in net.trainable_weights]
    x_adv = tf.constant(images + np.float32(0.05))
    with tf.GradientTape() as tape:
        a, b = net(images), net(x_adv)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(Y, a, from_logits=True))
        loss += 0.3 * tf.reduce_mean(tf.reduce_sum((a - b) ** 2, 1))
    gradients = tape.gradient(loss, net.trainable_weights)
    compiled(net, 0.1, attack=Shift(), pairing=esq.LogitPairing(0.3, "squared_l2")).train_on_batch(images, Y)
    for w, old, g in zip(net.trainable_weights, before, gradients, strict=True):
        np.testing.assert_allclose(w, old - 0.1 * g, rtol=1e-4, atol=1e-6)


# Keras' own behaviour.


def copies(make):
    first = make()
    second = make()
    second.set_weights(first.get_weights())
    return first, second


@pytest.mark.parametrize("how", ["arrays", "sample_weight", "class_weight", "dataset", "generator", "several steps"])
def test_natural_training_is_that_of_keras(images, how):
    ours, theirs = copies(lambda: tiny("softmax"))
    settings = {"steps_per_execution": 2} if how == "several steps" else {}
    model = esq.ErrorSilencedModel(ours, objective="natural")
    logs = []
    for net in (model, theirs):
        net.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"], **settings)
        fit = {"epochs": 2, "shuffle": False, "verbose": 0}
        if how == "dataset":
            data = (tf.data.Dataset.from_tensor_slices((images, Y)).batch(5),)
        elif how == "generator":
            data = ((batch for batch in [(images[:6], Y[:6]), (images[6:], Y[6:])] * 2),)
            fit["steps_per_epoch"] = 2
        else:
            data = (images, Y)
            fit["batch_size"] = 5
        if how == "sample_weight":
            fit["sample_weight"] = np.linspace(0, 2, 12)
        if how == "class_weight":
            fit["class_weight"] = {0: 1.0, 1: 0.2, 2: 3.0}
        logs.append(net.fit(*data, **fit).history)
    assert logs[0].keys() == logs[1].keys()
    for name, values in logs[0].items():
        assert values == pytest.approx(logs[1][name], rel=1e-4)
    for a, b in zip(model.network.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(model.predict(images, verbose=0), theirs.predict(images, verbose=0), atol=1e-5)
    ours_evaluated, theirs_evaluated = (net.evaluate(images, Y, verbose=0) for net in (model, theirs))
    assert ours_evaluated == pytest.approx(theirs_evaluated, rel=1e-4)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("split", [0.0, 1 / 3])
def test_sample_and_class_weights_of_arrays(images, split, shuffle):
    """As Keras where it can; it can't where the last batch is smaller."""
    one_hot = np.eye(3)[Y]
    network, weight, class_weight = plain_net("softmax"), np.linspace(0, 2, 12), {0: 1.0, 1: 0.2, 2: 3.0}
    model = esq.ErrorSilencedModel(network, objective="natural")
    settings = {"sample_weight": weight, "class_weight": class_weight, "validation_split": split, "verbose": 0}
    logs = []
    for net in (model, network):
        net.compile(keras.optimizers.SGD(0.0), "categorical_crossentropy", weighted_metrics=["accuracy"])
        logs.append(net.fit(images, one_hot, batch_size=4, shuffle=shuffle, **settings).history)
    assert all(logs[0][name] == pytest.approx(logs[1][name], rel=1e-5) for name in logs[1])
    np.testing.assert_array_equal(weight, np.linspace(0, 2, 12))
    uneven = model.fit(images, one_hot, batch_size=7, shuffle=shuffle, **settings).history
    assert all(uneven[name] == pytest.approx(logs[1][name], rel=1e-5) for name in logs[1])
    ids = esq.ErrorSilencedModel(network, objective="natural")
    ids.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    settings["sample_weight"] = weight[:, None]
    fitted = ids.fit(images, Y[:, None], batch_size=5, shuffle=shuffle, **settings).history
    assert fitted["loss"] == pytest.approx(logs[1]["loss"], rel=1e-5)


@pytest.mark.parametrize("class_weight", [{0: 1.0, 2: 1.0}, {0: 1.0, 1: 1.0}])
def test_class_weights_that_lack_a_class(images, class_weight):
    with pytest.raises(ValueError, match="class_weight"):
        compiled(tiny()).fit(images, Y, sample_weight=np.ones(12), class_weight=class_weight, verbose=0)


@pytest.mark.parametrize("objective", ["adversarial", "pairing"])
def test_softmax_and_logits_train_alike(images, objective):
    results = []
    net = plain_net()
    for head in (None, "softmax"):
        twin = plain_net(head)
        twin.set_weights(net.get_weights())
        model = compiled(twin, 0.1, objective=objective, seed=3)
        model.fit(images, Y, epochs=3, shuffle=False, verbose=0)
        results.append(twin.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", [{"metrics": ["accuracy"]}, {"metrics": "acc"}, {"weighted_metrics": [["accuracy"]]}])
def test_accuracy_of_one_logit_is_split_at_zero(images, kind):
    net = plain_net(units=1)
    net.layers[-1].set_weights([np.zeros_like(w) if w.ndim > 1 else w * 0 + 0.2 for w in net.layers[-1].get_weights()])
    model = esq.ErrorSilencedModel(net, objective="natural")
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", **kind)
    logs = model.evaluate(images, np.ones(12), verbose=0, return_dict=True)
    assert [value for name, value in logs.items() if "acc" in name] == [1.0]


@pytest.mark.parametrize("kind", [{"metrics": ["accuracy"]}, {"metrics": "acc"}, {"weighted_metrics": [["accuracy"]]}])
def test_one_sigmoid_unit_and_one_logit(images, kind):
    y = np.arange(12) % 2
    results = []
    for head in (None, "sigmoid"):
        net = plain_net(head, units=1)
        model = esq.ErrorSilencedModel(net, attack=PGD, seed=1, validation_attack=PGD)
        model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", **kind)
        model.fit(images, y, epochs=3, shuffle=False, verbose=0)
        results.append(model.evaluate(images, y, verbose=0, return_dict=True))
    results = [{name.replace("accuracy", "acc"): value for name, value in found.items()} for found in results]
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    assert results[0]["acc"] == pytest.approx(((net(images)[:, 0] > 0.5) == y).numpy().mean())


@pytest.mark.parametrize("head", [None, "softmax"])
@pytest.mark.parametrize(
    ("loss", "units"),
    [
        ("SparseCategoricalCrossentropy", 3),
        (["sparse_categorical_crossentropy"], 3),
        ({"output_1": "sparse_categorical_crossentropy"}, 3),
        (keras.losses.sparse_categorical_crossentropy, 3),
        (keras.losses.SparseCategoricalCrossentropy, 3),
        ("CategoricalCrossentropy", 3),
        ("categorical_focal_crossentropy", 3),
        ("CategoricalFocalCrossentropy", 3),
        ("BinaryCrossentropy", 1),
        ("bce", 1),
        ("BCE", 1),
        ("binary_focal_crossentropy", 1),
        ("mse", 3),
    ],
)
def test_a_loss_by_any_name_fits_logits_and_probabilities(images, head, loss, units):
    """Against Keras' own object, told what it gets."""
    if units == 1:
        head = head and "sigmoid"
    net = plain_net(head, units)
    (one,) = loss.values() if isinstance(loss, dict) else loss if isinstance(loss, list) else [loss]
    cls = getattr(one, "__name__", one)
    names = {"bce": "BinaryCrossentropy", "BCE": "BinaryCrossentropy", "mse": "MeanSquaredError"}
    cls = names.get(cls, "".join(w[0].upper() + w[1:] for w in cls.split("_")))
    told = {} if one == "mse" else {"from_logits": head is None}
    kind = {"SparseCategoricalCrossentropy": "ids", "MeanSquaredError": None}
    kind = kind.get(cls, "one-hot" if units == 3 else None)
    y = Y.astype(float) if kind == "ids" else np.eye(3)[Y] if units == 3 else (np.arange(12.0) % 2)[:, None]
    model = esq.ErrorSilencedModel(net, objective="natural")
    model.compile(keras.optimizers.SGD(0.0), loss)
    expected = float(getattr(keras.losses, cls)(**told)(y, net(images)))
    assert model.fit(images, y, verbose=0).history["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert model.evaluate(images, y, verbose=0) == pytest.approx(expected, rel=1e-4)
    if kind is not None:
        with pytest.raises(ValueError, match="one-hot"):
            model.evaluate(images, np.eye(3)[Y] if kind == "ids" else Y, verbose=0)


@pytest.mark.parametrize(
    ("ends", "head"),
    [
        ([layers.Dense(3, "softmax"), layers.Reshape((3,))], "softmax"),
        ([layers.Reshape((1, 1, 8)), layers.Conv2D(3, 1, activation="softmax"), layers.Flatten()], "softmax"),
        ([layers.Dense(3), layers.Softmax(), layers.Dropout(0.1), layers.Flatten()], "softmax"),
        ([layers.Dense(1, "sigmoid"), layers.Activation("linear", dtype="float64")], "sigmoid"),
        ([keras.Sequential([layers.Dense(3, "softmax"), layers.Flatten()]), layers.Reshape((3,))], "softmax"),
        ([layers.Dense(3), layers.Activation("linear")], "logits"),
        ([layers.Reshape((1, 1, 8)), layers.Conv2D(3, 1), layers.GlobalAveragePooling2D()], "logits"),
        ([layers.Dense(3, "softmax"), layers.Rescaling(2.0)], "logits"),
    ],
)
def test_the_head_before_layers_that_hand_it_on(ends, head):
    net = keras.Sequential([*plain_net().layers[:-1], *ends])
    net.build((None, 8, 8, 3))
    assert trace_head(net) == (head, net.output_shape[-1])


def test_the_loss_behind_a_softmax_that_is_not_last(images):
    net = keras.Sequential([*plain_net("softmax").layers, layers.Reshape((3,))])
    ce = keras.losses.SparseCategoricalCrossentropy()
    expected = float(ce(Y, net(images)))
    for loss in (ce, "sparse_categorical_crossentropy"):
        model = esq.ErrorSilencedModel(net, objective="natural")
        model.compile(keras.optimizers.SGD(0.0), loss)
        logs = model.fit(images, Y, validation_data=(images, Y), verbose=0).history
        assert logs["loss"] + logs["val_loss"] == pytest.approx([expected] * 2, rel=1e-5)


@pytest.mark.parametrize("objective", ["natural", "adversarial", "adversarial_pairing", "trades"])
@pytest.mark.parametrize(("head", "units"), [("softmax", 3), ("sigmoid", 1)])
def test_probabilities_that_pass_for_logits_are_refused(images, head, units, objective):
    nets = [plain_net(head, units=units) for _ in range(2)]
    x = keras.Input((8, 8, 3))
    mixture = keras.Model(x, layers.Average()([net(x) for net in nets]))
    loss = "sparse_categorical_crossentropy" if units > 1 else "binary_crossentropy"
    model = esq.ErrorSilencedModel(mixture, attack=PGD if objective != "natural" else None, objective=objective)
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=f"{head} out of sight"):
        model.fit(images, Y % max(units, 2), batch_size=6, verbose=0)


class Subclassed(keras.Model):
    def __init__(self, head=None):
        super().__init__()
        self.inside = [layers.Conv2D(8, 3, activation="relu"), layers.Flatten(), layers.Dense(3, head)]

    def call(self, x):
        for layer in self.inside:
            x = layer(x)
        return x


@pytest.mark.parametrize("how", ["input", "array", "build", "fit"])
def test_subclassed_models_train(images, how):
    net = Subclassed("softmax")
    if how == "fit":
        net.compile("sgd", "sparse_categorical_crossentropy")
        net.fit(images, Y, verbose=0)
    else:
        start = {"input": keras.Input((8, 8, 3)), "array": images[:1], "build": (None, 8, 8, 3)}[how]
        (net.build if how == "build" else net)(start)
    model = compiled(net, 0.1, validation_attack=PGD)
    logs = model.fit(images, Y, validation_data=(images, Y), epochs=2, verbose=0).history
    assert logs["loss"][1] < logs["loss"][0]
    accuracy = model.evaluate(images[:7], Y[:7], verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx((net(images[:7]).numpy().argmax(1) == Y[:7]).mean())
    for x, y, words in ((images[..., 0], Y, "hape|ndim"), (images, Y + 1, "ids"), (images, np.eye(3)[Y], "one-hot")):
        with pytest.raises(ValueError, match=words):
            model.fit(x, y, verbose=0)


@pytest.mark.parametrize("how", ["array", "build"])
@pytest.mark.parametrize("suffix", [".keras", ""])
def test_subclassed_models_come_back_from_a_file(images, tmp_path, how, suffix):
    net = Subclassed("softmax")
    net(images[:1]) if how == "array" else net.build((None, 8, 8, 3))
    model = compiled(net, 0.1)
    model.fit(images, Y, verbose=0)
    model.save(tmp_path / f"model{suffix}")
    loaded = esq.load_model(tmp_path / f"model{suffix}", custom_objects={"Subclassed": Subclassed})
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
    expected = model.fit(images, Y, verbose=0).history
    found = loaded.fit(images, Y, verbose=0).history
    assert {name: pytest.approx(value) for name, value in expected.items()} == found


def test_a_subclassed_model_that_was_never_called(images):
    net = Subclassed()
    net.built = True  # as a `build` of its own may say
    with pytest.raises(ValueError, match="Call it once on data"):
        compiled(net)
    net(images[:1])
    compiled(net).fit(images, Y, verbose=0)


def test_other_input_ranges_and_integer_images():
    x = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    net = keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), *plain_net().layers])
    attack = esq.attacks.PGD(eps=8.0, step_size=2.0, steps=3, bounds=(0.0, 255.0))
    model = compiled(net, 0.01, attack=attack, validation_attack=attack)
    history = model.fit(x, Y, validation_data=(x, Y), verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert "val_adversarial_accuracy" in history


def test_validation_attack_can_be_watched(images, tmp_path):
    model = compiled(tiny(), 0.1, validation_attack=PGD)
    name = "val_adversarial_accuracy"
    callbacks = [
        keras.callbacks.EarlyStopping(monitor=name, mode="max", patience=1),
        keras.callbacks.ModelCheckpoint(f"{tmp_path}/best.keras", monitor=name, mode="max", save_best_only=True),
    ]
    history = model.fit(images, Y, epochs=3, validation_data=(images, Y), callbacks=callbacks, verbose=0).history
    assert {"loss", "accuracy", "pairing_loss", "adversarial_accuracy", "val_loss", name} <= set(history)
    assert "val_pairing_loss" not in history
    assert "adversarial_accuracy" not in compiled(tiny()).evaluate(images, Y, verbose=0, return_dict=True)
    loaded = esq.load_model(f"{tmp_path}/best.keras")
    assert loaded.validation_attack == PGD


def test_validation_accuracy_is_that_of_the_attack(images):
    net = tiny()
    randomize(net)
    attack = esq.attacks.BIM(eps=0.1, step_size=0.03, steps=5)
    logged = compiled(net, validation_attack=attack).evaluate(images, Y, batch_size=5, verbose=0, return_dict=True)
    by_hand = (net(attack(net, images, Y)).numpy().argmax(1) == Y).mean()
    assert logged["adversarial_accuracy"] == pytest.approx(by_hand)


def test_attacks_may_be_changed_after_a_fit(images):
    """The next step and evaluation are those of a model that had the new ones from the start."""
    other = Shift(by=0.3, bounds=(-1.0, 1.0))
    x, data = images * 0.7, {"y": Y, "verbose": 0, "return_dict": True}
    changed, fresh = (compiled(plain_net(), attack=a, validation_attack=a) for a in (Shift(by=0.0), other))
    assert changed.evaluate(x, **data)["adversarial_accuracy"] == changed.evaluate(x, **data)["accuracy"]
    changed.fit(x, Y, validation_data=(x, Y), verbose=0)
    changed.attack = changed.validation_attack = other
    one, two = (model.fit(x, Y, validation_data=(x, Y), verbose=0).history for model in (changed, fresh))
    assert all(one[name] == pytest.approx(two[name], rel=1e-4) for name in two)
    assert one["pairing_loss"][0] > 0
    changed.fit(x - 0.5, Y, verbose=0)  # the new bounds
    changed.validation_attack = None
    assert "adversarial_accuracy" not in changed.evaluate(x, **data)
    changed.attack = None
    assert changed.attack == esq.attacks.PGD()
    for name in ("attack", "validation_attack"):
        with pytest.raises(TypeError, match=r"esq\.attacks"):
            setattr(changed, name, "pgd")


def test_a_callback_may_change_the_attack(images):
    model = compiled(plain_net(), attack=Shift(by=0.0))

    def change(epoch, logs):
        model.attack = Shift(by=0.1 * epoch, bounds=(0.0, 2.0))

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_begin=change)]
    losses = model.fit(images, Y, epochs=3, callbacks=callbacks, verbose=0).history["pairing_loss"]
    assert 0 == losses[0] < losses[1] < losses[2]


def test_eager_steps_compute_the_same(images):
    losses, start = [], esq.quantize_model(plain_net("softmax"), "ternary").get_weights()
    for eager in (False, True):
        net = esq.quantize_model(plain_net("softmax"), "ternary")
        net.set_weights(start)
        model = esq.ErrorSilencedModel(net, attack=PGD, pairing=esq.ActivationPairing({"conv": 0.1}), seed=0)
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=eager)
        losses.append(model.fit(images, Y, epochs=2, shuffle=False, verbose=0).history["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# Saving and repeating.


def training(seed=5, epochs=4, initial_epoch=0, model=None, images=None):
    if model is None:
        keras.utils.set_random_seed(seed)
        low_bit = esq.quantize_model(tiny(), "ternary")
        model = esq.ErrorSilencedModel(low_bit, attack=PGD)
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    callbacks = [esq.QuantizationRatio({0: 0.25, 1: 0.5, 2: 0.75, 3: 1.0})]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The schedule ends")
        model.fit(images, Y, 5, epochs, 0, callbacks, initial_epoch=initial_epoch, shuffle=False)
    return model


def same_weights(a, b):
    states = ([*model.network.get_weights(), model.random_state.numpy()] for model in (a, b))
    return all(np.array_equal(v, w) for v, w in zip(*states, strict=True))


def test_same_seed_same_weights(images):
    assert same_weights(training(images=images), training(images=images))
    assert not same_weights(training(images=images), training(seed=6, images=images))


@pytest.mark.parametrize("suffix", [".keras", ""])
def test_a_saved_training_continues_to_the_same_weights(images, tmp_path, suffix):
    whole = training(images=images)
    half = training(images=images, epochs=2)
    half.save(f"{tmp_path}/half{suffix}")
    loaded = esq.load_model(f"{tmp_path}/half{suffix}")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), half.predict(images, verbose=0))
    assert isinstance(loaded, esq.ErrorSilencedModel)
    assert same_weights(half, loaded)
    if suffix == "":  # tf-keras restores no optimizer state from a SavedModel, of plain models neither
        loaded.optimizer.build(loaded.trainable_variables)
        loaded.optimizer.set_weights([w.numpy() for w in half.optimizer.variables])
    assert same_weights(whole, training(model=loaded, initial_epoch=2, images=images))


def test_config_round_trip():
    pairing = [esq.LogitPairing(0.1, "l1"), esq.ActivationPairing({"conv": 0.2, "logits": 0.1})]
    model = esq.ErrorSilencedModel(tiny(), attack=PGD, pairing=pairing, validation_attack=esq.attacks.FGSM(), seed=4)
    copy = esq.ErrorSilencedModel.from_config(model.get_config())
    assert (copy.attack, copy.validation_attack, copy.seed) == (PGD, esq.attacks.FGSM(), 4)
    assert list(copy.pairing) == pairing


@pytest.mark.parametrize("through", ["arrays", "dataset"])
def test_smoothed_labels_of_one_unit(images, through):
    """The loss takes them as they are, the attack and the adversarial accuracy by the nearest class."""
    hard = (np.arange(12) % 2).astype(np.float32)[:, None]
    net, logged = plain_net("sigmoid", units=1), []
    for y in (hard, 0.1 + 0.8 * hard):
        data = (images, y)
        if through == "dataset":
            data = (tf.data.Dataset.from_tensor_slices(data).batch(12),)
        model = esq.ErrorSilencedModel(net, objective="adversarial", attack=PGD, validation_attack=PGD, seed=1)
        model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
        history = model.fit(*data, verbose=0).history["adversarial_accuracy"][0]
        logged.append((history, model.evaluate(*data, verbose=0, return_dict=True)))
    assert logged[0][0] == logged[1][0] > 0
    assert logged[0][1]["adversarial_accuracy"] == logged[1][1]["adversarial_accuracy"] > 0
    p = net(images).numpy()
    assert logged[1][1]["loss"] == pytest.approx(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)), rel=1e-4)


@pytest.mark.parametrize("known", ["rank", "nothing"])
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("units", [1, 3])
def test_batches_that_do_not_tell_their_shape(images, units, one_hot, known):
    """Labels (n, 1) of Python generators, of which Keras knows the rank alone, are ids and not rows of one class."""
    y = (Y % max(units, 2))[:, None]
    if one_hot:
        y = np.eye(units)[y[:, 0]] if units > 1 else 0.2 + 0.6 * y
    if units == 1:
        loss = "binary_crossentropy"
    else:
        loss = "categorical_crossentropy" if one_hot else "sparse_categorical_crossentropy"
    model = esq.ErrorSilencedModel(plain_net(units=units), objective="adversarial", attack=PGD, seed=1)
    model.compile(keras.optimizers.SGD(0.0), loss)
    expected = model.fit(images, y, shuffle=False, verbose=0).history
    model.random_state.assign([1, 0])
    if known == "rank":
        data = ((images, y) for _ in range(1))
    else:
        y = y if one_hot or units == 1 else y[:, 0]  # ids (n, 1) of no known rank are too much for Keras' loss
        data = tf.data.Dataset.from_generator(lambda: iter([(images, y)]), output_types=(tf.float32, tf.float32))
    found = model.fit(data, steps_per_epoch=1, verbose=0).history
    assert {name: pytest.approx(value) for name, value in expected.items()} == found


# Bad input.


def nan_images(x):
    x = x.copy()
    x[3, 0, 0, 0] = np.nan
    return x


@pytest.mark.parametrize("through", ["arrays", "dataset", "generator"])
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (nan_images, Y, "NaN"),
        (lambda x: x * 255, Y, "bounds"),
        (lambda x: x - 1, Y, "bounds"),
        (lambda x: x, Y + 1, "Received"),
        (lambda x: x, Y - 1, "Received"),
        (lambda x: x, np.eye(3)[Y], r"one-hot|shape \(n, 1\)"),
        (lambda x: x, Y + 0.5, "class ids"),
        (lambda x: x, np.where(Y == 1, np.nan, Y), "class ids"),
    ],
)
def test_bad_data_is_refused(images, x, y, words, through):
    model = compiled(tiny())
    data = (x(images), y)
    if through == "dataset":
        data = (tf.data.Dataset.from_tensor_slices(data).batch(6),)
    for call in (model.fit, model.evaluate):
        given = (iter([data]),) if through == "generator" else data
        with pytest.raises((ValueError, TypeError), match=words):
            call(*given, verbose=0)


@pytest.mark.parametrize("y", [np.linspace(0, 1.1, 12), np.where(Y == 1, np.nan, 0), Y * 1.0, Y - 1])
@pytest.mark.parametrize("through", ["arrays", "dataset"])
def test_bad_labels_of_one_unit_are_refused(images, y, through):
    model = esq.ErrorSilencedModel(plain_net(units=1), objective="natural")
    model.compile("sgd", "binary_crossentropy")
    data = (tf.data.Dataset.from_tensor_slices((images, y)).batch(12),) if through == "dataset" else (images, y)
    with pytest.raises((ValueError, TypeError), match="ids"):
        model.fit(*data, verbose=0)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (lambda x: x[:0], Y[:0], "at least one"),
        (lambda x: x[0], Y, "shape"),
        (lambda x: x[..., :2], Y, "shape"),
        (lambda x: x, Y[:5], "one label per image"),
        (lambda x: x, None, "labels"),
    ],
)
def test_bad_arrays_are_refused(images, x, y, words):
    with pytest.raises((ValueError, TypeError), match=words):
        compiled(tiny()).fit(x(images), y, verbose=0)


def own_loss(y, outputs, from_logits=False):
    return keras.losses.sparse_categorical_crossentropy(y, outputs, from_logits=from_logits)


def recurrent():
    x = keras.Input((8, 3))
    output, _, _ = layers.LSTM(4, return_state=True, name="lstm")(x)
    return keras.Model(x, layers.Dense(3)(output))


def test_ids_where_one_hot_is_expected(images):
    model = esq.ErrorSilencedModel(tiny(), attack=PGD)
    model.compile("sgd", "categorical_crossentropy")
    with pytest.raises(ValueError, match="one-hot"):
        model.fit(images, Y, verbose=0)
    assert np.isfinite(model.fit(images, np.eye(3)[Y], verbose=0).history["loss"][0])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: esq.ErrorSilencedModel("net"), TypeError, "tf_keras.Model"),
        (lambda: esq.ErrorSilencedModel(esq.ErrorSilencedModel(tiny())), TypeError, "network"),
        (lambda: esq.ErrorSilencedModel(keras.Sequential([layers.Dense(2)])), ValueError, "built"),
        (lambda: esq.ErrorSilencedModel(tiny(), objective="pairng"), ValueError, "pairing"),
        (lambda: esq.ErrorSilencedModel(tiny(), attack="pgd"), TypeError, "esq.attacks"),
        (lambda: esq.ErrorSilencedModel(tiny(), attack=esq.attacks.PGD(targeted=True)), ValueError, "untargeted"),
        (lambda: esq.ErrorSilencedModel(tiny(), pairing=0.5), TypeError, "LogitPairing"),
        (lambda: esq.ErrorSilencedModel(tiny(), pairing=[]), TypeError, "at least one"),
        (lambda: esq.ErrorSilencedModel(tiny(), pairing=esq.ActivationPairing({"cnov": 1})), ValueError, "conv"),
        (
            lambda: esq.ErrorSilencedModel(tiny(), objective="natural", pairing=esq.LogitPairing()),
            ValueError,
            "does not pair",
        ),
        (lambda: esq.LogitPairing(-1.0), ValueError, "weight"),
        (lambda: esq.LogitPairing(0.1, "l3"), ValueError, "l2"),
        (lambda: esq.ErrorSilencedModel(recurrent(), pairing=esq.ActivationPairing({"lstm": 1})), ValueError, "has 3"),
        (lambda: esq.ActivationPairing({}), TypeError, "at least one"),
        (lambda: esq.ActivationPairing({"conv": float("nan")}), ValueError, "weight"),
        (
            lambda: esq.ErrorSilencedModel(tiny()).compile("sgd", keras.losses.SparseCategoricalCrossentropy()),
            ValueError,
            "from_logits=True",
        ),
        (
            lambda: esq.ErrorSilencedModel(tiny()).compile("sgd", own_loss),
            ValueError,
            r"from_logits=True.*own_loss\(from_logits=False\)",
        ),
        (lambda: esq.ErrorSilencedModel(tiny()).compile("sgd", "crossentropie"), ValueError, "crossentropie"),
        (lambda: esq.ErrorSilencedModel(tiny()).compile("sgd", "kld"), ValueError, "KLDivergence.*probabilities only"),
        (lambda: esq.ErrorSilencedModel(tiny()).compile("sgd", keras.losses.Poisson()), ValueError, "Poisson"),
    ],
)
def test_wrong_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()
