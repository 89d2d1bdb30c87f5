"""The white-box suite on a trained network: invariants in one table, equality with foolbox, optimality of the parts."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import linprog, minimize

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.attacks import (
    APGD,
    BIM,
    DDN,
    FAB,
    FGSM,
    MIM,
    PGD,
    AttackResult,
    AutoAttack,
    Boundary,
    CarliniWagner,
    NAttack,
    Square,
    Transfer,
    logits_fn,
)
from keras_esq.attacks.apgd import targeted_dlr, windows
from keras_esq.attacks.gradient import WhiteBoxAttack
from keras_esq.attacks.hyperplane import to_hyperplane
from keras_esq.attacks.losses import cross_entropy
from keras_esq.attacks.norms import distances, unit
from keras_esq.attacks.temperature import auto_temperature, tempered

layers = keras.layers
N = 24


def trained(digits, classes=10, epochs=8):
    keras.utils.set_random_seed(0)
    model = esq.models.small_cnn(width=4, classes=classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    some = digits.y_train < classes
    model.fit(digits.x_train[some], digits.y_train[some], epochs=epochs, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="module")
def model(digits):
    return trained(digits)


@pytest.fixture(scope="module")
def right(model, digits):
    """Test images that the model gets right, and their labels."""
    ok = logits_fn(model)(tf.constant(digits.x_test)).numpy().argmax(axis=1) == digits.y_test
    return digits.x_test[ok], digits.y_test[ok]


def predicted(model, x):
    return logits_fn(model)(tf.constant(x)).numpy().argmax(axis=1)


# name: (attack of small cost, its norm)
LINF, L2 = {"eps": 0.15, "norm": "linf", "seed": 5}, {"eps": 0.8, "norm": "l2", "seed": 5}
TABLE = {
    "fgsm": (FGSM(**LINF), "linf"),
    "pgd": (PGD(step_size=0.05, **LINF), "linf"),
    "ddn": (DDN(steps=20, eps=0.8, seed=5), "l2"),
    "ddn free": (DDN(steps=20, seed=5), None),
    "cw": (CarliniWagner(steps=30, binary_search_steps=3, learning_rate=0.1, initial_const=1.0, eps=0.8, seed=5), "l2"),
    "apgd-ce linf": (APGD(steps=20, **LINF), "linf"),
    "apgd-dlr l2": (APGD(loss="dlr", steps=20, restarts=2, **L2), "l2"),
    "apgd-t linf": (APGD(loss="targeted-dlr", steps=10, target_classes=3, **LINF), "linf"),
    "fab-t linf": (FAB(steps=10, target_classes=2, **LINF), "linf"),
    "fab l2": (FAB(steps=10, target_classes=None, restarts=2, **L2), "l2"),
    "square linf": (Square(query_budget=100, **LINF), "linf"),
    "square l2": (Square(query_budget=100, **L2), "l2"),
    "boundary": (Boundary(query_budget=300, eps=0.8, seed=5), "l2"),
    "nattack linf": (NAttack(query_budget=300, population=20, learning_rate=0.2, **LINF), "linf"),
    "nattack l2": (NAttack(query_budget=300, population=20, learning_rate=0.2, **L2), "l2"),
    "autoattack": (AutoAttack(steps=10, query_budget=50, **LINF), "linf"),
    "rand": (AutoAttack(version="rand", steps=5, **L2), "l2"),
}
STEP = {kind: {"step_size": 0.2} for kind in (PGD, BIM, MIM)}
TARGETED = [name for name in TABLE if name not in ("autoattack", "rand")]


@pytest.mark.parametrize("name", TABLE)
def test_ball_box_seed_and_verdict(model, right, name):
    attack, norm = TABLE[name]
    x, y = right[0][:N].copy(), right[1][:N].copy()
    y[0] = (y[0] + 1) % 10  # wrong as it is
    result = attack.run(model, x, y)
    assert isinstance(result, AttackResult)
    assert result.x_adv.dtype == np.float32
    assert result.x_adv.shape == x.shape
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    if norm is not None:
        assert distances(x, result.x_adv, norm).max() <= attack.eps + 1e-6
    np.testing.assert_array_equal(result.success, predicted(model, result.x_adv) != y)
    assert result.success[0]
    assert result.success.mean() > 0.25
    np.testing.assert_array_equal(attack(model, x, y), result.x_adv)
    as_tensor = attack(model, tf.constant(x), tf.constant(y))
    assert tf.is_tensor(as_tensor)
    # Attacks without anything random may ignore the seed; none may fail with another.
    dataclasses.replace(attack, seed=None)(model, x[:2], y[:2])


@pytest.mark.parametrize("name", TABLE)
def test_other_range_of_pixels(model, right, name):
    """What an attack does to x in [0, 1] it does to 2x - 1 in [-1, 1], with eps twice as large."""
    attack, norm = TABLE[name]
    inner = keras.Sequential([layers.Input((8, 8, 1)), layers.Rescaling(0.5, offset=0.5), model])
    settings = {"bounds": (-1.0, 1.0)} | ({"eps": 2 * attack.eps} if norm else {})
    if isinstance(attack, PGD):
        settings["step_size"] = 2 * attack.step_size
    x, y = right[0][:N], right[1][:N]
    result = dataclasses.replace(attack, **settings).run(inner, 2 * x - 1, y)
    assert result.x_adv.min() >= -1
    assert result.x_adv.max() <= 1
    if norm is not None:
        assert distances(2 * x - 1, result.x_adv, norm).max() <= 2 * attack.eps + 2e-6
    same = attack.run(model, x, y).success
    assert abs(result.success.mean() - same.mean()) <= 0.1


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or infinity, first in sample 1"), (1.5, "bounds")])
def test_bad_images_are_rejected(model, right, name, value, message):
    x = right[0][:3].copy()
    x[1, 2, 2, 0] = value
    with pytest.raises(ValueError, match=message):
        TABLE[name][0](model, x, right[1][:3])


@pytest.mark.parametrize("name", TABLE)
def test_a_network_that_returns_nan_is_an_error(digits, name):
    broken = esq.models.small_cnn(width=4)
    weights = broken.get_weights()
    weights[-1][:] = np.nan
    broken.set_weights(weights)
    with pytest.raises(ValueError, match="NaN"):
        TABLE[name][0](broken, digits.x_test[:3], digits.y_test[:3])


@pytest.mark.parametrize(
    "name", [name for name, (attack, _) in TABLE.items() if isinstance(attack, WhiteBoxAttack | AutoAttack)]
)
def test_a_gradient_of_nan_is_an_error(model, right, name):
    """Of a length of 0. The true class is the one that NaN as scores would be taken for."""

    def and_nothing(x):
        return x + tf.sqrt(tf.square(x - tf.stop_gradient(x)))

    rooted = keras.Sequential([layers.Input((8, 8, 1)), layers.Lambda(and_nothing), model])
    zeros = right[1] == 0
    attack, _ = TABLE[name]
    several = dataclasses.replace(attack, restarts=2) if isinstance(attack, PGD) else attack
    for one in (attack, several):
        with pytest.raises(ValueError, match="NaN"):
            one(rooted, right[0][zeros][:3], right[1][zeros][:3])


@pytest.mark.parametrize("name", [name for name, (attack, _) in TABLE.items() if isinstance(attack, WhiteBoxAttack)])
def test_a_network_without_gradients_is_an_error(model, right, name):
    rounding = keras.Sequential([layers.Input((8, 8, 1)), layers.Lambda(lambda x: tf.round(15 * x) / 15), model])
    with pytest.raises(ValueError, match="differentiated"):
        TABLE[name][0](rounding, right[0][:2], right[1][:2])


@pytest.mark.parametrize("name", TARGETED)
def test_targeted(model, right, name):
    attack, norm = TABLE[name]
    attack = dataclasses.replace(attack, targeted=True)
    x, y = right[0][:N], right[1][:N]
    target = (y + 1) % 10
    target[0] = y[0]  # reached as it is
    result = attack.run(model, x, y, y_target=target)
    np.testing.assert_array_equal(result.success, predicted(model, result.x_adv) == target)
    assert result.success[0]
    if norm is not None:
        assert distances(x, result.x_adv, norm).max() <= attack.eps + 1e-6
    if norm is None:
        assert result.success.mean() > 0.9
    with pytest.raises(ValueError, match="y_target"):
        attack(model, x, y)


@pytest.mark.parametrize("name", [name for name in TABLE if name not in ("boundary", "autoattack", "rand")])
def test_a_flat_network_changes_nothing_about_ball_and_box(right, name):
    """Zero gradients and equal scores everywhere."""
    attack, norm = TABLE[name]
    inputs = keras.Input((8, 8, 1))
    flat = keras.Model(inputs, layers.Dense(10, kernel_initializer="zeros")(layers.Flatten()(inputs)))
    x = right[0][:4]
    result = attack.run(flat, x, np.zeros(4, int))
    assert not result.success.any()
    assert np.isfinite(result.x_adv).all()
    if norm is not None:
        assert distances(x, result.x_adv, norm).max() <= attack.eps + 1e-6


@pytest.mark.parametrize("name", ["apgd-t linf", "fab-t linf", "cw", "ddn", "square linf"])
def test_few_classes(digits, name):
    two = trained(digits, classes=2, epochs=2)
    some = digits.y_test < 2
    x, y = digits.x_test[some][:8], digits.y_test[some][:8]
    attack, _ = TABLE[name]
    if name == "apgd-t linf":
        with pytest.raises(ValueError, match="four or more classes"):
            attack(two, x, y)
    else:
        attack(two, x, y)


@pytest.mark.parametrize(("classes", "second"), [(2, "apgd-margin"), (3, "apgd-dlr"), (4, "apgd-targeted-dlr")])
def test_stages_of_autoattack(digits, classes, second):
    attack = AutoAttack(steps=5, query_budget=20, eps=0.3, seed=0)
    assert list(attack.stages(classes)) == ["apgd-ce", second, "fab", "square"]
    rand = dataclasses.replace(attack, version="rand").stages(classes)
    assert [stage.gradient_samples for stage in rand.values()] == [20, 20]
    few = trained(digits, classes=classes, epochs=1)
    some = digits.y_test < classes
    x, y = digits.x_test[some][:8], digits.y_test[some][:8]
    result = attack.run(few, x, y)
    np.testing.assert_array_equal(result.success, predicted(few, result.x_adv) != y)


def test_standard_is_as_published():
    ce, ratio, fab, square = AutoAttack().stages(10).values()
    assert (ce.loss, ce.steps, ce.restarts, ce.rho) == ("ce", 100, 1, 0.75)
    assert (ratio.loss, ratio.steps, ratio.target_classes) == ("targeted-dlr", 100, 9)
    assert (fab.steps, fab.target_classes, fab.eta, fab.beta, fab.alpha_max) == (100, 9, 1.05, 0.9, 0.1)
    assert (square.query_budget, square.p_init, square.rescale_schedule) == (5000, 0.8, False)


def test_autoattack_is_at_least_as_strong_as_its_first_stage(model, right):
    x, y = right[0][:64], right[1][:64]
    attack = AutoAttack(eps=0.08, steps=20, query_budget=100, seed=3)
    first = next(iter(attack.stages(10).values()))
    alone = dataclasses.replace(first, seed=3).run(model, x, y)
    whole = attack.run(model, x, y)
    assert (whole.success >= alone.success).all()
    np.testing.assert_array_equal(whole.x_adv[alone.success], alone.x_adv[alone.success])


# --- APGD -----------------------------------------------------------------------------------------------------------


def test_checkpoints_are_the_papers():
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), at 100 steps."""
    points, want = [0, 22], []
    while points[-1] < 100:
        points.append(points[-1] + max(points[-1] - points[-2] - 3, 6))
    want = np.diff(np.minimum(points, 100)).tolist()
    assert windows(100) == want
    for steps in (1, 2, 7, 33, 1000):
        assert sum(windows(steps)) == steps


