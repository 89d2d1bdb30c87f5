"""What a training may have besides its objective: free and fast training, warm-up, averages, a regularizer."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf
from nets import layers, randomize, tiny
from trainings import PGD, Brighter, N, Y, ce_tf, compiled, fit, low_bit_training, net, same, small

import keras_esq as esq
from keras_esq import training
from keras_esq._keras import keras
from keras_esq.attacks import logits_fn
from keras_esq.attacks.logits import logits_of
from keras_esq.quantize import set_ratio
from keras_esq.training.attack_twin import AttackTwin


@pytest.fixture
def images():
    return np.random.default_rng(0).random((12, 8, 8, 3), dtype=np.float32) * 0.7


# Free and fast adversarial training.


def test_free_training_is_its_loop(images):
    """Two replays, each one gradient for weights and perturbation, computed by hand."""
    network, twin = net(), net()
    attack = esq.attacks.PGD(eps=0.1)
    model = compiled(network, training.Free(replays=2), 0.1, attack=attack, seed=4)
    logs = model.train_on_batch(images, Y, return_dict=True)
    seed = tf.random.experimental.stateless_fold_in(tf.constant([4, 0]), 1)
    offset = tf.random.stateless_uniform(images.shape, seed, -0.1, 0.1)
    x_adv, losses = tf.clip_by_value(images + offset, 0, 1), []
    for _ in range(2):
        with tf.GradientTape() as tape:
            tape.watch(x_adv)
            losses.append(ce_tf(twin(x_adv), tf.one_hot(Y, 3)))
        *gradients, gradient = tape.gradient(losses[-1], [*twin.trainable_weights, x_adv])
        for w, g in zip(twin.trainable_weights, gradients, strict=True):
            w.assign_sub(0.1 * g)
        x_adv = tf.clip_by_value(x_adv + 0.1 * tf.sign(gradient), images - np.float32(0.1), images + np.float32(0.1))
        x_adv = tf.clip_by_value(x_adv, 0, 1)
    assert logs["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert int(model.optimizer.iterations) == 2
    for one, other in zip(network.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("scaled", [False, True])
def test_free_training_with_a_legacy_optimizer(images, scaled):
    weights = []
    for make in (keras.optimizers.SGD, keras.optimizers.legacy.SGD):
        model = compiled(net(), training.Free(replays=2), attack=PGD, seed=4)
        optimizer = make(0.1, momentum=0.9, clipnorm=0.5)
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer) if scaled else optimizer
        model.compile(optimizer, "sparse_categorical_crossentropy")
        model.fit(images, Y, batch_size=5, verbose=0)
        weights.append(model.network.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_free_training_of_a_low_bit_network(digits, tmp_path):
    model = low_bit_training(training.Free(replays=3))
    history = fit(model, digits, 2)
    assert set(history) == {"loss", "accuracy", "adversarial_accuracy", "ratio"}
    assert history["loss"][1] < history["loss"][0]
    assert int(model.optimizer.iterations) == 3 * 2 * 2
    model.save(tmp_path / "model.keras")
    assert esq.load_model(tmp_path / "model.keras").objective == training.Free(replays=3)
    model.objective = "free"
    model.attack = Brighter()
    with pytest.raises(ValueError, match="eps ball"):
        fit(model, digits, 3, initial_epoch=2)


def test_fast_training_attack_is_fgsm_from_a_random_start(images):
    network, seed = net(), tf.constant([3, 4])
    attack = esq.attacks.fast_fgsm(0.1)
    found = tf.function(lambda: attack.perturb(network, images, Y, seed=seed))()
    uniform = tf.random.stateless_uniform(images.shape, tf.random.fold_in(seed, 0), -0.1, 0.1)
    delta = np.clip(images + uniform, 0, 1) - images
    with tf.GradientTape() as tape:
        x = tf.constant(images + delta)
        tape.watch(x)
        loss = ce_tf(network(x), tf.one_hot(Y, 3))
    delta = np.clip(delta + 0.125 * np.sign(tape.gradient(loss, x)), -0.1, 0.1)
    np.testing.assert_allclose(found, np.clip(images + delta, 0, 1), atol=1e-6)
    assert esq.attacks.fast_fgsm(0.1, step_size=0.1, seed=3).step_size == 0.1


# Warm-up, averages.


def test_warm_up_ramps_without_a_new_trace(images):
    eps = tf.Variable(0.1)
    attack = esq.attacks.PGD(eps=eps, step_size=0.2, steps=1)
    traces, seen = [], []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Counted(training.Trades):
        def loss(self, step, x_adv):
            traces.append(1)
            return super().loss(step, x_adv)

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((float(self.model.regularizer_factor), float(eps), logs["pairing_loss"], len(traces)))

    def fit(first, last):
        model = compiled(net(), Counted(beta=3.0), attack=attack, seed=3)
        callbacks = [training.WarmUp(3, eps=0.1), Note()]
        model.fit(images, Y, epochs=last, initial_epoch=first, verbose=0, callbacks=callbacks, batch_size=12)
        return model

    model = fit(0, 5)
    assert len({s[3] for s in seen}) == 1
    assert [s[0] for s in seen] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert [s[1] for s in seen] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert seen[0][2] < 0.2 * seen[4][2]
    fit(2, 3)
    assert seen[-1][:2] == pytest.approx((0.75, 0.075))
    assert (float(model.regularizer_factor), float(eps)) == pytest.approx((1.0, 0.1))
    model.regularizer_factor.assign(0.5)  # as an interrupted training leaves it
    full = model.fit(images, Y, verbose=0, batch_size=12).history["pairing_loss"]
    assert full == pytest.approx([seen[4][2]], rel=0.3)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: training.WarmUp(0), ValueError, "epochs"),
        (lambda: training.WarmUp(2, regularizer=False), ValueError, "nothing would grow"),
        (lambda: (compiled(net(), "trades"), training.WarmUp(2, eps=0.1)), ValueError, "tf.Variable"),
        (lambda: (compiled(net(), "natural"), training.WarmUp(2)), ValueError, "regularizer"),
        (lambda: (plain_compiled("sgd"), training.WarmUp(2)), TypeError, "ErrorSilencedModel"),
        (lambda: (plain_compiled("sgd"), training.WeightAverage()), ValueError, "use_ema=True"),
        (lambda: training.WeightAverage(np.full((2, 8, 8, 3), np.nan)), ValueError, "NaN"),
        (lambda: training.reestimate_batchnorm(tiny(), np.zeros((2, 8, 8, 1))), ValueError, "shape"),
        (lambda: training.reestimate_batchnorm(tiny(), np.zeros((2, 8, 8, 3)), y=[0, 1]), TypeError, "ErrorSilenced"),
        (
            lambda: training.reestimate_batchnorm(esq.ErrorSilencedModel(tiny()), np.zeros((2, 8, 8, 3)), y=[0, 1]),
            ValueError,
            "compile first",
        ),
        (
            lambda: training.reestimate_batchnorm(compiled(tiny(), "natural"), np.zeros((2, 8, 8, 3)), y=[0]),
            ValueError,
            "one label per image",
        ),
        (lambda: training.reestimate_batchnorm("net", np.zeros((2, 8, 8, 1))), TypeError, "tf_keras.Model"),
    ],
)
def test_wrong_callbacks(images, make, error, words):
    def run():
        model, callback = make()
        model.fit(images, Y, verbose=0, callbacks=[callback])

    with pytest.raises(error, match=words):
        run()


def plain_compiled(optimizer):
    model = net("softmax")
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize(("bits", "tolerance"), [(None, 1e-4), (8, 0.05)])
def test_batchnorm_statistics_are_means_over_the_batches(images, bits, tolerance):
    """One layer deep, against numpy; nothing else changes, and every filter is quantized."""
    low_bit = esq.quantize_model(tiny(), "ternary", activation_bits=bits)
    model = compiled(low_bit, "natural", 0.1)
    esq.quantize.set_ratio(low_bit, 0.5)
    model.fit(images, Y, verbose=0)
    norm = next(m for m in low_bit.submodules if isinstance(m, keras.layers.BatchNormalization))
    before = {w.name: w.numpy() for w in low_bit.weights}
    momentum = norm.momentum
    training.reestimate_batchnorm(model, images, batch_size=5)
    conv = keras.Model(low_bit.inputs, low_bit.get_layer("conv").output)
    means, variances = [], []
    for start in (0, 5, 10):
        out = conv(images[start : start + 5]).numpy().astype(np.float64)
        count = out.size // out.shape[-1]
        means.append(out.mean((0, 1, 2)))
        variances.append(out.var((0, 1, 2)) * count / (count - 1))  # Keras estimates without bias
    share = [5 / 12, 5 / 12, 2 / 12]
    np.testing.assert_allclose(norm.moving_mean, np.average(means, 0, share), atol=tolerance / 2)
    np.testing.assert_allclose(norm.moving_variance, np.average(variances, 0, share), rtol=tolerance)
    changed = {w.name for w in low_bit.weights if not np.array_equal(w, before[w.name])}
    assert changed == {norm.moving_mean.name, norm.moving_variance.name}
    assert norm.momentum == momentum
    training.reestimate_batchnorm(net(), images)  # has none


@pytest.mark.parametrize("objective", ["natural", "adversarial", "pairing"])
def test_batchnorm_statistics_of_a_training_step(images, objective):
    """With labels: of what the objective passes on, x, x_adv or both, against numpy; nothing else changes."""
    low_bit = esq.quantize_model(tiny(), "ternary")
    attack = esq.attacks.FGSM(eps=0.2)
    model = compiled(low_bit, objective, 0.1, attack=None if objective == "natural" else attack)
    model.fit(images, Y, verbose=0)
    esq.quantize.set_ratio(low_bit, 0.5)
    norm = next(m for m in low_bit.submodules if isinstance(m, keras.layers.BatchNormalization))
    # The cache of a model that was attacked must not be in the way.
    x_adv = attack(low_bit, images, Y)
    passed = {"natural": [images], "adversarial": [x_adv], "pairing": [images, x_adv]}[objective]
    before = {w.name: w.numpy() for w in low_bit.weights}
    iterations = int(model.optimizer.iterations)
    training.reestimate_batchnorm(model, images, y=Y)
    conv = keras.Model(low_bit.inputs, low_bit.get_layer("conv").output)
    out = conv(np.concatenate(passed)).numpy().astype(np.float64)
    count = out.size // out.shape[-1]
    np.testing.assert_allclose(norm.moving_mean, out.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, out.var((0, 1, 2)) * count / (count - 1), rtol=1e-3)
    changed = {w.name for w in low_bit.weights if not np.array_equal(w, before[w.name])}
    assert changed == {norm.moving_mean.name, norm.moving_variance.name}
    assert int(model.optimizer.iterations) == iterations


@pytest.mark.parametrize("kind", [layers.BatchNormalization, esq.L1BatchNormalization])
def test_batchnorm_statistics_of_a_layer_that_is_used_twice(images, kind):
    """The mean over its calls, to which a training comes with them, and not those of the last one."""
    norm, x = kind(momentum=0.98), keras.Input((8, 8, 3))
    y = norm(layers.Lambda(lambda x: 5 * x + 2)(norm(x)))
    model = compiled(keras.Model(x, layers.Dense(3)(layers.Flatten()(y))), "adversarial", attack=PGD)
    training.reestimate_batchnorm(model, images, y=Y)
    found = [norm.moving_mean.numpy(), norm.moving_variance.numpy()]
    assert norm.momentum == 0.98
    assert "call" not in vars(norm)
    model.fit(images, Y, epochs=400, verbose=0)
    np.testing.assert_allclose(found[0], norm.moving_mean, rtol=0.03)
    np.testing.assert_allclose(found[1], norm.moving_variance, rtol=0.05)


class Watch(keras.callbacks.Callback):
    """The weights after each step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append([w.numpy() for w in self.model.trainable_weights])


