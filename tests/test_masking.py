"""The audit on networks masked on purpose and on honest ones."""

import json

import numpy as np
import pytest
import tensorflow as tf

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.attacks import FGSM, PGD
from keras_esq.evaluation import MaskingAudit, RandomNoise, masking_audit

layers = keras.layers
EPS, N = 0.1, 100
# Small: most of the time goes into compiling the attacks.
SETTINGS = {"eps": EPS, "steps": 10, "restarts": 2, "query_budget": 150}


def natural(digits, seed):
    keras.utils.set_random_seed(seed)
    model = esq.models.small_cnn(width=4)
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits.x_train, digits.y_train, epochs=8, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="module")
def net(digits):
    return natural(digits, seed=0)


@pytest.fixture(scope="module")
def twin(digits):
    return natural(digits, seed=1)


@pytest.fixture(scope="module")
def some(digits):
    return digits.x_test[:N], digits.y_test[:N]


@pytest.fixture(scope="module")
def honest(net, twin, some):
    return masking_audit(net, *some, twin=twin, **SETTINGS)


def behind(layer, net, name):
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, net(layer(inputs)), name=name)


def test_natural_network_is_not_suspicious(honest):
    assert not honest.suspicious, honest.table()
    assert honest.failed == ()
    assert len(honest.checks) == 10
    assert honest.accuracy["clean"] > 0.9
    assert honest.accuracy["ce at large eps"] == 0
    assert 1 < honest.check("logit scale").figure < 20
    assert honest.check("vanishing gradients").figure == 0


def test_adversarially_trained_network_is_not_suspicious(digits, some):
    keras.utils.set_random_seed(2)
    attack = PGD(eps=EPS, step_size=EPS / 4, steps=5)
    model = esq.ErrorSilencedModel(esq.models.small_cnn(width=8), attack=attack, objective="adversarial")
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(digits.x_train, digits.y_train, epochs=12, batch_size=64, verbose=0)
    audit = masking_audit(model, *some, **SETTINGS)
    assert not audit.suspicious, audit.table()
    assert audit.accuracy["apgd ce"] > 0.3
    assert "twin's images beat white-box" not in [check.name for check in audit.checks]


def test_scaled_logits_are_found(net, some):
    inputs = keras.Input((8, 8, 1))
    scaled = keras.Model(inputs, layers.Lambda(lambda z: 3000.0 * z)(net(inputs)), name="scaled")
    audit = masking_audit(scaled, *some, **SETTINGS)
    assert audit.suspicious
    assert {"vanishing gradients", "logit scale", "losses disagree"} <= set(audit.failed), audit.table()
    assert audit.check("logit scale").figure > 3000
    assert audit.check("vanishing gradients").figure > 0.9
    # That is the trap: cross-entropy alone would call it robust.
    assert audit.accuracy["pgd"] > audit.accuracy["apgd margin"] + 0.3


def test_rounded_inputs_without_gradient_are_found(net, twin, some):
    rounded = behind(layers.Lambda(lambda z: tf.round(8 * z) / 8), net, "rounded")
    audit = masking_audit(rounded, *some, twin=twin, **SETTINGS)
    failed = set(audit.failed)
    assert {"vanishing gradients", "robust at large eps", "black-box beats white-box"} <= failed, audit.table()
    assert {"random noise beats white-box", "twin's images beat white-box"} <= failed, audit.table()
    assert "no gradient" in audit.check("vanishing gradients").detail
    assert set(audit.accuracy) == {"clean", "noise", "square", "twin"}
    assert len(audit.checks) == 6  # none among attacks that could not run


def test_rounded_inputs_with_zero_gradient_are_found(net, some):
    @tf.custom_gradient
    def rounding(z):
        return tf.round(8 * z) / 8, tf.zeros_like

    audit = masking_audit(behind(layers.Lambda(rounding), net, "rounded"), *some, **SETTINGS)
    assert {"vanishing gradients", "robust at large eps", "black-box beats white-box"} <= set(audit.failed)
    assert audit.check("vanishing gradients").figure == 1