def test_targeted_dlr_is_the_papers_formula():
    logits = tf.constant([[5.0, 3.0, 2.0, 1.0, 0.0]])
    got = targeted_dlr(tf.constant([0]), tf.constant([2]), logits)
    np.testing.assert_allclose(got, [-(5 - 2) / (5 - (2 + 1) / 2)], rtol=1e-6)
    np.testing.assert_allclose(targeted_dlr(tf.constant([0]), tf.constant([2]), 3000 * logits), got, rtol=1e-6)


def reference_apgd(model, x, y, eps, start, steps):
    """Algorithm 1 of the paper for one sample at a time, cross-entropy, L-inf, in plain loops."""

    @tf.function
    def ask(z, y):
        with tf.GradientTape() as tape:
            tape.watch(z)
            logits = logits_fn(model)(z)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        return loss, tape.gradient(loss, z), logits

    best_losses = []
    for one, label, z in zip(x, y, start, strict=True):
        low, high = np.maximum(one - eps, 0), np.minimum(one + eps, 1)
        f, g, _ = (a.numpy()[0] for a in ask(z[None], [label]))
        best, f_best, g_best, before, eta = z, f, g, z, 2 * eps
        checks = set(np.cumsum(windows(steps)))
        history, last_check, f_check, halved = [f], 0, f, True
        for k in range(1, steps + 1):
            a = 1.0 if k == 1 else 0.75
            v = np.clip(z + eta * np.sign(g), low, high)
            new = np.clip(z + a * (v - z) + (1 - a) * (z - before), low, high).astype(np.float32)
            before, z = z, new
            f, g, _ = (b.numpy()[0] for b in ask(z[None], [label]))
            history.append(f)
            if f > f_best:
                best, f_best, g_best = z, f, g
            if k in checks:
                rises = sum(history[i] > history[i - 1] for i in range(last_check + 1, k + 1))
                halve = rises <= 0.75 * (k - last_check) or (not halved and f_best <= f_check)
                last_check, f_check, halved = k, f_best, halve
                if halve:
                    eta, z, g = eta / 2, best, g_best
        best_losses.append(f_best)
    return np.array(best_losses)