def averaged(digits, epochs, folder=None):
    low_bit = esq.quantize_model(small(3, seed=3), "ternary")
    model = esq.ErrorSilencedModel(low_bit, objective="natural", seed=7)
    optimizer = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.8)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    start = [w.numpy() for w in model.trainable_weights]
    x, y = digits.x_train[:N], digits.y_train[:N]
    watch, first, callbacks = Watch(), 0, []
    if folder:
        backup = training.Backup(folder)
        first, callbacks = backup.restore(model), [backup]
    callbacks = [training.WeightAverage(x), esq.QuantizationRatio("full"), watch, *callbacks]
    options = {"epochs": epochs, "initial_epoch": first, "batch_size": 48, "verbose": 0}
    history = model.fit(x, y, validation_data=(x, y), callbacks=callbacks, **options).history
    return model, [start, *watch.steps], history


def test_weight_average(digits, tmp_path):
    """The latent weights' average, validated and kept; a stopped training goes on to the same one."""
    model, steps, history = averaged(digits, 2)
    average = steps[0]
    for step in steps[1:]:
        average = [0.8 * a + 0.2 * w for a, w in zip(average, step, strict=True)]
    assert len(steps) == 5
    for found, expected in zip(model.trainable_weights, average, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert max(np.abs(a - b).max() for a, b in zip(average, steps[-1], strict=True)) > 1e-4
    x, y = digits.x_train[:N], digits.y_train[:N]
    assert history["val_loss"][-1] == pytest.approx(model.evaluate(x, y, verbose=0)[0], rel=1e-5)
    averaged(digits, 1, tmp_path)
    resumed, _, _ = averaged(digits, 2, tmp_path)
    assert same(model, resumed)


def test_weight_average_with_a_scaled_loss(images):
    network = net()
    model = compiled(network, "natural")
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    model.compile(keras.mixed_precision.LossScaleOptimizer(optimizer), "sparse_categorical_crossentropy")
    watch, start = Watch(), [w.numpy() for w in network.trainable_weights]
    model.fit(images, Y, validation_data=(images, Y), callbacks=[training.WeightAverage(images), watch], verbose=0)
    for found, first, last in zip(network.trainable_weights, start, watch.steps[-1], strict=True):
        np.testing.assert_allclose(found, (first + last) / 2, atol=1e-6)


def test_the_best_epoch_of_an_average_is_the_average(digits, tmp_path):
    """An experiment's `restore_best` keeps the weights that were validated, not those that are trained."""
    from keras_esq.experiment.train import Best

    low_bit = esq.quantize_model(small(3, seed=3), "ternary")
    attack = esq.attacks.FGSM(eps=0.1)
    model = esq.ErrorSilencedModel(low_bit, attack=attack, objective="adversarial", validation_attack=attack, seed=7)
    model.compile(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.8), "sparse_categorical_crossentropy")
    x, y = digits.x_train[:N], digits.y_train[:N]
    best = Best(tmp_path / "best.npz", "val_adversarial_accuracy")
    average = training.WeightAverage(x, y, batch_size=N)
    options = {"epochs": 3, "batch_size": 24, "verbose": 0, "callbacks": [best, average, esq.QuantizationRatio("full")]}
    history = model.fit(x, y, validation_data=(x, y), **options).history
    found = model.evaluate(x, y, verbose=0, return_dict=True)["adversarial_accuracy"]
    assert found == pytest.approx(max(history["val_adversarial_accuracy"]), abs=1.5 / N)


