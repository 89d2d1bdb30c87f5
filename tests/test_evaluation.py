"""The robustness report and error amplification, against calculations of their own."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

from keras_esq._keras import keras, tfmot_quantization
from keras_esq.attacks import BIM, FGSM, PGD, Attack, logits_fn
from keras_esq.evaluation import (
    AmplificationProfile,
    RobustnessReport,
    attack_set,
    error_amplification,
    evaluate_robustness,
    paired_interval,
    plot_amplification,
    plots,
    wilson_interval,
)

layers = keras.layers
RNG = np.random.default_rng(0)
N = 60
Y = RNG.integers(0, 3, N)
# Three classes told apart by a bright row, under much noise: some samples are easy to fool and some are not.
X = RNG.uniform(0, 0.6, (N, 8, 8, 1)).astype(np.float32)
X[np.arange(N), 2 * Y] += 0.25
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    network = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(4, 3, strides=2, name="conv"),
            layers.ReLU(name="relu"),
            layers.Flatten(),
            layers.Dense(8, activation="relu", name="hidden"),
            layers.Dense(3, activation="softmax", name="head"),
        ],
        name="tiny",
    )
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.optimizer.learning_rate = 0.02
    network.fit(X, Y, epochs=25, verbose=0)
    return network


@pytest.fixture(scope="module")
def report(model):
    attacks = {"fgsm": FGSM(eps=0.05), "pgd": PGD(eps=0.05, step_size=0.0125, steps=10, restarts=2)}
    return evaluate_robustness(model, X, Y, attacks=attacks, batch_size=16, progress=False, keep_examples=True)


def predicted(model, x):
    return np.argmax(model.predict(x, verbose=0), axis=1)


# --- the report -----------------------------------------------------------------------------------------------------


def test_rows_are_what_the_images_say(model, report):
    assert [row.name for row in report.rows] == ["clean", "fgsm", "pgd", "worst case"]
    assert report.accuracy("clean") == pytest.approx(model.evaluate(X, Y, verbose=0)[1])
    assert report.accuracy("pgd") < report.accuracy("clean")
    assert 0 < report.accuracy("pgd") < 1
    clean = predicted(model, X) == Y
    worst = clean.copy()
    for name in ("fgsm", "pgd"):
        robust = clean & (predicted(model, report.x_adv[name]) == Y)
        np.testing.assert_array_equal(report.robust[name], robust)
        worst &= robust
        row = report.row(name)
        assert (row.correct, row.n) == (robust.sum(), N)
        assert (row.low, row.high) == wilson_interval(row.correct, N)
        difference = (report.x_adv[name].astype(np.float64) - X)[clean & ~robust].reshape(
            row.n - robust.sum() - (~clean).sum(), -1
        )
        assert row.median_linf == pytest.approx(np.median(np.abs(difference).max(axis=1)))
        assert row.mean_l2 == pytest.approx(np.mean(np.sqrt((difference**2).sum(axis=1))))
        assert row.median_linf <= 0.05 + 1e-6
        np.testing.assert_array_equal(report.x_adv[name][~clean], X[~clean])
    np.testing.assert_array_equal(report.robust["worst case"], worst)
    assert report.accuracy("worst case") == worst.mean()
    assert report.row("clean").median_l2 is None


def test_accuracy_equals_an_independent_loop_on_cleverhans(model):
    attack = BIM(eps=0.04, step_size=0.01, steps=10)
    report = evaluate_robustness(model, X, Y, attacks=attack, batch_size=25, progress=False)
    before_softmax = keras.Sequential(model.layers[:-1])
    kernel, bias = model.layers[-1].get_weights()

    def model_fn(x):  # one function: cleverhans traces its gradient anew for every other
        return before_softmax(x) @ kernel + bias

    correct = 0
    for x, y in zip(np.split(X, N), np.split(Y, N), strict=True):
        x_adv = projected_gradient_descent(
            model_fn, tf.constant(x), 0.04, 0.01, 10, np.inf, None, 0.0, 1.0, tf.constant(y)
        )
        correct += int(predicted(model, x)[0] == y[0] == predicted(model, x_adv.numpy())[0])
    assert 0 < correct < N
    assert report.row("bim").correct == correct


def test_same_seed_same_report_whatever_the_other_attacks(model):
    pgd = PGD(eps=0.05, steps=1)
    keep = {"progress": False, "keep_examples": True, "batch_size": 16}
    one = evaluate_robustness(model, X, Y, attacks=pgd, seed=3, **keep).x_adv["pgd"]
    np.testing.assert_array_equal(
        one, evaluate_robustness(model, X, Y, attacks=[FGSM(), pgd], seed=3, **keep).x_adv["pgd"]
    )
    assert (one != evaluate_robustness(model, X, Y, attacks=pgd, seed=4, **keep).x_adv["pgd"]).any()
    own = evaluate_robustness(model, X, Y, attacks=dataclasses.replace(pgd, seed=3), seed=4, **keep).x_adv["pgd"]
    np.testing.assert_array_equal(one, own)


def test_sets_and_names(model):
    assert attack_set("quick") == {"fgsm": FGSM(), "pgd": PGD(steps=20, restarts=5)}
    report = evaluate_robustness(model, X[:4], Y[:4], attacks=[FGSM(), PGD(steps=1), FGSM(eps=0.3)], progress=False)
    assert [row.name for row in report.rows[1:-1]] == ["fgsm", "pgd", "fgsm-2"]
    assert report.row("fgsm-2").settings == repr(FGSM(eps=0.3))


def test_always_wrong_model_is_not_attacked(model):
    wrong = (predicted(model, X) + 1) % 3
    report = evaluate_robustness(model, X, wrong, progress=False)
    assert [row.accuracy for row in report.rows] == [0.0] * 4
    assert report.row("pgd").median_l2 is None


def test_labels_of_every_form(model):
    for y in (np.eye(3)[Y], np.eye(3, dtype=bool)[Y], Y[:, None], Y.tolist(), tf.constant(Y)):
        assert evaluate_robustness(model, X, y, attacks=FGSM(), progress=False).accuracy("clean") > 0.5


def test_two_classes_with_one_sigmoid():
    network = keras.Sequential([layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(1, activation="sigmoid")])
    y = (network.predict(X, verbose=0)[:, 0] > 0.5).astype(int)
    report = evaluate_robustness(network, X, y, attacks=FGSM(eps=0.3), progress=False)
    assert report.accuracy("clean") == 1
    assert report.accuracy("fgsm") < 0.1


def test_progress_bar_only_if_wanted(model, capfd):
    evaluate_robustness(model, X[:4], Y[:4], attacks=FGSM(), progress=False)
    assert "fgsm" not in capfd.readouterr().err
    evaluate_robustness(model, X[:4], Y[:4], attacks=FGSM())
    assert "fgsm" in capfd.readouterr().err


# --- its forms ------------------------------------------------------------------------------------------------------


def test_tables(report):
    lines = report.table().splitlines()
    assert len(lines) == 6
    assert len({len(line) for line in lines}) == 1
    assert "worst case" in lines[-1]
    markdown = report.to_markdown().splitlines()
    assert len(markdown) == 6
    assert {line.count("|") for line in markdown} == {9}
    renamed = dataclasses.replace(report, rows=[dataclasses.replace(report.rows[0], name="a|b")])
    assert "a\\|b" in renamed.to_markdown()


def test_json_round_trip(report, tmp_path):
    path = tmp_path / "report.json"
    text = report.to_json(path)
    assert json.loads(text)["rows"][0]["median_l2"] is None
    for again in (RobustnessReport.from_json(path), RobustnessReport.from_json(text)):
        assert again.rows == report.rows
        assert again.to_json() == text
        np.testing.assert_array_equal(again.robust["pgd"], report.robust["pgd"])


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"format": 99}', '{"format": 1, "target": "a", "rows": [{}]}'])
def test_foreign_json(content, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"report\.json"):
        RobustnessReport.from_json(path)


@pytest.mark.parametrize(("largest", "scale"), [(0.9, "linear"), (6.0, "log")])
def test_one_large_amplification_leaves_the_others_readable(largest, scale, tmp_path, monkeypatch):
    drawn = []
    write = plots.write_figure
    monkeypatch.setattr(plots, "write_figure", lambda figure, path: drawn.append(figure) or write(figure, path))
    values = {"relu1": 0.2, "logits": largest}
    nothing = dict.fromkeys(values, 0)
    profile = AmplificationProfile(mean=values, std=nothing, undefined=nothing, n=10)
    assert plot_amplification({"one": profile}, tmp_path / "a.png").exists()
    assert drawn[0].axes[0].get_yscale() == scale


def test_pictures(report, model, tmp_path):
    profile = error_amplification(model, X, report.x_adv["pgd"])
    fewer = error_amplification(model, X, report.x_adv["pgd"], layers=["hidden", "logits"])
    report.plot(tmp_path / "report.png")
    plot_amplification({"one": profile, "other": fewer}, tmp_path / "profile")
    for name in ("report.png", "profile"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(PNG)
        assert content.endswith(b"IEND\xaeB`\x82")
    report.plot(tmp_path / "report.svg")
    assert "<svg" in (tmp_path / "report.svg").read_text()


def test_unwritable_paths_leave_nothing(report, tmp_path):
    profile = error_amplification_of_ones()
    for write in (report.to_json, report.plot, lambda path: plot_amplification({"a": profile}, path)):
        with pytest.raises(FileNotFoundError, match="Create the folder"):
            write(tmp_path / "missing" / "file.png")
        with pytest.raises(IsADirectoryError):
            write(tmp_path)
    with pytest.raises(ValueError, match="png"):
        report.plot(tmp_path / "report.docx")
    with pytest.raises(ValueError, match="at least one profile"):
        plot_amplification({}, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_import_needs_no_matplotlib():
    # Keras itself imports matplotlib where it is installed, so it is blocked here rather than looked for.
    code = "import sys; sys.modules['matplotlib'] = None; import keras_esq.evaluation"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Wilson ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 1000), (1, 1000), (37, 100), (500, 1000), (1000, 1000)])
def test_wilson(k, n):
    # The ends are the shares p whose distance from k/n is z standard deviations: roots of a quadratic.
    z = 1.959963984540054
    roots = np.sort(np.roots([n + z * z, -(2 * k + z * z), k * k / n]).real)
    low, high = wilson_interval(k, n)
    np.testing.assert_allclose([low, high], roots, atol=1e-12)
    assert 0 <= low <= k / n <= high <= 1


@pytest.mark.parametrize(
    ("k", "n", "error"), [(1, 0, ValueError), (2, 1, ValueError), (-1, 1, ValueError), (0.5, 1, TypeError)]
)
def test_wilson_bad_input(k, n, error):
    with pytest.raises(error, match=r"Expected"):
        wilson_interval(k, n)


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 0, 10), (3, 9, 50), (9, 3, 50), (0, 4, 400), (30, 42, 1000)])
def test_paired_interval(gained, lost, n):
    """Agresti and Min's formula on the table with half a sample more in each of its four cells."""
    low, high = paired_interval([1] * gained + [-1] * lost + [0] * (n - gained - lost))
    b, c, total = gained + 0.5, lost + 0.5, n + 2
    half = 1.959963984540054 * np.sqrt((b + c) - (b - c) ** 2 / total) / total
    np.testing.assert_allclose([low, high], [(b - c) / total - half, (b - c) / total + half], atol=1e-12)