def test_apgd_is_algorithm_1(model, right):
    """At an eps where nothing is fooled, so that no sample stops early, the best losses are those of the paper."""
    x, y = right[0][:6], right[1][:6]
    attack = APGD(eps=0.02, steps=30, seed=2)
    x_adv = attack(model, x, y)
    safe = predicted(model, x_adv) == y
    assert safe.sum() >= 4
    seed = tf.random.fold_in(tf.constant([2, 0]), 0)
    start = attack.start(tf.constant(x), seed).numpy()
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits_fn(model)(tf.constant(x_adv))).numpy()
    np.testing.assert_allclose(loss[safe], reference_apgd(model, x, y, 0.02, start, 30)[safe], rtol=2e-3)


def test_more_restarts_and_steps_are_not_weaker(model, right):
    x, y = right
    few = APGD(eps=0.06, steps=10, seed=1).run(model, x, y, batch_size=500).success
    more = APGD(eps=0.06, steps=10, seed=1, restarts=4).run(model, x, y, batch_size=500).success
    assert (more >= few).all()


def test_apgd_beats_pgd_and_compaction_changes_no_verdict(model, right):
    x, y = right[0][:128], right[1][:128]
    pgd = PGD(eps=0.08, step_size=0.02, steps=40, seed=0).run(model, x, y).success.mean()
    apgd = APGD(eps=0.08, steps=40, seed=0).run(model, x, y).success.mean()
    assert apgd >= pgd - 0.02