@pytest.mark.parametrize(("figure", "start", "epoch"), [("up", 0, 0), ("up", 1, 2), ("loss", 0, 1), ("loss", 3, 4)])
def test_the_best_epoch_is_chosen_from_the_start_on(tmp_path, figure, start, epoch):
    """Of those from `start`, the first of equals; what an epoch has for weights is its number."""
    from keras_esq.experiment.train import Best

    network = small(2, seed=0)
    best = Best(tmp_path / "best.npz", figure, start)
    best.set_model(types.SimpleNamespace(network=network))
    for number, (up, loss) in enumerate([(0.9, 3.0), (0.5, 1.0), (0.7, 1.0), (0.7, 2.5), (0.6, 2.0)]):
        network.set_weights([np.full_like(w, number) for w in network.get_weights()])
        best.on_test_end()
        best.on_epoch_end(number, {"up": up, "loss": loss})
    best.on_train_end()
    assert {float(w.max()) for w in network.get_weights()} == {epoch}


# The Lipschitz regularizer.


def numpy_orthogonality(kernel):
    """Of a kernel with its filters on the last axis."""
    w = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
    gram = w.T @ w if w.shape[1] <= w.shape[0] else w @ w.T
    return ((gram - np.eye(len(gram))) ** 2).sum()


def test_orthogonality_is_the_formula(images):
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
            layers.Conv2DTranspose(5, 3, name="transposed"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(7, name="wide"),
        ]
    )
    randomize(network)
    low_bit = esq.quantize_model(network, "ternary")
    kernels = {layer.name: np.asarray(layer.get_weights()[0]) for layer in esq.strip(low_bit).layers if layer.weights}
    conv, depthwise, transposed, wide = (kernels[name] for name in ("conv", "depthwise", "transposed", "wide"))
    expected = numpy_orthogonality(conv) + numpy_orthogonality(wide)
    expected += sum(numpy_orthogonality(depthwise[:, :, channel]) for channel in range(4))
    expected += numpy_orthogonality(np.moveaxis(transposed, 2, 3))
    y = np.arange(12) % 7
    assert float(training.Orthogonality(0.02).of_network(low_bit)) == pytest.approx(0.01 * expected, rel=1e-4)
    logs = []
    for regularizer in (None, training.Orthogonality(0.02)):
        model = compiled(low_bit, "trades", seed=1, regularizer=regularizer)
        logs.append(model.train_on_batch(images, y, return_dict=True)["loss"])
    assert logs[1] - logs[0] == pytest.approx(0.01 * expected, rel=1e-3)


