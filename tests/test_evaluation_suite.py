"""Attack sets, targets without gradients, the cache, curves, contact sheets and transfer."""

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.attacks import APGD, DDN, FGSM, PGD, AutoAttack, Boundary, Square, Transfer
from keras_esq.evaluation import (
    AccuracyCurve,
    accuracy_curve,
    attack_set,
    evaluate_robustness,
    plot_accuracy_curve,
    plot_examples,
    transfer_matrix,
)

layers = keras.layers
N = 30
PNG = b"\x89PNG\r\n\x1a\n"
QUIET = {"progress": False, "batch_size": 8}
SQUARE = Square(eps=0.15, query_budget=40)


def trained(digits, seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(12, activation="relu"), layers.Dense(10)],
        name=f"net{seed}",
    )
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits.x_train, digits.y_train, epochs=6, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="module")
def net(digits):
    return trained(digits, 0)


@pytest.fixture(scope="module")
def other(digits):
    return trained(digits, 1)


@pytest.fixture(scope="module")
def some(digits):
    return digits.x_test[:N], digits.y_test[:N]


def function_of(net):
    weights = net.get_weights()

    def scores(x):
        hidden = np.maximum(x.reshape(len(x), -1) @ weights[0] + weights[1], 0)
        return hidden @ weights[2] + weights[3]

    return scores


# --- sets -----------------------------------------------------------------------------------------------------------


def test_sets():
    paper = attack_set("paper")
    assert list(paper) == ["fgsm", "pgd", "ddn", "cw", "boundary", "nattack"]
    assert paper["fgsm"].eps == 16 / 255
    assert (paper["pgd"].eps, paper["pgd"].steps, paper["pgd"].norm) == (8 / 255, 20, "linf")
    assert paper["pgd"].restarts > 1
    assert {name: paper[name].eps for name in ("ddn", "cw", "boundary", "nattack")} == dict.fromkeys(
        ("ddn", "cw", "boundary", "nattack"), 1.0
    )
    assert paper["nattack"].norm == "l2"
    assert attack_set("autoattack") == {"autoattack": AutoAttack()}
    assert list(attack_set("blackbox")) == ["square", "nattack"]
    assert list(attack_set("blackbox", norm="l2", eps=0.5)) == ["square", "nattack", "boundary"]


def test_settings_of_sets():
    quick = attack_set("quick", eps=0.5, norm="l2", temperature="auto")
    assert quick["pgd"] == PGD(eps=0.5, step_size=0.125, norm="l2", steps=20, restarts=5, temperature="auto")
    for name in ("quick", "autoattack", "blackbox", "paper"):
        wide, plain = attack_set(name, bounds=(-1, 1)), attack_set(name)
        for key, attack in wide.items():
            assert attack.bounds == (-1, 1)
            assert attack.eps == pytest.approx(2 * plain[key].eps)
    with pytest.raises(ValueError, match="radii of their own"):
        attack_set("paper", eps=0.1)
    with pytest.raises(ValueError, match="eps"):
        attack_set("quick", eps=-1)


def test_settings_reach_the_report(net, some):
    report = evaluate_robustness(net, *some, attacks="quick", eps=0.01, **QUIET)
    assert "eps=0.01" in report.row("fgsm").settings
    assert report.row("pgd").median_linf is None or report.row("pgd").median_linf <= 0.01 + 1e-6
    for attacks in (FGSM(), [FGSM()], {"a": FGSM()}):
        with pytest.raises(ValueError, match="only with a named set"):
            evaluate_robustness(net, *some, attacks=attacks, norm="l2", **QUIET)


# --- targets without gradients, and queries -------------------------------------------------------------------------


def test_function_and_model_agree_and_queries_are_counted(net, some):
    attacks = {"square": SQUARE, "boundary": Boundary(eps=1.0, query_budget=60), "fgsm": FGSM()}
    of_net = evaluate_robustness(net, *some, attacks=attacks, keep_examples=True, **QUIET)
    del attacks["fgsm"]
    report = evaluate_robustness(function_of(net), *some, attacks=attacks, keep_examples=True, **QUIET)
    assert report.target == "scores"
    for name, attack in attacks.items():
        assert abs(report.row(name).correct - of_net.row(name).correct) <= 1  # float rounding
        right = report.robust["clean"]
        queries = report.row(name)
        assert 1 < queries.median_queries <= attack.query_budget
        assert 1 < queries.mean_queries <= attack.query_budget
        assert right.sum() > N / 2
    assert of_net.row("fgsm").mean_queries is None
    assert "queries" in report.table()
    again = type(report).from_json(report.to_json())
    assert again.rows == report.rows