def test_gradient_samples_average_over_a_random_network(model, right):
    noisy = keras.Sequential(
        [layers.Input((8, 8, 1)), layers.Lambda(lambda x: x + tf.random.normal(tf.shape(x), stddev=0.05)), model]
    )
    attack = AutoAttack(version="rand", steps=5, eps=0.15, seed=0)
    assert attack.run(noisy, right[0][:8], right[1][:8]).x_adv.shape == (8, 8, 8, 1)


# --- FAB ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_is_the_smallest(norm):
    """Against linear and quadratic programs."""
    rng = np.random.default_rng(0)
    for trial in range(30):
        x, w, c = rng.random(5), rng.normal(size=5), rng.normal() * 1.2
        if trial % 5 == 0:
            w[0] = 0
        args = (tf.constant(value, tf.float32) for value in (x[None], w[None], [c]))
        d = to_hyperplane(*args, (0.0, 1.0), norm).numpy()[0].astype(np.float64)
        assert (x + d).min() >= -1e-6
        assert (x + d).max() <= 1 + 1e-6
        reach = (np.where(w * c > 0, 1 - x, x) * np.abs(w)).sum()
        np.testing.assert_allclose(w @ d, np.sign(c) * min(abs(c), reach), atol=1e-5)
        if reach < abs(c):
            continue
        box = [*zip(-x, 1 - x, strict=True)]
        if norm == "linf":
            eye, one = np.eye(5), np.ones((5, 1))
            below = np.block([[eye, -one], [-eye, -one]])
            best = linprog(
                [0] * 5 + [1], A_ub=below, b_ub=[0] * 10, A_eq=[[*w, 0]], b_eq=[c], bounds=[*box, (0, None)]
            ).fun
        else:
            plane = {"type": "eq", "fun": lambda z, w=w, c=c: w @ z - c}
            best = minimize(lambda z: z @ z, np.zeros(5), constraints=plane, bounds=box, tol=1e-12).fun ** 0.5
        assert distances(np.zeros((1, 5)), d[None], norm)[0] == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize(("norm", "ord_dual"), [("linf", 1), ("l2", 2)])