def test_paired_interval_covers():
    """Where the truth is known: it lies inside 95 times in a hundred, and the interval is of use."""
    rng = np.random.default_rng(0)
    draws = rng.choice([1, 0, -1], p=[0.02, 0.94, 0.04], size=(2000, 500))
    intervals = np.array([paired_interval(one) for one in draws])
    assert ((intervals[:, 0] <= -0.02) & (intervals[:, 1] >= -0.02)).mean() == pytest.approx(0.95, abs=0.02)
    # Two shares counted on different images, 94 and 92 %, would have one of more than 0.06.
    assert np.diff(intervals, axis=1).mean() < 0.05


@pytest.mark.parametrize(
    ("differences", "error"),
    [
        ([], ValueError),
        ([2], ValueError),
        ([0, np.nan], ValueError),
        (np.zeros((2, 2)), ValueError),
        (None, ValueError),
        ("abc", TypeError),
        (["a"], TypeError),
    ],
)
def test_paired_interval_bad_input(differences, error):
    with pytest.raises(error, match="Expected differences"):
        paired_interval(differences)


# --- bad input of the report ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attacks": "quik"}, ValueError, "Did you mean 'quick'"),
        ({"attacks": []}, ValueError, "at least one attack"),
        ({"attacks": 3}, TypeError, "a list or a dict"),
        ({"attacks": [PGD]}, TypeError, "instance"),
        ({"attacks": {"clean": PGD()}}, ValueError, "'clean'"),
        ({"attacks": PGD(targeted=True)}, ValueError, "untargeted"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, "at least one"),
        ({"x": 2 * X}, ValueError, "bounds"),
        ({"x": np.full_like(X, np.nan)}, ValueError, "NaN"),
        ({"x": X[..., 0]}, ValueError, "shape"),
        ({"y": Y + 1}, ValueError, "from 0 to 2"),
        ({"y": Y[:3]}, ValueError, "60 in all"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"seed": None}, TypeError, "seed"),
        ({"target": "model.tflite"}, TypeError, r"tf_keras\.Model"),
        ({"target": None}, TypeError, r"tf_keras\.Model"),
    ],
)
def test_bad_input(model, changes, error, message):
    arguments = {"target": model, "x": X, "y": Y, "progress": False, **changes}
    with pytest.raises(error, match=message):
        evaluate_robustness(arguments.pop("target"), arguments.pop("x"), arguments.pop("y"), **arguments)