def test_orthogonality_reaches_the_latent_weights(images, digits, tmp_path):
    orthogonal = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))[0][:, :4].astype(np.float32)
    regularizer = training.Orthogonality(beta=2.0)
    assert float(regularizer(orthogonal)) == pytest.approx(0, abs=1e-10)
    assert float(regularizer(orthogonal.T)) == pytest.approx(0, abs=1e-10)
    assert float(regularizer(2 * orthogonal)) == pytest.approx(4 * 9, rel=1e-5)
    low_bit = esq.quantize_model(small(3, seed=3), "binary")
    model = esq.ErrorSilencedModel(low_bit, objective="natural", regularizer=training.Orthogonality(0.5))
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    before = float(model.regularizer.of_network(low_bit))
    fit(model, digits, 4)
    assert float(model.regularizer.of_network(low_bit)) < 0.7 * before
    model.save(tmp_path / "model.keras")
    loaded = esq.load_model(tmp_path / "model.keras")
    assert loaded.regularizer.beta == 0.5
    batch = digits.x_val[:9], digits.y_val[:9]
    assert loaded.evaluate(*batch, verbose=0) == pytest.approx(model.evaluate(*batch, verbose=0), rel=1e-5)
    with pytest.raises(TypeError, match="Orthogonality"):
        esq.ErrorSilencedModel(low_bit, regularizer="l2")
    with pytest.raises(ValueError, match="kernel_regularizer"):
        esq.ErrorSilencedModel(tiny(), regularizer=regularizer)
    with pytest.raises(ValueError, match="beta"):
        training.Orthogonality(-1)
    layer = layers.Dense.from_config(layers.Dense(3, kernel_regularizer=regularizer).get_config())
    assert layer.kernel_regularizer.beta == 2.0