def test_gradient_attacks_on_functions_name_what_works(net, some):
    calls = []

    def target(x):
        calls.append(len(x))
        return function_of(net)(x)

    for attacks, named in (("quick", "'fgsm', 'pgd'"), ([SQUARE, DDN()], "'ddn'")):
        with pytest.raises(TypeError, match=f"Square, NAttack, Boundary and Transfer work.*Received: {named}"):
            evaluate_robustness(target, *some, attacks=attacks, **QUIET)
    assert calls == []  # before anything runs
    report = evaluate_robustness(target, *some, attacks=Transfer(source_model=net, attack=FGSM(eps=0.2)), **QUIET)
    assert report.accuracy("transfer") < report.accuracy("clean")
    with pytest.raises(ValueError, match="NaN"):
        evaluate_robustness(lambda x: np.full((len(x), 10), np.nan), *some, attacks=SQUARE, **QUIET)
    with pytest.raises(ValueError, match="shape"):
        evaluate_robustness(lambda x: np.zeros(len(x)), *some, attacks=SQUARE, **QUIET)


def test_a_source_stands_in_for_gradients(net, other, some):
    x, y = some
    target = function_of(net)
    same = evaluate_robustness(target, x, y, attacks="quick", eps=0.1, source=net, **QUIET)
    white = evaluate_robustness(net, x, y, attacks="quick", eps=0.1, **QUIET)
    assert list(same.robust) == ["clean", "fgsm from source", "pgd from source", "worst case"]
    # The source is the target itself, so the very same images fool it.
    np.testing.assert_array_equal(same.robust["fgsm from source"], white.robust["fgsm"])
    attack = AutoAttack(eps=0.1, steps=5, query_budget=50)
    assert list(evaluate_robustness(target, x, y, attacks=attack, **QUIET).robust) == ["clean", "square", "worst case"]
    both = evaluate_robustness(target, x, y, attacks=attack, source=other, **QUIET)
    assert list(both.robust) == ["clean", "autoattack from source", "square", "worst case"]
    with pytest.raises(ValueError, match="no source"):
        evaluate_robustness(net, x, y, source=other, **QUIET)
    with pytest.raises(TypeError, match="source="):
        evaluate_robustness(target, x, y, attacks=AutoAttack(version="rand"), **QUIET)


def test_flatbuffer_under_attack(net, some, tmp_path):
    converter = tf.lite.TFLiteConverter.from_keras_model(net)
    path = tmp_path / "net.tflite"
    path.write_bytes(converter.convert())
    file = esq.Flatbuffer(path)
    report = evaluate_robustness(file, *some, attacks=SQUARE, **QUIET)
    assert report.target.endswith("net.tflite")
    assert report.accuracy("square") < report.accuracy("clean") > 0.8
    assert report.row("square").correct == pytest.approx(
        evaluate_robustness(net, *some, attacks=SQUARE, **QUIET).row("square").correct, abs=1
    )
    with pytest.raises(TypeError, match="blackbox"):
        evaluate_robustness(file, *some, attacks="quick", **QUIET)


# --- the cache ------------------------------------------------------------------------------------------------------


class Counted:
    """A classifier that counts its images, and dies when it is told to."""

    def __init__(self, scores, deadline=np.inf):
        self.scores, self.seen, self.deadline = scores, 0, deadline

    def predict(self, x):
        self.seen += len(x)
        if self.seen > self.deadline:
            raise KeyboardInterrupt
        return self.scores(x)