def test_nan_predictions_are_an_error(model):
    broken = keras.models.clone_model(model)
    broken.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    with pytest.raises(ValueError, match="NaN"):
        evaluate_robustness(broken, X, Y, progress=False)


def test_an_attack_that_leaves_the_box_is_an_error(model):
    @dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
    class Cheat(Attack):
        def generate(self, model_fn, x, labels, seed):
            return x

        def run(self, *args, **kwargs):
            result = super().run(*args, **kwargs)
            return dataclasses.replace(result, x_adv=result.x_adv + 10)

    with pytest.raises(ValueError, match="images of Cheat inside the bounds"):
        evaluate_robustness(model, X, Y, attacks=Cheat(), progress=False)


def test_unknown_row(report):
    with pytest.raises(KeyError, match="Did you mean 'pgd'"):
        report.accuracy("pdg")


# --- error amplification --------------------------------------------------------------------------------------------


def error_amplification_of_ones():
    network = keras.Sequential([layers.Input((2,)), layers.Dense(2)])
    return error_amplification(network, np.ones((3, 2)), np.ones((3, 2)))


def by_hand(clean, attacked):
    clean, attacked = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (clean, attacked))
    return np.linalg.norm(clean - attacked, axis=1) / np.linalg.norm(clean, axis=1)