def test_minimal_attacks_reach_the_exact_distance_of_a_linear_network(norm, ord_dual):
    """There the nearest boundary is known: |lead| / dual norm of the difference of weights."""
    rng = np.random.default_rng(1)
    inputs = keras.Input((4, 4, 1))
    linear = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(inputs)))
    kernel = rng.normal(size=(16, 4)).astype(np.float32)
    linear.layers[-1].set_weights([kernel, np.zeros(4)])
    x = rng.uniform(0.45, 0.55, (20, 4, 4, 1)).astype(np.float32)
    logits = x.reshape(20, 16) @ kernel
    y = logits.argmax(axis=1)
    want = np.array([
        min(
            (logits[i, y[i]] - logits[i, j]) / np.linalg.norm(kernel[:, y[i]] - kernel[:, j], ord_dual)
            for j in range(4)
            if j != y[i]
        )
        for i in range(20)
    ])  # fmt: skip
    attacks = [FAB(norm=norm, seed=0), FAB(norm=norm, target_classes=None, seed=0)]
    if norm == "l2":
        attacks += [
            DDN(steps=300, seed=0),
            CarliniWagner(steps=500, binary_search_steps=12, seed=0),
            Boundary(query_budget=6000, seed=0),
        ]
    near = want < 0.4  # elsewhere the box would matter
    assert near.sum() > 10
    for attack in attacks:
        result = attack.run(linear, x, y)
        assert result.success.all()
        got = distances(x, result.x_adv, norm)
        # DDN's lengths are steps of 5 %.
        tolerance = {Boundary: 0.1, DDN: 0.05}.get(type(attack), 0.03)
        assert (got[near] >= want[near] * (1 - 1e-3)).all(), attack
        assert np.median(got[near] / want[near]) < 1 + tolerance, attack


def test_more_restarts_are_not_farther(model, right):
    x, y = right[0][:32], right[1][:32]
    one = distances(x, FAB(steps=10, target_classes=None, seed=1)(model, x, y), "linf")
    three = distances(x, FAB(steps=10, target_classes=None, seed=1, restarts=3)(model, x, y), "linf")
    assert (three <= one + 1e-7).all()


