"""Score and decision attacks on anything that answers: functions, objects with predict, files, Keras 2 and 3."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.attacks import PGD, AutoAttack, Boundary, NAttack, Square, logits_fn
from keras_esq.attacks.norms import distances
from keras_esq.attacks.oracle import Oracle, Questions, log_scores

layers = keras.layers


@pytest.fixture(scope="module")
def model(digits):
    keras.utils.set_random_seed(0)
    model = esq.models.small_cnn(width=4)
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits.x_train, digits.y_train, epochs=8, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="module")
def right(model, digits):
    ok = logits_fn(model)(tf.constant(digits.x_test)).numpy().argmax(axis=1) == digits.y_test
    return digits.x_test[ok][:24], digits.y_test[ok][:24]


class Counter:
    """A function of numpy that counts how many images it was asked about."""

    def __init__(self, model):
        self.logits, self.asked = logits_fn(model), 0

    def __call__(self, x):
        assert isinstance(x, np.ndarray)
        assert x.dtype == np.float32
        self.asked += len(x)
        return self.logits(tf.constant(x)).numpy()


ATTACKS = {
    "square linf": Square(eps=0.15, query_budget=120, seed=1),
    "square l2": Square(eps=0.8, norm="l2", query_budget=120, seed=1),
    "boundary": Boundary(query_budget=300, seed=1),
    "boundary eps": Boundary(query_budget=300, eps=0.8, seed=1),
    "nattack": NAttack(eps=0.15, query_budget=250, population=40, learning_rate=0.2, seed=1),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_queries_are_counted_and_within_the_budget(model, right, name):
    attack, counter = ATTACKS[name], Counter(model)
    x, y = right
    y = y.copy()
    y[0] = (y[0] + 1) % 10
    result = attack.run(counter, x, y, batch_size=10)
    assert result.queries.sum() == counter.asked
    assert result.queries[0] == 1
    assert result.queries.max() <= attack.query_budget
    np.testing.assert_array_equal(result.success, counter(result.x_adv).argmax(axis=1) != y)
    # Samples that fell cost nothing more.
    if name != "boundary":
        assert result.queries[result.success].mean() < result.queries.max()
    for budget in (2, 3, 7):
        small = dataclasses.replace(attack, query_budget=budget).run(counter, x, y)
        assert small.queries.max() <= budget
        np.testing.assert_array_equal(small.success, counter(small.x_adv).argmax(axis=1) != y)


@pytest.mark.parametrize("name", ATTACKS)
def test_same_result_whatever_answers(model, right, name):
    """The Keras model, a function, an object with predict: one seed, one result."""
    x, y = right[0][:6], right[1][:6]
    want = ATTACKS[name](model, x, y)

    class Predictor:
        predict = staticmethod(Counter(model))

    def mutating(z):
        scores = Counter(model)(z)
        z[:] = 0
        return scores.tolist()

    for target in (Counter(model), Predictor(), mutating):
        np.testing.assert_array_equal(ATTACKS[name](target, x, y), want)
    assert (dataclasses.replace(ATTACKS[name], seed=2)(model, x, y) != want).any()


def test_keras_3_models_answer():
    import keras as keras_3

    network = keras_3.Sequential([keras_3.layers.Input((8, 8, 1)), keras_3.layers.Flatten(), keras_3.layers.Dense(3)])
    x = np.random.default_rng(0).random((5, 8, 8, 1), dtype=np.float32)
    np.testing.assert_allclose(Oracle(network)(x), network(x), atol=1e-5)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: np.full((len(x), 10), np.nan), "NaN or infinity for"),
        (lambda x: np.full((len(x), 10), np.inf), "NaN or infinity"),
        (lambda x: np.zeros(len(x)), r"shape \(6, classes\)"),
        (lambda x: np.zeros((len(x) + 1, 10)), "Received shape"),
        (lambda x: np.zeros((len(x), 1)), "two classes"),
        (lambda x: np.zeros((len(x), 2, 5)), "Received shape"),
        (lambda x: [["a", "b"]] * len(x), "numbers"),
    ],
)
def test_bad_answers_are_errors(right, name, answer, message):
    with pytest.raises(ValueError, match=message):
        ATTACKS[name](answer, right[0][:6], right[1][:6])


@pytest.mark.parametrize("name", ATTACKS)
def test_nan_that_comes_later_is_an_error(model, right, name):
    fine = Counter(model)

    def later(x):
        scores = fine(x)
        if fine.asked > 20:
            scores[0] = np.nan
        return scores

    with pytest.raises(ValueError, match="NaN"):
        ATTACKS[name](later, *right)


def test_classes_may_not_change(right):
    sizes = iter(range(3, 100))
    with pytest.raises(ValueError, match=r"\(\d, 3\)"):
        ATTACKS["square linf"](lambda x: np.zeros((len(x), next(sizes))), right[0][:6], right[1][:6] % 3)


@pytest.mark.parametrize("target", [3, None, "model.tflite", Counter])
def test_no_classifier(right, target):
    with pytest.raises(TypeError, match="Expected a classifier"):
        ATTACKS["boundary"](target, *right)


def test_gradient_attacks_refuse_functions(model, right):
    for attack in (PGD(), AutoAttack()):
        with pytest.raises(TypeError, match="tf_keras"):
            attack(Counter(model), *right)


def test_evaluate_robustness_takes_what_answers(model, right):
    report = esq.evaluate_robustness(Counter(model), *right, attacks={"square": ATTACKS["square linf"]}, progress=False)
    same = esq.evaluate_robustness(model, *right, attacks={"square": ATTACKS["square linf"]}, progress=False)
    assert report.accuracy("square") == same.accuracy("square") < 1


def test_a_file_is_attacked(model, right, digits, tmp_path):
    file = esq.convert(model, tmp_path / "model.tflite", target="phone", calibration=digits.x_train[:100])
    x, y = right
    for name in ("square linf", "boundary eps"):
        result = ATTACKS[name].run(file, x, y)
        np.testing.assert_array_equal(result.success, file.predict(result.x_adv).argmax(axis=1) != y)
        assert result.success.mean() > 0.3
    report = esq.evaluate_robustness(file, x, y, attacks=[ATTACKS["square linf"]], progress=False)
    assert report.accuracy("square") < 1
    assert "model.tflite" in report.target


# --- each attack's own ----------------------------------------------------------------------------------------------


def test_square_is_not_stronger_than_white_box_and_not_far_from_it(model, right):
    x, y = right
    white = PGD(eps=0.12, step_size=0.01, steps=60, restarts=3, seed=0).run(model, x, y).success.mean()
    square = Square(eps=0.12, query_budget=2000, seed=0).run(model, x, y).success.mean()
    assert white - 0.2 <= square <= white + 0.05


def test_squares_schedule():
    """Share of pixels p_init, halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries."""
    attack = Square(query_budget=10_000)
    shares = [(attack.side(number, (1000, 1000, 3)) / 1000) ** 2 for number in (1, 10, 11, 51, 201, 501, 1001, 8001)]
    np.testing.assert_allclose(shares, 0.8 / 2.0 ** np.array([0, 0, 1, 2, 3, 4, 5, 9]), rtol=0.05)
    faster = Square(query_budget=1000)
    assert faster.side(2, (1000, 1000, 3)) == attack.side(20, (1000, 1000, 3))
    for size in (1, 2, 3, 8):
        for norm in ("linf", "l2"):
            assert 1 <= Square(norm=norm).side(1, (size, size, 1)) <= size


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (28, 28, 3), (5, 9)])
def test_square_on_images_of_any_size(norm, shape):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(int(np.prod(shape)), 3)).astype(np.float32)
    x = rng.random((4, *shape), dtype=np.float32)
    y = (x.reshape(4, -1) @ kernel).argmax(axis=1)
    x_adv = Square(norm=norm, eps=0.2, query_budget=30, seed=0)(lambda z: z.reshape(len(z), -1) @ kernel, x, y)
    assert distances(x, x_adv, norm).max() <= 0.2 + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_square_needs_images():
    with pytest.raises(ValueError, match="height, width"):
        Square()(lambda x: np.tile([1.0, 0.0], (len(x), 1)), np.zeros((2, 4)), [0, 0])


def test_boundary_comes_nearer_with_more_queries(model, right):
    x, y = right
    medians = [
        np.median(distances(x, Boundary(query_budget=budget, seed=0)(model, x, y), "l2")) for budget in (50, 300, 2000)
    ]
    assert medians[0] > medians[1] > medians[2]


def test_boundary_sees_only_decisions(model, right):
    """Scores that tell nothing but the winner lead to the same images."""
    counter = Counter(model)
    x, y = right[0][:6], right[1][:6]
    want = ATTACKS["boundary"](counter, x, y)
    decisions = ATTACKS["boundary"](lambda z: np.eye(10)[counter(z).argmax(axis=1)], x, y)
    np.testing.assert_array_equal(decisions, want)


def test_boundary_starts_from_other_images_where_noise_fools_nobody(right):
    """A classifier that calls everything class 0 but images with one bright corner."""

    def corner(x):
        bright = x[:, 0, 0, 0] == 1.0
        return np.stack([~bright, bright], axis=1).astype(float)

    x = right[0].copy()
    x[:, 0, 0, 0] = 0
    x[3, 0, 0, 0] = 1
    y = np.zeros(len(x), int)
    y[3] = 1
    result = Boundary(query_budget=200, seed=0).run(corner, x, y)
    assert result.success[np.arange(len(x)) != 3].all()
    y[3] = 0  # now it is fooled as it is and no sample under attack: none to start from
    assert not Boundary(query_budget=200, seed=0).run(corner, x, y).success[0]


def test_boundary_reaches_what_a_decision_attack_can(model, right):
    """Near the white-box minimum: within 1.5 times DDN's median."""
    x, y = right
    far = np.median(distances(x, Boundary(query_budget=3000, seed=0)(model, x, y), "l2"))
    near = np.median(distances(x, esq.attacks.DDN(seed=0)(model, x, y), "l2"))
    assert near * 0.95 <= far <= near * 1.5