def test_amplification_by_hand(model, report):
    x_adv = report.x_adv["pgd"]
    profile = error_amplification(model, X, x_adv, batch_size=16)
    assert list(profile) == ["relu", "hidden", "logits"]
    for name in ("relu", "hidden"):
        part = keras.Model(model.inputs, model.get_layer(name).output)
        want = by_hand(part.predict(X, verbose=0), part.predict(x_adv, verbose=0))
        assert profile[name] == pytest.approx(want.mean(), rel=1e-5)
        assert profile.std[name] == pytest.approx(want.std(), rel=1e-5)
    want = by_hand(logits_fn(model)(tf.constant(X)), logits_fn(model)(tf.constant(x_adv)))
    assert profile.mean["logits"] == pytest.approx(want.mean(), rel=1e-5)
    assert "logits" in profile.table()
    assert error_amplification(model, X, X).mean == {"relu": 0, "hidden": 0, "logits": 0}
    assert error_amplification(model, X, x_adv, layers=["conv"]).mean.keys() == {"conv"}


def test_auto_layers_written_as_operators():
    x = keras.Input((8, 8, 1))
    convs = [layers.Conv2D(2, 3, padding="same")(x) for _ in range(2)]
    h = tf.nn.relu(convs[0] + convs[1])
    h = tf.add_n([tf.math.add(h + 1.0, convs[0]) * 2.0, convs[1]])
    network = keras.Model(x, layers.Dense(3)(layers.Flatten()(h)))
    kinds = [name.split("_")[0] if "oper" not in name else "sum" for name in error_amplification(network, X, X)]
    assert kinds == ["sum", "tf.nn.relu", "tf.math.add", "tf.math.add", "logits"]


