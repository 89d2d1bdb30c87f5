"""Objectives: their losses and gradients against plain formulas, their names, saving, and what they refuse."""

import dataclasses
import inspect
import json

import numpy as np
import pytest
import tensorflow as tf
from nets import tiny
from trainings import PGD, Brighter, Y, ce_tf, compiled, fit, low_bit_training, net, same, small

import keras_esq as esq
from keras_esq import training
from keras_esq._keras import keras
from keras_esq.training import objectives
from keras_esq.training.objectives.divergence import kl_divergence
from keras_esq.training.objectives.mart import margin_loss

WEIGHTS = np.linspace(0.0, 2.0, 12)


@pytest.fixture
def images():
    return np.random.default_rng(0).random((12, 8, 8, 3), dtype=np.float32) * 0.7


# Formulas in float64: z, a, t the logits of student on x, on x_adv, and of the teacher on x, (n, classes).


def softmax(z, t=1.0):
    e = np.exp(z / t - (z / t).max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def ce(z, y):
    return -np.log(softmax(z)[np.arange(len(y)), y])


def kl(p, q):
    return (p * np.log(p / q)).sum(1)


def mart_terms(z, a, t, y):
    p, q = softmax(z), softmax(a)
    others = q.copy()
    others[np.arange(len(y)), y] = 0
    return ce(a, y) - np.log(1 - others.max(1)), 5 * kl(p, q) * (1 - p[np.arange(len(y)), y])


# Objective, and (data term, regularizer) sample by sample.
TABLE = {
    "pairing": (training.Pairing(), lambda z, a, t, y: (ce(z, y), 0.3 * ((z - a) ** 2).sum(1))),
    "the default": (None, lambda z, a, t, y: (ce(a, y), 0.1 * ((z - a) ** 2).sum(1))),
    "pairing, a share on x_adv": (
        training.Pairing(adversarial_share=0.3),
        lambda z, a, t, y: (0.7 * ce(z, y) + 0.3 * ce(a, y), 0.3 * ((z - a) ** 2).sum(1)),
    ),
    "pairing, all on x_adv": (
        training.Pairing(adversarial_share=1.0, branch="clean"),
        lambda z, a, t, y: (ce(a, y), 0.3 * ((z - a) ** 2).sum(1)),
    ),
    "trades": (training.Trades(beta=2.0), lambda z, a, t, y: (ce(z, y), 2 * kl(softmax(z), softmax(a)))),
    "mart": (training.Mart(), mart_terms),
    "ard": (
        lambda t: training.RobustDistillation(teacher=t, method="ard", temperature=4.0, alpha=0.6),
        lambda z, a, t, y: (0.4 * ce(z, y), 0.6 * 16 * kl(softmax(t, 4), softmax(a, 4))),
    ),
    "rslad": (
        lambda t: training.RobustDistillation(teacher=t),
        lambda z, a, t, y: (0, 5 / 6 * kl(softmax(t), softmax(a)) + 1 / 6 * kl(softmax(t), softmax(z))),
    ),
    "rslad, warm": (
        lambda t: training.RobustDistillation(teacher=t, temperature=2.0, alpha=0.5),
        lambda z, a, t, y: (0, 2 * kl(softmax(t, 2), softmax(a, 2)) + 2 * kl(softmax(t, 2), softmax(z, 2))),
    ),
}


def row(name, teacher):
    objective, formula = TABLE[name]
    return objective(teacher) if inspect.isfunction(objective) else objective, formula


@pytest.mark.parametrize(
    ("name", "head", "weights"),
    [*((name, None, WEIGHTS) for name in TABLE), *((name, "softmax", None) for name in ("trades", "mart", "rslad"))],
)
def test_losses_are_the_formulas(images, name, head, weights):
    plain, teacher = net(), net(seed=5)
    z, a, t = (np.asarray(m(v), np.float64) for m, v in [(plain, images), (plain, images + 0.3), (teacher, images)])
    objective, formula = row(name, net(head, seed=5))
    logs = compiled(net(head), objective).train_on_batch(images, Y, sample_weight=weights, return_dict=True)
    data, term = (np.mean(v * (1 if weights is None else weights)) for v in formula(z, a, t, Y))
    assert logs["pairing_loss"] == pytest.approx(term, rel=1e-4)
    assert logs["loss"] == pytest.approx(data + term, rel=1e-4)
    assert logs["adversarial_accuracy"] == pytest.approx((a.argmax(1) == Y).mean())
    assert logs["accuracy"] == pytest.approx((z.argmax(1) == Y).mean())


def test_the_default_follows_the_pairing():
    """With a pairing it is the objective of [ESQ]."""
    none, given = esq.ErrorSilencedModel(net()), esq.ErrorSilencedModel(net(), pairing=esq.LogitPairing(0.5))
    assert (none.objective, none.pairing) == ("adversarial_pairing", (esq.LogitPairing(0.1),))
    assert (given.objective, given.pairing) == ("pairing", (esq.LogitPairing(0.5),))
    assert esq.ErrorSilencedModel(net(), objective="pairing").pairing == (esq.LogitPairing(),)


def tf_kl(p, q):
    return tf.reduce_mean(tf.reduce_sum(p * (tf.math.log(p) - tf.math.log(q)), 1))


def tf_trades(z, a, t, y):
    return ce_tf(z, y) + 2 * tf_kl(tf.nn.softmax(z), tf.nn.softmax(a))


def tf_mart(z, a, t, y):
    p, q = tf.nn.softmax(z), tf.nn.softmax(a)
    wrong = tf.reduce_max(q * (1 - y), 1)
    divergence = tf.reduce_sum(p * tf.math.log(p / q), 1) * (1 - tf.reduce_sum(p * y, 1))
    return ce_tf(a, y) - tf.reduce_mean(tf.math.log(1 - wrong)) + 5 * tf.reduce_mean(divergence)


def tf_ard(z, a, t, y):
    return 0.4 * ce_tf(z, y) + 0.6 * 16 * tf_kl(tf.nn.softmax(t / 4), tf.nn.softmax(a / 4))


def tf_rslad(z, a, t, y):
    t, a, z = (tf.nn.softmax(v) for v in (t, a, z))
    return 5 / 6 * tf_kl(t, a) + 1 / 6 * tf_kl(t, z)


def tf_branch(stopped):
    def formula(z, a, t, y):
        z2, a2 = (tf.stop_gradient(z), a) if stopped == "clean" else (z, tf.stop_gradient(a))
        return ce_tf(z, y) + 0.3 * tf.reduce_mean(tf.reduce_sum((z2 - a2) ** 2, 1))

    return formula


GRADIENTS = {
    "trades": (training.Trades(beta=2.0), tf_trades),
    "mart": (training.Mart(), tf_mart),
    "ard": (TABLE["ard"][0], tf_ard),
    "rslad": (TABLE["rslad"][0], tf_rslad),
    "adversarial branch": (training.Pairing(branch="adversarial"), tf_branch("clean")),
    "clean branch": (training.Pairing(branch="clean"), tf_branch("adversarial")),
    "share": (
        training.Pairing(adversarial_share=0.3),
        lambda z, a, t, y: 0.7 * ce_tf(z, y) + 0.3 * ce_tf(a, y) + 0.3 * tf.reduce_mean(tf.reduce_sum((z - a) ** 2, 1)),
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_the_formulas(images, name):
    network, teacher = net(), net(seed=5)
    objective, formula = GRADIENTS[name]
    objective = objective if isinstance(objective, training.Objective) else objective(teacher)
    before = [w.numpy() for w in network.trainable_weights]
    taught = [w.numpy() for w in teacher.weights]
    with tf.GradientTape() as tape:
        z, a = network(images), network(images + np.float32(0.3))
        loss = formula(z, a, teacher(images), tf.one_hot(Y, 3))
    gradients = tape.gradient(loss, network.trainable_weights)
    compiled(network, objective, 0.1).train_on_batch(images, Y)
    for w, old, g in zip(network.trainable_weights, before, gradients, strict=True):
        assert np.abs(g).max() > 1e-3
        np.testing.assert_allclose(w, old - 0.1 * g, rtol=1e-4, atol=2e-6)
    for w, old in zip(teacher.weights, taught, strict=True):
        np.testing.assert_array_equal(w, old)


@pytest.mark.parametrize(
    ("name", "head"),
    [("trades", None), ("trades", "sigmoid"), ("mart", "sigmoid"), ("ard", None), ("rslad", "sigmoid")],
)
def test_one_unit_is_two_classes(images, name, head):
    """z alone is worth the logits (0, z)."""
    y = np.arange(12) % 2
    plain, teacher = net(units=1), net(units=1, seed=5)
    z, a, t = (np.asarray(m(v), np.float64) for m, v in [(plain, images), (plain, images + 0.3), (teacher, images)])
    objective, formula = row(name, net(head, 1, seed=5))
    logs = compiled(net(head, 1), objective, loss="binary_crossentropy").train_on_batch(images, y, return_dict=True)
    data, term = (np.mean(v) for v in formula(*(np.concatenate([0 * v, v], 1) for v in (z, a, t)), y))
    assert logs["pairing_loss"] == pytest.approx(term, rel=1e-4)
    assert logs["loss"] == pytest.approx(data + term, rel=1e-4)


def test_summing_losses_keep_their_scale(images):
    network = net()
    z, a = (np.asarray(network(v), np.float64) for v in (images, images + 0.3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    model = compiled(network, training.Pairing(adversarial_share=0.25), loss=loss, pairing=esq.LogitPairing(0.0))
    logs = model.train_on_batch(images, Y, return_dict=True)
    assert logs["loss"] == pytest.approx(0.75 * ce(z, Y).sum() + 0.25 * ce(a, Y).sum(), rel=1e-4)


def test_extreme_logits_give_finite_losses_and_gradients():
    z = tf.Variable([[200.0, -200.0, 0.0], [-300.0, 300.0, 300.0]])
    labels = tf.constant([1, 0])
    with tf.GradientTape(persistent=True) as tape:
        values = [kl_divergence(z, z[::-1]), margin_loss(labels, z)]
    for value in values:
        assert np.isfinite(value).all()
        assert np.isfinite(tape.gradient(value, z)).all()
    with tf.GradientTape() as tape:
        value = kl_divergence(z, tf.constant(z))
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(margin_loss(labels, z), [200, np.log(2)], rtol=1e-5)


@pytest.mark.parametrize("objective", ["trades", "rslad"])
def test_an_attack_on_the_divergence_climbs_it(images, objective):
    """Higher than the same attack on the cross-entropy reaches, and than a random point."""
    keras.utils.set_random_seed(0)
    found = {}
    for loss in ("given", "kl"):
        rule = training.Trades(attack_loss=loss)
        if objective == "rslad":
            rule = training.RobustDistillation(teacher=net(seed=5), attack_loss=loss, alpha=1.0)
        attack = esq.attacks.PGD(eps=0.3, step_size=0.05, steps=15)
        model = compiled(net(), rule, attack=attack, seed=0)
        found[loss] = model.train_on_batch(images, Y, return_dict=True)["pairing_loss"]
    assert found["kl"] > 1.02 * found["given"] > 0


# Whole trainings.

INSTANCES = {
    "pairing": lambda: training.Pairing(adversarial_share=0.5, branch="adversarial"),
    "trades": lambda: training.Trades(beta=1.0, attack_loss="kl"),
    "mart": lambda: training.Mart(beta=1.0),
    "ard": lambda: training.RobustDistillation(teacher=teacher(), method="ard", temperature=5.0, alpha=0.9),
    "rslad": lambda: training.RobustDistillation(teacher=teacher(), attack_loss="kl"),
}


def teacher():
    return small(4, seed=9)


# Those with the most code of their own; the others by `make slow`.
SOME = [n if n in ("trades", "rslad") else pytest.param(n, marks=pytest.mark.slow) for n in INSTANCES]


@pytest.mark.parametrize("name", SOME)
def test_low_bit_training_is_logged_and_saved(digits, tmp_path, name):
    """A loaded model trains on as the one that was saved."""
    model = low_bit_training(INSTANCES[name]())
    history = fit(model, digits, 2)
    assert {"loss", "accuracy", "pairing_loss", "adversarial_accuracy", "ratio"} == set(history)
    assert np.isfinite(list(history.values())).all()
    assert history["pairing_loss"][0] > 0
    assert len(model.trainable_weights) == len(model.network.trainable_weights)
    model.save(tmp_path / "model.keras")
    loaded = esq.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(digits.x_val[:5], verbose=0), model.predict(digits.x_val[:5], verbose=0)
    )
    if name in ("ard", "rslad"):
        assert loaded.objective == dataclasses.replace(model.objective, teacher=None)
        with pytest.raises(ValueError, match=r"Expected a teacher.*model\.objective ="):
            fit(loaded, digits, 3, initial_epoch=2)
        loaded.objective = INSTANCES[name]()
    else:
        assert loaded.objective == model.objective
    for one in (loaded, model):
        fit(one, digits, 3, initial_epoch=2)
    assert same(model, loaded)


@pytest.mark.filterwarnings("ignore:The schedule ends")
@pytest.mark.parametrize(
    "name", ["trades", *(pytest.param(n, marks=pytest.mark.slow) for n in INSTANCES if n != "trades")]
)
def test_a_stopped_training_is_taken_up_by_a_new_program(digits, tmp_path, name):
    whole, stopped, resumed = (low_bit_training(INSTANCES[name]()) for _ in range(3))
    fit(whole, digits, 2)
    fit(stopped, digits, 1, training.Backup(tmp_path))
    assert not same(whole, stopped)
    fit(resumed, digits, 2, initial_epoch=training.Backup(tmp_path).restore(resumed))
    assert same(whole, resumed)


def test_eager_steps_compute_the_same(images):
    losses = []
    for eager in (False, True):
        objective = training.RobustDistillation(teacher=net("softmax", seed=5), attack_loss="kl")
        model = esq.ErrorSilencedModel(net("softmax"), attack=PGD, objective=objective, seed=0)
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=eager)
        losses.append(model.fit(images, Y, epochs=2, shuffle=False, verbose=0).history["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# Names, settings, configs.


def test_names_are_classes_and_instances(images):
    for name, cls in objectives.OBJECTIVES.items():
        assert cls.__doc__
        if name != "distillation":
            assert objectives.build(name) == cls() == objectives.as_objective(cls)
            model = esq.ErrorSilencedModel(tiny(), objective=name)
            assert model.objective == name
            assert json.loads(json.dumps(model.get_config()))["objective"] == name
    assert objectives.build("trades", beta=3).beta == 3.0
    assert esq.ErrorSilencedModel(tiny(), objective=training.Mart).objective == training.Mart()


@pytest.mark.parametrize("name", INSTANCES)
def test_configs(name):
    objective = INSTANCES[name]()
    copy = type(objective).from_config(objective.get_config())
    if name in ("ard", "rslad"):
        objective = dataclasses.replace(objective, teacher=None)
        assert "teacher" not in repr(objective)
    assert copy == objective
    model = esq.ErrorSilencedModel(tiny(), objective=objective)
    config = json.loads(json.dumps(model.get_config()))
    assert esq.ErrorSilencedModel.from_config(config).objective == objective


def test_a_name_trains_as_its_instance(images):
    one, two = (compiled(net(), objective, 0.1, seed=2) for objective in ("pairing", training.Pairing()))
    for model in (one, two):
        model.fit(images, Y, verbose=0)
    assert same(one, two)


def test_the_objective_can_be_changed(images):
    model = compiled(net(), "natural", 0.1)
    assert "pairing_loss" not in model.train_on_batch(images, Y, return_dict=True)
    model.objective = "trades"
    assert model.train_on_batch(images, Y, return_dict=True)["pairing_loss"] > 0
    model.objective = training.Trades(beta=0.0)
    assert model.train_on_batch(images, Y, return_dict=True)["pairing_loss"] == 0
    with pytest.raises(ValueError, match="pairing"):
        model.objective = "pairing"


def own_teacher():
    network = tiny()
    return compiled(network, training.RobustDistillation(teacher=network))


def wide_teacher():
    return keras.Sequential([keras.Input((8, 9, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])


def sigmoid_net():
    return compiled(net("sigmoid"), "trades", loss="binary_crossentropy")


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: objectives.build("trade"), ValueError, r"Received 'trade'\. Did you mean 'trades'"),
        (lambda: objectives.build("trades", betta=1), ValueError, r"'betta'\. Did you mean 'beta'"),
        (lambda: objectives.build("distillation"), ValueError, r"'teacher'.*RobustDistillation\(teacher="),
        (lambda: esq.ErrorSilencedModel(tiny(), objective="distillation"), ValueError, "RobustDistillation"),
        (lambda: esq.ErrorSilencedModel(tiny(), objective=3), TypeError, "esq.training.Trades"),
        (lambda: esq.ErrorSilencedModel(tiny(), objective=training.Backup), TypeError, "Backup"),
        (lambda: esq.ErrorSilencedModel(tiny(), objective="trades", pairing=esq.LogitPairing()), ValueError, "pair"),
        (lambda: training.Trades(beta=-1.0), ValueError, "beta"),
        (lambda: training.Trades(beta="6"), TypeError, "beta"),
        (lambda: training.Trades(attack_loss="ce"), ValueError, r"\['given', 'kl'\]"),
        (lambda: training.Mart(beta=float("nan")), ValueError, "beta"),
        (lambda: training.Pairing(adversarial_share=1.5), ValueError, "adversarial_share"),
        (lambda: training.Pairing(branch="cleen"), ValueError, "Did you mean 'clean'"),
        (lambda: training.RobustDistillation(teacher="AF"), TypeError, "teacher"),
        (lambda: training.RobustDistillation(teacher=tiny(), method="kd"), ValueError, "rslad"),
        (lambda: training.RobustDistillation(teacher=tiny(), temperature=0), ValueError, "temperature"),
        (lambda: training.RobustDistillation(teacher=tiny(), alpha=2.0), ValueError, "alpha"),
        (lambda: compiled(tiny(), training.RobustDistillation(teacher=tiny(classes=4))), ValueError, "has 4"),
        (lambda: own_teacher(), ValueError, "weights of its own"),
        (lambda: compiled(tiny(), training.RobustDistillation(teacher=wide_teacher())), ValueError, "input shape"),
        (sigmoid_net, ValueError, "exclude each other"),
    ],
)
def test_wrong_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("attack", "teacher", "words"),
    [
        (esq.attacks.FGSM(), None, "random_start=True"),
        (Brighter(), None, "gradient attack"),
        (esq.attacks.APGD(steps=10), net, "gradient attack"),
    ],
)
def test_attacks_that_can_not_climb_a_divergence(images, attack, teacher, words):
    kind = training.RobustDistillation(teacher=teacher(), attack_loss="kl") if teacher else None
    model = compiled(net(), kind or training.Trades(attack_loss="kl"), attack=attack)
    with pytest.raises(ValueError, match=words):
        model.fit(images, Y, verbose=0)


def test_configs_of_former_versions_still_load(images):
    model = esq.ErrorSilencedModel(tiny(), objective="adversarial", attack=PGD)
    config = model.get_config()
    del config["regularizer"]
    loaded = esq.ErrorSilencedModel.from_config({**config, "objective": "adversarial"})
    assert (loaded.objective, loaded.attack, loaded.regularizer) == ("adversarial", PGD, None)