# --- against foolbox ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fool(model):
    foolbox = pytest.importorskip("foolbox", reason="foolbox, which the results are compared with, is not installed")
    return foolbox, foolbox.TensorFlowModel(logits_fn(model), bounds=(0, 1))


@pytest.mark.parametrize("kind", ["ddn", "cw"])
def test_median_distance_is_foolboxs(model, right, fool, kind):
    foolbox, wrapped = fool
    x, y = right[0][:64], right[1][:64]
    if kind == "ddn":
        ours, theirs = DDN(seed=0), foolbox.attacks.DDNAttack(steps=100)
    else:
        settings = {"steps": 150, "binary_search_steps": 5, "confidence": 0, "abort_early": True}
        ours = CarliniWagner(**settings, learning_rate=0.02, initial_const=1.0, seed=0)
        theirs = foolbox.attacks.L2CarliniWagnerAttack(**settings, stepsize=0.02, initial_const=1.0)
    result = ours.run(model, x, y)
    assert result.success.all()
    _, other, fooled = theirs(wrapped, tf.constant(x), tf.constant(y, tf.int32), epsilons=None)
    assert fooled.numpy().all()
    mine, other = np.median(distances(x, result.x_adv, "l2")), np.median(distances(x, other.numpy(), "l2"))
    assert mine <= other * 1.02
    assert mine >= other * 0.9


def test_confidence_is_kept(model, right):
    x, y = right[0][:16], right[1][:16]
    cheap = {"steps": 60, "binary_search_steps": 5, "learning_rate": 0.05, "initial_const": 1.0, "seed": 0}
    result = CarliniWagner(confidence=3.0, **cheap).run(model, x, y)
    logits = logits_fn(model)(tf.constant(result.x_adv)).numpy()[result.success]
    own = logits[np.arange(len(logits)), y[result.success]]
    assert (logits.max(axis=1) - own > 3.0 - 1e-3).all()
    assert result.success.mean() > 0.9


def test_const_means_the_same_in_any_range(model, right):
    """Of images in [0, 255] the squared distance is 65025 times that in [0, 1]; the logits are no larger."""
    x, y = right[0][:16], right[1][:16]
    flat = scaled(model, 0.02)
    bytes_in = keras.Sequential([layers.Input((8, 8, 1)), layers.Rescaling(1 / 255), flat])
    attack = CarliniWagner(steps=60, binary_search_steps=5, learning_rate=0.1)
    result = attack.run(flat, x, y)
    other = dataclasses.replace(attack, bounds=(0.0, 255.0)).run(bytes_in, 255 * x, y)
    assert result.success.mean() > 0.9
    np.testing.assert_array_equal(other.success, result.success)
    np.testing.assert_allclose(distances(255 * x, other.x_adv, "l2") / 255, distances(x, result.x_adv, "l2"), rtol=0.05)


def test_samples_do_not_influence_each_other(model, right):
    x, y = right[0][:12], right[1][:12]
    for attack in (DDN(steps=20, seed=0), TABLE["cw"][0], FAB(steps=10, seed=0)):
        whole = attack(model, x, y)
        np.testing.assert_allclose(attack(model, x[:5], y[:5]), whole[:5], atol=2e-4)


@pytest.mark.parametrize("kind", [FGSM, PGD, BIM, MIM, APGD])
def test_small_gradients_are_climbed_like_any(model, right, kind):
    """Of a confident network the gradient is tiny; steps in L2 have their full length all the same."""
    x, y = right[0][:N], right[1][:N]
    # By a power of 2, which rounds nothing away.
    losses = (cross_entropy, lambda labels, logits: 2.0**-70 * cross_entropy(labels, logits))
    large, small = (kind(loss=loss, norm="l2", eps=0.8, seed=5, **STEP.get(kind, {}))(model, x, y) for loss in losses)
    np.testing.assert_allclose(small, large, atol=1e-6)