@pytest.mark.slow
def test_single_step_targeted_logit_pairing_is_found(digits):
    """The recipe of Adversarial Logit Pairing that Engstrom et al. broke, with one step as Mosbach et al. discuss."""
    keras.utils.set_random_seed(3)
    model = esq.models.small_cnn(width=8)
    optimizer, rng = keras.optimizers.Adam(0.01), np.random.default_rng(0)
    eps = 0.25
    attack = FGSM(eps=eps, targeted=True)

    @tf.function
    def step(x, y, target, seed):
        x_adv = attack.perturb(lambda z: model(z, training=False), x, y, seed=seed, y_target=target)
        with tf.GradientTape() as tape:
            clean, attacked = model(x, training=True), model(x_adv, training=True)
            loss = sum(
                tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, one)) for one in (clean, attacked)
            ) + 0.5 * tf.reduce_mean(tf.reduce_sum(tf.square(clean - attacked), axis=1))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for _ in range(40):
        order = rng.permutation(len(digits.x_train))
        for batch in np.array_split(order, 19):
            y = digits.y_train[batch]
            target = (y + rng.integers(1, 10, len(y))) % 10
            step(*map(tf.constant, (digits.x_train[batch], y, target.astype(np.int32))), tf.constant([0, 0]))
    audit = masking_audit(model, digits.x_test, digits.y_test, eps=eps)
    assert audit.suspicious, audit.table()


def test_forms(honest, tmp_path):
    path = tmp_path / "audit.json"
    text = honest.to_json(path)
    content = json.loads(path.read_text())
    assert content == json.loads(text)
    assert content["suspicious"] is False
    assert content["checks"][0]["name"] == honest.checks[0].name
    table = honest.table().splitlines()
    assert len(table) == 2 + len(honest.checks) + 1
    assert "no sign" in table[-1]
    bad = MaskingAudit(
        **{**vars(honest), "checks": (type(honest.checks[0])(**{**vars(honest.checks[0]), "passed": False}),)}
    )
    assert bad.suspicious
    assert bad.failed == ("vanishing gradients",)
    assert "SUSPICIOUS: vanishing" in bad.table()
    with pytest.raises(KeyError, match="Did you mean 'logit scale'"):
        honest.check("logit scales")
    with pytest.raises(FileNotFoundError, match="Create the folder"):
        honest.to_json(tmp_path / "missing" / "a.json")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": lambda x: x}, TypeError, r"tf_keras\.Model"),
        ({"twin": lambda x: x}, TypeError, r"tf_keras\.Model"),
        ({"eps": 0}, ValueError, "eps"),
        ({"steps": 0}, ValueError, "steps"),
        ({"restarts": 0}, ValueError, "restarts"),
        ({"query_budget": 1}, ValueError, "query_budget"),
        ({"norm": "l1"}, ValueError, "'linf'"),
        ({"x": np.full((4, 8, 8, 1), 2.0)}, ValueError, "bounds"),
        ({"x": np.zeros((0, 8, 8, 1))}, ValueError, "at least one"),
        ({"y": [0, 1]}, ValueError, "one label per image"),
        ({"y": [99, 1, 2, 3]}, ValueError, "from 0 to 9"),
    ],
)
def test_bad_input(net, some, changes, error, message):
    arguments = {"model": net, "x": some[0][:4], "y": some[1][:4], **changes}
    with pytest.raises(error, match=message):
        masking_audit(arguments.pop("model"), arguments.pop("x"), arguments.pop("y"), **arguments)


def test_a_model_that_is_never_right(net, some):
    wrong = (net.predict(some[0], verbose=0).argmax(axis=1) + 1) % 10
    with pytest.raises(ValueError, match="gets some of the samples right"):
        masking_audit(net, some[0], wrong, **SETTINGS)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_is_on_the_surface_and_counted(norm):
    x = np.full((3, 4, 4, 1), 0.5, np.float32)

    def never(images):
        return np.tile([1.0, 0.0], (len(images), 1))

    def brighter(images):
        bright = images.mean(axis=(1, 2, 3)) > 0.5
        return np.stack([~bright, bright], axis=1).astype(float)

    noise = RandomNoise(eps=0.1, norm=norm, query_budget=40, seed=0)
    result = noise.run(never, x, [0, 0, 0])
    assert not result.success.any()
    assert (result.queries == 40).all()
    result = noise.run(brighter, x, [0, 0, 0])
    assert result.success.all()
    assert (result.queries < 40).all()
    difference = (result.x_adv - x).reshape(3, -1)
    length = np.abs(difference).max(axis=1) if norm == "linf" else np.linalg.norm(difference, axis=1)
    np.testing.assert_allclose(length, 0.1, rtol=1e-5)