def test_auto_layers_of_a_residual_network():
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(2, 3, padding="same", name="linear_conv")(inputs)
    shared = layers.Activation("tanh", name="twice")
    h = layers.BatchNormalization()(shared(x))
    h = shared(layers.Conv2D(2, 3, padding="same", activation="relu", name="conv")(h))
    x = layers.Add(name="add")([x, h])
    nested = keras.Sequential([layers.Flatten(), layers.Dense(4, activation="elu")], name="nested")
    network = keras.Model(inputs, layers.Softmax()(layers.Dense(3)(nested(x))))
    # Used by another network as well: those outputs are none of this one's.
    keras.Model(other := keras.Input((8, 8, 2)), shared(other))

    profile = error_amplification(network, X, X)
    assert set(profile) == {"twice", "twice:1", "conv", "add", "nested", "logits"}
    assert list(profile)[-3:] == ["add", "nested", "logits"]

    class Silenced(keras.Model):
        is_its_network = True

        def __init__(self):
            super().__init__()
            self.network = network

        def call(self, inputs):
            return self.network(inputs)

    noisy = np.clip(X + 0.1, 0, 1)
    assert error_amplification(Silenced(), X, noisy).mean == error_amplification(network, X, noisy).mean


def test_wrapped_layers_go_by_either_name(model):
    quantized = tfmot_quantization.quantize_model(model)
    profile = error_amplification(quantized, X, np.clip(X + 0.1, 0, 1))
    assert list(profile) == ["relu", "hidden", "logits"]
    for name in ("hidden", "quant_hidden"):
        assert error_amplification(quantized, X, X, layers=[name]).mean == {name: 0}


def test_low_bit_models(model):
    quantize_model = pytest.importorskip("keras_esq.quantize").quantize_model
    low_bit = quantize_model(model, weights="binary")
    noisy = np.clip(X + 0.1, 0, 1)
    profile = error_amplification(low_bit, X, noisy)
    assert list(profile) == ["relu", "hidden", "logits"]
    assert profile["logits"] > 0
    report = evaluate_robustness(low_bit, X, Y, attacks=FGSM(), progress=False)
    assert report.accuracy("clean") == pytest.approx(np.mean(predicted(low_bit, X) == Y))


def test_zero_activations_are_counted_not_nan():
    network = keras.Sequential([layers.Input((2,)), layers.ReLU(name="relu"), layers.Dense(2)])
    clean = np.array([[-1, -1], [-1, -1], [1, 0]], np.float32)
    attacked = np.array([[-2, -2], [1, 1], [2, 0]], np.float32)
    profile = error_amplification(network, clean, attacked, layers=["relu"])
    assert profile.mean == {"relu": 0.5}  # of 0 (both zero) and 1; the second sample has no ratio
    assert profile.undefined == {"relu": 1}
    assert np.isnan(error_amplification(network, clean[1:2], attacked[1:2], layers=["relu"])["relu"])


def test_amplification_bad_input(model):
    with pytest.raises(ValueError, match="Did you mean 'hidden'"):
        error_amplification(model, X, X, layers=["hiden"])
    with pytest.raises(ValueError, match="at least one layer"):
        error_amplification(model, X, X, layers=[])
    with pytest.raises(ValueError, match="as many x_adv"):
        error_amplification(model, X, X[:3])
    with pytest.raises(ValueError, match="x_adv of shape"):
        error_amplification(model, X, X[:, :4])
    with pytest.raises(ValueError, match="NaN"):
        error_amplification(model, X, np.full_like(X, np.nan))
    with pytest.raises(TypeError, match=r"tf_keras\.Model"):
        error_amplification(None, X, X)
    with pytest.raises(ValueError, match="functional"):
        error_amplification(keras.Sequential([layers.Dense(2)]), X, X)
    broken = keras.models.clone_model(model)
    broken.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    with pytest.raises(ValueError, match="NaN"):
        error_amplification(broken, X, X)
    with pytest.raises(KeyError, match="layer of this profile"):
        error_amplification(model, X, X)["conv"]