# attack_dtype.


def test_the_twin_normalizes_by_what_was_adapted(images):
    normalization, x = layers.Normalization(), keras.Input((8, 8, 3))
    normalization.adapt(3 * images + 5)
    network = keras.Model(x, layers.Dense(3)(layers.Flatten()(normalization(x))))
    twin = AttackTwin(network, "bfloat16").renewed()
    np.testing.assert_allclose(twin(images), network(images), rtol=0.02, atol=0.05)
    compiled(network, "adversarial", attack=PGD, attack_dtype="bfloat16").fit(images, Y, verbose=0)


def with_everything():
    image = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(8, 3, use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization(scale=False)(x))
    y = layers.BatchNormalization(axis=-1, center=False)(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.Add()([x, esq.L1BatchNormalization()(y)]) * 0.5
    x = layers.BatchNormalization(axis=1)(layers.DepthwiseConv2D(3)(x))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))
    randomize(model)
    return model


@pytest.mark.parametrize("weights", [None, "binary"])
def test_the_twin_computes_what_the_network_does(weights, images):
    network = with_everything()
    if weights:
        network = esq.quantize_model(network, weights)
    twin, logits = AttackTwin(network, "bfloat16"), logits_fn(network)
    for _ in range(2):
        expected = logits(tf.constant(images)).numpy()
        got = logits_fn(twin.renewed())(tf.constant(images)).numpy()
        np.testing.assert_allclose(got, expected, atol=0.05 * np.abs(expected).max())
        assert np.abs(got - expected).max() > 0  # it is the narrower type
        randomize(network, 1)  # as a training step changes it