def test_nattack_is_its_papers_pseudocode(model, right, monkeypatch):
    """Algorithm 1 in plain loops, with the same draws: the same mean of the distribution after three iterations."""
    x, y = right[0][:2], right[1][:2]
    x, y = x * 0.9 + 0.05, y
    counter = Counter(model)
    attack = NAttack(eps=0.03, population=10, query_budget=32, sigma=0.1, learning_rate=0.02, seed=4)
    result = attack.run(counter, x, y)
    assert not result.success.any()
    assert (result.queries == 32).all()  # the clean image, three populations, the mean
    rng = np.random.default_rng([4, 0])
    mu = np.arctanh((x.reshape(2, -1) - 0.5) / 0.5 * 0.999999)
    mu = mu + 0.001 * rng.standard_normal(mu.shape, dtype=np.float32)
    for _ in range(3):
        noise = rng.standard_normal((2, 10, 64), dtype=np.float32)
        for i in range(2):
            losses = []
            for b in range(10):
                g = 0.5 * (np.tanh(mu[i] + 0.1 * noise[i, b]) + 1)
                delta = np.clip(g - x[i].ravel(), -0.03, 0.03)
                z = counter((x[i].ravel() + delta).reshape(1, 8, 8, 1).astype(np.float32))[0].astype(np.float64)
                log_p = z - np.log(np.exp(z).sum())
                losses.append(max(0.0, log_p[y[i]] - np.delete(log_p, y[i]).max()))
            f = (np.array(losses) - np.mean(losses)) / np.std(losses)
            mu[i] -= 0.02 / (10 * 0.1) * (f[:, None] * noise[i]).sum(axis=0)
    want = x.reshape(2, -1) + np.clip(0.5 * (np.tanh(mu) + 1) - x.reshape(2, -1), -0.03, 0.03)
    np.testing.assert_allclose(result.x_adv.reshape(2, -1), want, atol=1e-4)


def test_log_scores_of_probabilities_only():
    probabilities = np.array([[0.7, 0.3, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(log_scores(probabilities)[0], np.log([0.7, 0.3, 1e-30]))
    logits = np.array([[0.7, 0.9, 0.2]])
    np.testing.assert_array_equal(log_scores(logits), logits)


def test_lead_and_fooled():
    scores = np.array([[3.0, 1.0, 0.0], [1.0, 3.0, 0.0]], np.float32)
    labels, both = np.array([0, 0]), np.arange(2)
    away = Questions(Oracle(lambda x: scores), labels, False, scores, 10)
    np.testing.assert_array_equal(away.lead(scores, both), [-2, 2])
    np.testing.assert_array_equal(away.fooled(scores, both), [False, True])
    towards = Questions(Oracle(lambda x: scores), labels, True, scores, 10)
    np.testing.assert_array_equal(towards.lead(scores, both), [2, -2])
    np.testing.assert_array_equal(towards.fooled(scores, both), [True, False])