def test_killed_run_continues(net, some, tmp_path):
    whole = Counted(function_of(net))
    attacks = {"square": SQUARE, "longer": dataclasses.replace(SQUARE, query_budget=60)}
    want = evaluate_robustness(whole, *some, attacks=attacks, keep_examples=True, **QUIET)
    cache = tmp_path / "deep" / "cache"
    with pytest.raises(KeyboardInterrupt):
        evaluate_robustness(Counted(function_of(net), whole.seen // 2), *some, attacks=attacks, cache=cache, **QUIET)
    finished = sorted(cache.iterdir())
    assert 0 < len(finished) < 8
    rest = Counted(function_of(net))
    report = evaluate_robustness(rest, *some, attacks=attacks, cache=cache, keep_examples=True, **QUIET)
    assert rest.seen < 0.75 * whole.seen
    for name in attacks:
        np.testing.assert_array_equal(report.x_adv[name], want.x_adv[name])
        np.testing.assert_array_equal(report.robust[name], want.robust[name])
        assert report.row(name).mean_queries == want.row(name).mean_queries
    none = Counted(function_of(net))
    again = evaluate_robustness(none, *some, attacks=attacks, cache=cache, **QUIET)
    assert none.seen <= 4 * N + 1  # the images and their attacked ones, no attack
    assert again.row("square").seconds > 0
    (broken := sorted(cache.iterdir())[0]).write_bytes(b"half")
    evaluate_robustness(Counted(function_of(net)), *some, attacks=attacks, cache=cache, **QUIET)
    assert len(broken.read_bytes()) > 100


@pytest.mark.slow
def test_another_process_goes_on_where_a_killed_one_was(net, some, tmp_path):
    net.save(tmp_path / "net.keras")
    low_bit = "esq.quantize_model(keras.models.load_model(folder + '/net.keras', compile=False), 'ternary')"
    script = (
        "import sys, numpy as np, keras_esq as esq\n"
        "from keras_esq._keras import keras\n"
        "folder, d = sys.argv[1], esq.data.load('digits')\n"
        f"model = esq.ErrorSilencedModel({low_bit})\n"
        "attacks = [esq.attacks.PGD(steps=3), esq.attacks.NAttack(query_budget=5000)]\n"
        "report = esq.evaluate_robustness(model, d.x_test[:100], d.y_test[:100], attacks=attacks, batch_size=5,\n"
        "    cache=folder + '/cache', progress=False)\n"
        "report.to_json(folder + '/report.json')\n"
    )
    cache = tmp_path / "cache"

    def files():
        return {one.name: one.stat().st_mtime_ns for one in cache.glob("[!.]*")} if cache.exists() else {}

    command = [sys.executable, "-c", script, str(tmp_path)]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(files()) < 3 and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    finished = files()
    assert not (tmp_path / "report.json").exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert len(files()) > len(finished) >= 3
    assert finished.items() <= files().items()  # read, not written again
    assert (tmp_path / "report.json").exists()


def straight_through_rounding(x):
    return x + tf.stop_gradient(tf.round(16 * x) / 16 - x)


def test_cache_is_not_used_for_anything_else(net, other, some, tmp_path):
    attack = APGD(steps=3, eps=0.1)

    def files(target=net, x=some[0], y=some[1], attack=attack, seed=0):
        evaluate_robustness(target, x, y, attacks=attack, cache=tmp_path, seed=seed, progress=False)
        return len(list(tmp_path.iterdir()))

    assert [files(), files()] == [1, 1]
    half = keras.Sequential(
        [layers.Input((8, 8, 1)), layers.Lambda(lambda x: 0.5 * x + tf.stop_gradient(0.5 * x)), net]
    )
    changes = [
        {"target": other},
        {"x": np.clip(some[0] + 0.01, 0, 1)},
        {"attack": dataclasses.replace(attack, steps=4)},
        {"attack": dataclasses.replace(attack, eps=0.2)},
        {"seed": 1},
        {"target": half},  # the same predictions, another gradient
    ]
    assert [files(**change) for change in changes] == [2, 3, 4, 5, 6, 7]
    assert files() == 7
    # What rounds images as coarse as the digits are predicts the same for them, and has the same gradients there.
    rounded = keras.Sequential([layers.Input((8, 8, 1)), layers.Lambda(straight_through_rounding), net])
    assert files(target=rounded) == 8
    scores = function_of(net)
    boxes = [scores, lambda x: scores(np.round(16 * x) / 16)]
    assert [files(target=box, attack=SQUARE) for box in (*boxes, *boxes)] == [9, 10, 10, 10]
    sources = [Transfer(source_model=source, attack=FGSM(eps=0.1)) for source in (net, half)]  # of the same weights
    assert [files(attack=source) for source in (*sources, *sources)] == [11, 12, 12, 12]
    with pytest.raises(ValueError, match="without cache="):
        files(attack=PGD(loss=lambda labels, logits: -tf.gather(logits, labels, axis=1, batch_dims=1)))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="cache to be a folder"):
        evaluate_robustness(net, *some, attacks=attack, cache=tmp_path / "file", **QUIET)


# --- curves and contact sheets --------------------------------------------------------------------------------------


def test_curve(net, some, tmp_path):
    attack = PGD(eps=0.1, step_size=0.025, steps=5)
    curve = accuracy_curve(net, *some, attack, [0.05, 0.1, 0.5], batch_size=8)
    report = evaluate_robustness(net, *some, attacks=attack, **QUIET)
    assert curve.eps == (0, 0.05, 0.1, 0.5)
    assert curve.accuracy[0] == report.accuracy("clean")
    assert curve.accuracy[2] <= report.accuracy("pgd") + 1 / N
    assert (np.diff(curve.accuracy) <= 0).all()
    assert curve.reaches_zero
    assert len(curve.table().splitlines()) == 6
    stays = AccuracyCurve(target="masked", attack="pgd", eps=(0, 0.1, 0.5), correct=(30, 25, 20), n=30)
    assert not stays.reaches_zero
    curve.plot(tmp_path / "one.png")
    plot_accuracy_curve({"a": curve, "masked": stays}, tmp_path / "two.svg")
    assert (tmp_path / "one.png").read_bytes().startswith(PNG)
    assert "must reach 0" in (tmp_path / "two.svg").read_text()  # matplotlib writes texts as comments
    default = accuracy_curve(function_of(net), some[0][:4], some[1][:4], Boundary(query_budget=40))
    assert default.eps[-1] == pytest.approx(4)  # half the range in each of 64 pixels
    for changes, error, message in (
        ({"attack": Transfer(source_model=net, attack=attack)}, ValueError, "radius eps"),
        ({"eps": []}, ValueError, "at least one radius"),
        ({"eps": [0.0]}, ValueError, "> 0"),
        ({"eps": 0.1}, TypeError, r"list of radii.*eps=\[0.1\]"),
        ({"target": function_of(net)}, TypeError, "no tf_keras"),
    ):
        arguments = {"target": net, "attack": attack, "eps": [0.1], **changes}
        with pytest.raises(error, match=message):
            accuracy_curve(arguments["target"], *some, arguments["attack"], arguments["eps"])
    with pytest.raises(ValueError, match="at least one curve"):
        plot_accuracy_curve({}, tmp_path / "a.png")


def test_contact_sheet(net, some, tmp_path):
    report = evaluate_robustness(net, *some, attacks=[FGSM(eps=0.1), PGD()], keep_examples=True, **QUIET)
    report.plot_examples(tmp_path / "fgsm.png")
    plot_examples(report, tmp_path / "pgd", "pgd", count=2)
    for name in ("fgsm.png", "pgd"):
        assert (tmp_path / name).read_bytes().startswith(PNG)
    with pytest.raises(KeyError, match="Did you mean 'pgd'"):
        report.plot_examples(tmp_path / "a.png", "pdg")
    without = evaluate_robustness(net, *some, attacks=FGSM(), **QUIET)
    with pytest.raises(ValueError, match="keep_examples=True"):
        without.plot_examples(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match="Create the folder"):
        report.plot_examples(tmp_path / "missing" / "a.png")
    wrong = (some[1] + 1) % 10
    nobody = evaluate_robustness(net, some[0][:2], wrong[:2], attacks=FGSM(), keep_examples=True, **QUIET)
    if not nobody.robust["clean"].any():
        with pytest.raises(ValueError, match="nothing was attacked"):
            nobody.plot_examples(tmp_path / "a.png")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["fgsm.png", "pgd"]


def test_contact_sheet_in_colour_and_of_other_data(tmp_path):
    rng = np.random.default_rng(0)
    net = keras.Sequential([layers.Input((4, 4, 3)), layers.Flatten(), layers.Dense(2)])
    x = rng.uniform(-1, 1, (5, 4, 4, 3)).astype(np.float32)
    y = net.predict(x, verbose=0).argmax(axis=1)
    attack = FGSM(eps=0.5, bounds=(-1, 1))
    report = evaluate_robustness(net, x, y, attacks=attack, keep_examples=True, **QUIET)
    report.plot_examples(tmp_path / "colour.png")
    assert (tmp_path / "colour.png").read_bytes().startswith(PNG)
    vector = keras.Sequential([layers.Input((6,)), layers.Dense(2)])
    x = rng.random((5, 6), dtype=np.float32)
    y = vector.predict(x, verbose=0).argmax(axis=1)
    report = evaluate_robustness(vector, x, y, attacks=FGSM(), keep_examples=True, **QUIET)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        report.plot_examples(tmp_path / "vector.png")


# --- transfer -------------------------------------------------------------------------------------------------------


def test_transfer_matrix_by_hand(net, other, some, tmp_path):
    x, y = some
    attack = FGSM(eps=0.2)
    models = {"a": net, "b": other, "function": function_of(other)}
    matrix = transfer_matrix(models, x, y, attack, twins={"a": other}, batch_size=8)
    assert matrix.sources == ("a", "b")
    assert matrix.targets == ("a", "b", "function")
    for source, source_model in (("a", net), ("b", other)):
        for target, target_model in (("a", net), ("b", other)):
            if source == target == "b":
                continue
            made_by = other if source == target else source_model
            answers = [target_model.predict(z, verbose=0).argmax(axis=1) for z in (x, attack(made_by, x, y))]
            assert matrix[source, target] == np.mean([(one == y) for one in answers], axis=0).__eq__(1).mean()
    assert np.isnan(matrix["b", "b"])
    assert matrix["a", "function"] == pytest.approx(matrix["a", "b"], abs=1 / N)
    assert matrix["a", "a"] == matrix["b", "a"]
    assert matrix.clean[1] == pytest.approx(matrix.clean[2], abs=1 / N)
    assert "-" in matrix.table().splitlines()[-1]
    assert "null" in matrix.to_json(tmp_path / "matrix.json")
    matrix.plot(tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").read_bytes().startswith(PNG)
    with pytest.raises(KeyError, match="model of this matrix"):
        matrix["a", "c"]
    with pytest.raises(FileNotFoundError, match="Create the folder"):
        matrix.plot(tmp_path / "missing" / "a.png")


def test_functions_as_sources_of_black_box_attacks(net, other, some):
    models = {"a": function_of(net), "b": function_of(other)}
    assert transfer_matrix({"one": net, "two": other}, *some, SQUARE, only="two").sources == ("two",)
    matrix = transfer_matrix(models, *some, SQUARE)
    assert matrix.sources == ("a", "b")
    assert matrix["a", "b"] <= matrix.clean[1]


def test_transfer_bad_input(net, other, some):
    three = keras.Sequential([layers.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3)])
    for changes, error, message in (
        ({"models": {}}, ValueError, "at least one model"),
        ({"models": [net]}, TypeError, "dict"),
        ({"models": {"a": "net"}}, TypeError, "classifier"),
        ({"models": {"a": function_of(net)}}, TypeError, "no tf_keras"),
        ({"models": {"a": net, "b": three}}, ValueError, "same classes"),
        ({"twins": {"c": other}}, ValueError, "twins of the models"),
        ({"twins": {"a": net}}, ValueError, "model itself"),
        ({"attack": PGD}, TypeError, "instance"),
        ({"attack": PGD(targeted=True)}, ValueError, "untargeted"),
        ({"y": some[1][:3]}, ValueError, "one label per image"),
        ({"x": 2 * some[0]}, ValueError, "bounds"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ):
        arguments = {"models": {"a": net, "b": other}, "x": some[0], "y": some[1], "attack": FGSM(), **changes}
        with pytest.raises(error, match=message):
            transfer_matrix(**arguments)