def test_attacks_are_made_against_the_twin(images, tmp_path):
    results = {}
    for dtype in (None, "bfloat16"):
        model = compiled(esq.quantize_model(net(), "ternary"), "pairing", 0.1, PGD, seed=0, attack_dtype=dtype)
        results[dtype] = model.fit(images, Y, epochs=2, batch_size=12, verbose=0).history
    assert len(model.weights) == len(compiled(esq.quantize_model(net(), "ternary"), "pairing").weights)
    assert results["bfloat16"]["loss"] == pytest.approx(results[None]["loss"], rel=0.05)
    assert results["bfloat16"]["pairing_loss"] != results[None]["pairing_loss"]  # it was the twin that was attacked
    assert results["bfloat16"]["pairing_loss"][0] > 0.5 * results[None]["pairing_loss"][0] > 0
    model.save(tmp_path / "m.keras")
    again = esq.load_model(tmp_path / "m.keras")
    assert again.attack_dtype == "bfloat16"
    again.fit(images, Y, verbose=0)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("weights", [None, "binary"])
def test_statistics_of_the_batch_are_those_of_the_update(weights, dtype, images):
    """As the network in training mode, which the attack leaves as it was."""
    network = with_everything()
    if weights:
        network = esq.quantize_model(network, weights)
    twin = AttackTwin(network, dtype, "batch")
    for seed in range(2):
        if weights:
            set_ratio(network, 1.0)
        before = network.get_weights()
        got = logits_fn(twin.renewed())(tf.constant(images)).numpy()
        for one, other in zip(before, network.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        expected = tf.function(lambda: logits_of(network(images, training=True)))().numpy()
        np.testing.assert_allclose(got, expected, atol=(0.05 if dtype else 1e-4) * np.abs(expected).max())
        randomize(network, seed)


def test_frozen_statistics_stay_under_attack(images):
    network = with_everything()
    network.trainable = False
    twin, logits = AttackTwin(network, None, "batch"), logits_fn(network)
    np.testing.assert_allclose(logits_fn(twin.renewed())(images), logits(tf.constant(images)), atol=1e-5)


def test_the_attack_takes_the_statistics_it_is_told(images, tmp_path):
    found, float_net = {}, esq.models.small_cnn((8, 8, 3), 3, width=2)
    for statistics in ("moving", "batch"):
        network = esq.quantize_model(float_net, "ternary")
        model = compiled(network, "adversarial", 0.1, PGD, seed=0, attack_statistics=statistics)
        weights = len(model.weights)
        model.fit(images, Y, batch_size=12, verbose=0, shuffle=False)
        assert len(model.weights) == weights
        found[statistics] = network.get_weights()
    assert not all(np.array_equal(a, b) for a, b in zip(found["moving"], found["batch"], strict=True))
    model.save(tmp_path / "m.keras")
    assert esq.load_model(tmp_path / "m.keras", compile=False).attack_statistics == "batch"


def test_bad_attack_settings():
    with pytest.raises(ValueError, match="bfloat16"):
        esq.ErrorSilencedModel(net(), attack_dtype="float16")
    with pytest.raises(ValueError, match="batch"):
        esq.ErrorSilencedModel(net(), attack_statistics="bacth")

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(3)

        def call(self, x):
            return self.head(tf.reshape(x, (-1, 192)))

    own = Own()
    own.build((None, 8, 8, 3))
    with pytest.raises(ValueError, match="drop attack_dtype"):
        esq.ErrorSilencedModel(own, attack_dtype="bfloat16")


def test_weight_perturbation_of_a_float_network_is_its_formula(images):
    network, twin = net(), net()
    perturbation = training.WeightPerturbation(0.2)
    model = compiled(network, "natural", 0.1, weight_perturbation=perturbation)
    model.train_on_batch(images, Y)

    def gradients():
        with tf.GradientTape() as tape:
            loss = ce_tf(twin(images), tf.one_hot(Y, 3))
        return tape.gradient(loss, twin.trainable_weights)

    before = twin.get_weights()
    for w, g in zip(twin.trainable_weights, gradients(), strict=True):
        if w.shape.rank > 1:
            w.assign_add(0.2 * np.linalg.norm(w) / np.linalg.norm(g) * g)
    wanted = [w - 0.1 * g for w, g in zip(before, gradients(), strict=True)]
    assert max(np.abs(w - v).max() for w, v in zip(before, twin.get_weights(), strict=True)) > 0.01
    for one, other in zip(network.get_weights(), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)


def test_weight_perturbation_leaves_constraints_and_averages_alone(images):
    """They are about the weights themselves, not about their neighbours."""
    perturbation = training.WeightPerturbation(0.2)
    network = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3, kernel_constraint="non_neg")])
    model = compiled(network, "natural", 0.5, weight_perturbation=perturbation)
    model.fit(images, Y, batch_size=4, verbose=0)
    assert network.get_weights()[0].min() == 0
    model.compile(keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.5), "sparse_categorical_crossentropy")
    before = network.get_weights()
    model.fit(images, Y, batch_size=4, verbose=0)
    for one, other in zip(network.get_weights(), before, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_weight_perturbation_moves_what_a_low_bit_network_multiplies_with():
    """One layer without biases: the gradient at q(w) + v, with v along the gradient at q(w), updates w."""
    x = np.random.default_rng(0).random((len(Y), 5), dtype=np.float32)
    network = keras.Sequential([keras.Input((5,)), layers.Dense(3, use_bias=False, name="logits")])
    randomize(network)
    low_bit = esq.quantize_model(network, "ternary")
    model = compiled(low_bit, "natural", 0.5, weight_perturbation=training.WeightPerturbation(0.3))
    model.train_on_batch(x, Y)
    w = network.get_weights()[0].astype(np.float64)
    q = np.asarray(esq.strip(esq.quantize_model(network, "ternary")).get_weights()[0]).astype(np.float64)

    def gradient(kernel):
        logits = x @ kernel
        p = np.exp(logits - logits.max(1, keepdims=True))
        return x.T @ (p / p.sum(1, keepdims=True) - np.eye(3)[Y]) / len(x)

    g = gradient(q)
    moved = q + 0.3 * np.linalg.norm(q) / np.linalg.norm(g) * g
    (latent,) = low_bit.trainable_variables
    np.testing.assert_allclose(latent, w - 0.5 * gradient(moved), atol=1e-5)
    assert np.abs(gradient(moved) - g).max() > 1e-3


def test_weight_perturbation_is_kept(images, tmp_path):
    low_bit = esq.quantize_model(net(), "binary")
    model = compiled(low_bit, "trades", 0.1, attack=PGD, weight_perturbation=training.WeightPerturbation(0.1))
    model.fit(images, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    assert esq.load_model(tmp_path / "model.keras").weight_perturbation.gamma == 0.1
    with pytest.raises(ValueError, match="weight_perturbation"):
        model.objective = "free"


@pytest.mark.parametrize("given", [0.1, "awp"])
def test_unusable_weight_perturbations(given):
    with pytest.raises(TypeError, match="WeightPerturbation"):
        esq.ErrorSilencedModel(net(), weight_perturbation=given)
    with pytest.raises(ValueError, match="gamma"):
        training.WeightPerturbation(0.0)


def test_learning_rate_restarts_with_each_ratio():
    rate = training.CosineStages.of_ratio(0.2, {0: 0.5, 2: 0.75, 3: 1.0}, epochs=5, steps_per_epoch=10)
    assert rate.stages == [20, 30, 50]
    # A whole cosine for each, as Keras' own has it.
    own = [keras.optimizers.schedules.CosineDecay(0.2, length) for length in (20, 10, 20)]
    wanted = [float(own[0](s)) for s in range(20)] + [float(own[1](s)) for s in range(10)]
    wanted += [float(own[2](s)) for s in range(20)]
    np.testing.assert_allclose([float(rate(step)) for step in range(50)], wanted, atol=1e-7)
    assert float(rate(50)) == float(rate(1000)) == pytest.approx(0, abs=1e-8)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(rate))
    assert again.get_config() == rate.get_config()
    assert training.CosineStages.of_ratio(0.1, "full", 3, 7).stages == [21]


@pytest.mark.parametrize("stages", [[], [5, 5], [0, 3], [4, 2], [1.5]])
def test_unusable_stages(stages):
    with pytest.raises((TypeError, ValueError), match="stages"):
        training.CosineStages(0.1, stages)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "pairing"},
        {"weight_perturbation": training.WeightPerturbation(0.01)},
        {"regularizer": training.Orthogonality(0.01)},
        {"attack_dtype": "bfloat16", "attack_statistics": "batch"},
        {"objective": training.Free(replays=2)},
    ],
    ids=["pairing", "perturbation", "orthogonality", "twin", "free"],
)
def test_frozen_layers_are_not_trained(options, images):
    low_bit = esq.quantize_model(tiny(), "ternary")
    kernels = [layer for layer in low_bit.layers if layer.trainable_weights]
    kernels[0].trainable = False
    before = [[weight.numpy() for weight in layer.weights] for layer in kernels]
    model = esq.ErrorSilencedModel(low_bit, attack=PGD, **{"objective": "adversarial", **options})
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, Y, epochs=2, verbose=0)
    frozen, *others = (
        all(np.array_equal(one, weight) for one, weight in zip(values, layer.weights, strict=True))
        for values, layer in zip(before, kernels, strict=True)
    )
    assert frozen
    assert not any(others)