def test_unit_length_whatever_the_length():
    x = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    x[4] = 0
    want = np.zeros_like(x)
    want[:4] = x[:4] / np.linalg.norm(x[:4].reshape(4, -1), axis=1)[:, None, None]
    for factor in (1.0, 1e-8, 1e-22, 1e-36, 1e30):
        np.testing.assert_allclose(unit(tf.constant(factor * x, tf.float32)), want, atol=1e-6)


# --- temperature ----------------------------------------------------------------------------------------------------


def scaled(model, factor):
    return keras.Sequential([layers.Input((8, 8, 1)), model, layers.Lambda(lambda z: z * factor)])


@pytest.mark.parametrize("kind", [FGSM, PGD, APGD])
def test_temperature_undoes_a_logit_scale(model, right, kind):
    """Logits times 3000 leave no gradient of the cross-entropy; the attack with a temperature does not notice."""
    x, y = right[0][:64], right[1][:64]
    masked = scaled(model, 3000.0)
    honest = kind(seed=0, temperature="auto", eps=0.1).run(model, x, y).success.mean()
    fooled = kind(seed=0, eps=0.1).run(masked, x, y).success.mean()
    auto = kind(seed=0, temperature="auto", eps=0.1).run(masked, x, y).success.mean()
    by_hand = kind(seed=0, temperature=3000.0, eps=0.1).run(masked, x, y).success.mean()
    plain = kind(seed=0, eps=0.1).run(model, x, y).success.mean()
    assert abs(auto - honest) <= 0.05
    assert abs(by_hand - plain) <= 0.05
    if kind in (FGSM, PGD):
        assert auto > fooled + 0.1


def test_autoattack_finds_saturated_logits_itself(model, right):
    x, y = right[0][:64], right[1][:64]
    settings = {"seed": 0, "eps": 0.1, "steps": 10, "query_budget": 2}
    honest = AutoAttack(**settings).run(model, x, y).success.mean()
    masked = scaled(model, 3000.0)
    assert abs(AutoAttack(**settings).run(masked, x, y).success.mean() - honest) <= 0.05
    names = AutoAttack(temperature=1.0, **settings).stages(10)
    assert {attack.temperature for name, attack in names.items() if name != "square"} == {1.0}


def test_auto_temperature_makes_the_median_lead_one():
    logits = tf.constant(np.random.default_rng(0).normal(size=(41, 5)) * 500, tf.float32)
    top = np.sort(tempered(lambda x: logits, tf.zeros((41, 1)), "auto")(None).numpy(), axis=1)
    assert np.median(top[:, -1] - top[:, -2]) == pytest.approx(1)
    assert auto_temperature(tf.zeros((3, 4))) == 1


# --- transfer -------------------------------------------------------------------------------------------------------


def test_transfer_to_itself_is_the_attack(model, right):
    x, y = right[0][:N], right[1][:N]
    attack = PGD(eps=0.15, step_size=0.05, seed=1)
    result = Transfer(source_model=model, attack=attack).run(model, x, y)
    np.testing.assert_array_equal(result.x_adv, attack(model, x, y))
    assert (result.queries == 2).all()
    other = keras.Sequential([layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])
    to_callable = Transfer(source_model=model, attack=attack).run(lambda x: other(x).numpy(), x, y)
    np.testing.assert_array_equal(to_callable.success, predicted(other, to_callable.x_adv) != y)
    assert "source_model='small_cnn'" in repr(Transfer(source_model=model, attack=attack))


def test_transfer_takes_bounds_and_targeted_from_its_attack(model, right):
    attack = PGD(bounds=(0, 2), targeted=True)
    transfer = Transfer(source_model=model, attack=attack)
    assert transfer.bounds == (0, 2)
    assert transfer.targeted
    assert dataclasses.replace(transfer, seed=3).seed == 3
    transfer.run(model, right[0][:4], right[1][:4], y_target=(right[1][:4] + 1) % 10)
    with pytest.raises(ValueError, match="bounds as in the attack"):
        Transfer(source_model=model, attack=attack, bounds=(0, 3))
    with pytest.raises(TypeError, match="attack"):
        Transfer(source_model=model, attack=PGD)
    with pytest.raises(TypeError, match="tf_keras"):
        Transfer(source_model=lambda x: x, attack=PGD())


# --- graph, settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ddn", "apgd-ce linf"])
def test_tensor_eps_in_a_graph(model, right, name):
    eps = tf.Variable(0.01)
    attack, norm = TABLE[name]
    attack = dataclasses.replace(attack, eps=eps)
    traces = []

    @tf.function
    def step(x, y):
        traces.append(1)
        return attack.perturb(logits_fn(model), x, y, seed=tf.constant([1, 2]))

    for value in (0.01, 0.05):
        eps.assign(value)
        x_adv = step(tf.constant(right[0][:4]), tf.constant(right[1][:4])).numpy()
        assert distances(right[0][:4], x_adv, norm).max() <= value + 1e-6
        assert np.abs(x_adv - right[0][:4]).max() > value / 20
    assert len(traces) == 1


@pytest.mark.parametrize("name", ["boundary", "autoattack", "square l2"])
def test_eager_attacks_stay_out_of_graphs(model, right, name):
    with pytest.raises(TypeError, match="outside of training"):
        TABLE[name][0].perturb(logits_fn(model), right[0][:2], right[1][:2], seed=tf.constant([0, 0]))


@pytest.mark.parametrize("name", ["autoattack", "square linf"])
def test_low_bit_networks(model, right, name):
    low_bit = esq.quantize_model(model, weights="ternary")
    x = right[0][:8]
    y = predicted(low_bit, x)
    result = TABLE[name][0].run(low_bit, x, y)
    np.testing.assert_array_equal(result.success, predicted(low_bit, result.x_adv) != y)
    assert result.success.any()


@pytest.mark.parametrize(
    ("kind", "settings", "error", "message"),
    [
        (DDN, {"gamma": 0}, ValueError, "gamma"),
        (DDN, {"gamma": 2}, ValueError, "gamma"),
        (DDN, {"steps": 0}, ValueError, "steps"),
        (DDN, {"init_eps": -1}, ValueError, "init_eps"),
        (DDN, {"eps": 0}, ValueError, "eps"),
        (DDN, {"temperature": 0}, ValueError, "temperature"),
        (DDN, {"temperature": "hot"}, ValueError, "'auto'"),
        (PGD, {"temperature": -1.0}, ValueError, "temperature"),
        (CarliniWagner, {"confidence": -1}, ValueError, "confidence"),
        (CarliniWagner, {"binary_search_steps": 0}, ValueError, "binary_search_steps"),
        (CarliniWagner, {"abort_early": 1}, TypeError, "abort_early"),
        (APGD, {"loss": "targeted"}, ValueError, "known loss"),
        (APGD, {"rho": 1.5}, ValueError, "rho"),
        (APGD, {"eps": 0}, ValueError, "eps"),
        (APGD, {"target_classes": 0}, ValueError, "target_classes"),
        (FAB, {"eta": 0.9}, ValueError, "eta"),
        (FAB, {"alpha_max": 0}, ValueError, "alpha_max"),
        (FAB, {"beta": 2}, ValueError, "beta"),
        (FAB, {"norm": "l1"}, ValueError, "norm"),
        (AutoAttack, {"version": "plus"}, ValueError, "'standard' or 'rand'"),
        (AutoAttack, {"targeted": True}, ValueError, "untargeted"),
        (AutoAttack, {"eps": 0}, ValueError, "eps"),
        (Square, {"p_init": 0}, ValueError, "p_init"),
        (Square, {"query_budget": 1}, ValueError, "query_budget"),
        (Square, {"eps": 0}, ValueError, "eps"),
        (Boundary, {"spherical_step": 0}, ValueError, "spherical_step"),
        (NAttack, {"population": 1}, ValueError, "population"),
        (NAttack, {"sigma": 0}, ValueError, "sigma"),
    ],
)
def test_bad_settings(kind, settings, error, message):
    with pytest.raises(error, match=message):
        kind(**settings)
