"""Tuning: the search space, the tuners, budgets, resumption, keras-tuner's distributed mode, the command."""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras_tuner as kt
import numpy as np
import pytest

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.cli import tune
from keras_esq.quantize import low_bit_weights
from keras_esq.tuning import base, goals, oracles, outcome
from keras_esq.tuning.hypermodel import with_steps

tuning = esq.tuning
layers = keras.layers
ROOT = Path(__file__).parents[1]


def network(width=4):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(width, 3, name="conv1"),
            layers.ReLU(),
            layers.Conv2D(width, 3, name="conv2"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="head"),
        ]
    )


@pytest.fixture(scope="module")
def shades():
    """Images of three shades of grey, with noise."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 64)
    x = 0.3 * rng.random((64, 8, 8, 1)) + 0.3 * y[:, None, None, None]
    return x.astype(np.float32), y.astype(np.int32)


ATTACK = esq.attacks.PGD(eps=0.05, step_size=0.025, steps=2)


def robust(build_fn=network, **settings):
    return tuning.RobustHyperModel(build_fn, **{"attack": ATTACK, "attack_steps": (1, 2), **settings})


class Fake(kt.HyperModel):
    """Two settings; the "training" only reports, so that a search takes no time."""

    def __init__(self, score=None, interrupt_at=None, widths=(1, 2, 4, 8)):
        super().__init__()
        self.score = score or (lambda hp, epoch: hp.get("rate") + 0.01 * epoch)
        self.interrupt_at, self.fits, self.widths, self.began = interrupt_at, 0, widths, []

    def build(self, hp):
        rate, width = hp.Float("rate", 0.1, 0.9), hp.Choice("width", list(self.widths))
        model = keras.Sequential([keras.Input((2,)), layers.Dense(width, name="hidden"), layers.Dense(3, name="head")])
        model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy")
        return model

    def fit(self, hp, model, *args, callbacks=(), epochs=1, initial_epoch=0, **kwargs):
        self.fits += 1
        self.began.append((dict(hp.values), [w.copy() for w in model.get_weights()]))
        if self.fits == self.interrupt_at:
            raise KeyboardInterrupt
        for callback in callbacks:
            callback.set_model(model)
        for epoch in range(initial_epoch, epochs):
            model.layers[0].bias.assign_add(np.ones(model.layers[0].units))
            for callback in callbacks:
                callback.on_epoch_end(epoch, {"val_accuracy": self.score(hp, epoch)})


DATA = {"validation_data": (np.zeros((2, 2)), np.zeros(2)), "verbose": 0}
TUNERS = {
    "random": lambda model, **kw: tuning.RandomSearch(model, **{"max_trials": 5, **kw}),
    "bayesian": lambda model, **kw: tuning.BayesianOptimization(
        model, **{"max_trials": 4, "num_initial_points": 2, **kw}
    ),
    "hyperband": lambda model, **kw: tuning.Hyperband(model, max_epochs=2, factor=2, **kw),
    "grid": lambda model, **kw: tuning.GridSearch(model, **{"max_trials": 5, **kw}),
}


def tuner_of(kind, model, folder, **kw):
    return TUNERS[kind](model, **{"objective": "val_accuracy", "directory": folder, "seed": 0, **kw})


def content(tuner):
    """What a search found, for comparison; the minimizer of Bayesian optimization differs in the tenth digit."""

    def rounded(numbers):
        return {name: float(f"{n:.6g}") if isinstance(n, float) else n for name, n in numbers.items()}

    return [(t.trial_id, t.status, rounded(t.values), rounded(t.metrics), t.best_epoch) for t in tuner.results().trials]


@pytest.fixture(autouse=True)
def _no_garbage_collection(monkeypatch):
    """It takes a second, ten times as long as what these networks do."""
    monkeypatch.setattr(base.gc, "collect", lambda: 0)


# Goals.


def test_goals_have_directions_and_weights():
    assert [g.direction for g in goals.as_goals(["val_adversarial_accuracy", "file_bytes", "val_loss"])] == [
        "max",
        "min",
        "min",
    ]
    assert goals.as_goals({"val_accuracy": 2}) == (goals.Goal("val_accuracy", "max", 2.0),)
    assert goals.as_goals(kt.Objective("pairing_loss_ratio", "min"))[0].direction == "min"
    two = goals.as_goals({"val_accuracy": 1, "file_bytes": 0.5})
    assert goals.score(two, {"val_accuracy": 0.8, "file_bytes": 500.0}, 1000.0) == pytest.approx(-0.8 + 0.25)
    assert goals.score(goals.as_goals("val_accuracy"), {"val_accuracy": 0.8}, 1.0) == 0.8


@pytest.mark.parametrize(
    ("objective", "error", "words"),
    [
        ("speed", ValueError, "keras_tuner.Objective"),
        ([], ValueError, "at least one"),
        (["val_loss", "val_loss"], ValueError, "none twice"),
        (3, TypeError, "keras_tuner.Objective"),
        ({"val_loss": 0}, ValueError, "weight of 'val_loss'"),
    ],
)
def test_bad_goals(objective, error, words):
    with pytest.raises(error, match=words):
        goals.as_goals(objective)


def test_pareto_front_is_what_no_other_point_dominates():
    rng = np.random.default_rng(1)
    both = goals.as_goals(["val_accuracy", "file_bytes"])
    points = [{"val_accuracy": float(a), "file_bytes": float(b)} for a, b in rng.integers(0, 6, (40, 2))]
    for point, kept in zip(points, goals.pareto(both, points), strict=True):
        beaten = any(
            other["val_accuracy"] >= point["val_accuracy"]
            and other["file_bytes"] <= point["file_bytes"]
            and other != point
            for other in points
        )
        assert kept is not beaten


# The space.


def test_default_space():
    hp = kt.HyperParameters()
    model = robust(attack_steps=(3, 5, 10)).build(hp)
    assert [entry.name for entry in hp.space] == [
        "bits/first",
        "bits/last",
        "bits/middle",
        "ratio_schedule",
        "attack_steps",
        "pairing_weight",
        "pairing_distance",
        "learning_rate",
    ]
    assert hp.get("pairing_weight") == 0.1
    assert isinstance(model, esq.ErrorSilencedModel)
    assert model.optimizer is not None
    assert model.validation_attack.steps == 2 * ATTACK.steps
    assert float(model.optimizer.learning_rate.numpy()) == pytest.approx(hp.get("learning_rate"))
    assert len(robust().fit_arguments(hp, model)["callbacks"]) == 1


def test_space_follows_its_settings():
    fixed = {"ratio_schedule": {0: 0.5, 1: 1.0}, "pairing_weight": 0.1, "pairing_distance": "l2", "learning_rate": 0.01}
    hypermodel = robust(bits={"conv*": ("ternary", "float"), "head": "float"}, attack_steps=1, **fixed)
    hp = kt.HyperParameters()
    model = hypermodel.build(hp)
    assert [entry.name for entry in hp.space] == ["bits/conv*"]
    assert {row.name: row.bits for row in esq.summary(model).rows} == {"conv1": 2, "conv2": 2, "head": 32}
    assert model.pairing == (esq.LogitPairing(0.1, "l2"),)
    hp.values["bits/conv*"] = "float"
    model = hypermodel.build(hp)
    assert not low_bit_weights(model)
    assert hypermodel.fit_arguments(hp, model) == {"callbacks": []}


def test_networks_and_functions_are_taken():
    net = network()
    before = [w.copy() for w in net.get_weights()]
    model = robust(net, bits="float").build(kt.HyperParameters())
    assert model.network is not net
    assert all((a == b).all() for a, b in zip(model.network.get_weights(), before, strict=True))

    def of_hp(hp):
        return network(width=hp.Choice("width", [2, 4]))

    hp = kt.HyperParameters()
    robust(of_hp, objective="adversarial", optimizer=lambda rate: keras.optimizers.SGD(rate)).build(hp)
    names = [entry.name for entry in hp.space]
    assert names[0] == "width"
    assert not [name for name in names if "pairing" in name]
    hp = kt.HyperParameters()
    robust(esq.models.small_cnn, objective="natural").build(hp)  # its arguments have defaults
    assert "attack_steps" not in [entry.name for entry in hp.space]


def test_keras_3_networks_are_taken():
    import keras as keras3

    def build(hp):
        layers = keras3.layers
        image = layers.Input((8, 8, 1))
        x = layers.Conv2D(hp.Choice("width", [2, 4]), 3, activation="relu", name="conv")(image)
        return keras3.Model(image, layers.Dense(10, name="head")(layers.Flatten()(x)))

    hp = kt.HyperParameters()
    model = robust(build, bits="binary", optimizer=lambda rate: keras3.optimizers.SGD(rate)).build(hp)
    assert "width" in [entry.name for entry in hp.space]
    assert {row.name: row.bits for row in esq.summary(model).rows} == {"conv": 1, "head": 1}
    assert isinstance(model.optimizer, keras.optimizers.SGD)


def test_more_attack_steps_reach_as_far():
    for steps in (1, 4, 20):
        attack = with_steps(ATTACK, steps)
        assert attack.steps == steps
        assert attack.steps * attack.step_size == pytest.approx(ATTACK.steps * ATTACK.step_size)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"bits": "trenary"}, ValueError, "ternary"),
        ({"bits": {}}, ValueError, "at least one group"),
        ({"bits": {"conv*": ()}}, ValueError, "at least one choice"),
        ({"ratio_schedule": ["unifrom"]}, ValueError, "uniform"),
        ({"ratio_schedule": [{0: 1.0}]}, TypeError, "names"),
        ({"pairing_weight": tuning.Range(-1.0, 1.0)}, ValueError, "pairing_weight"),
        ({"pairing_distance": ("l2", "l3")}, ValueError, "l3"),
        ({"pairing_distance": ("l2", "l2")}, ValueError, "differ"),
        ({"attack_steps": (0, 2)}, ValueError, "attack_steps"),
        ({"learning_rate": 0}, ValueError, "learning_rate"),
        ({"attack": "pgd"}, TypeError, "esq.attacks"),
        ({"objective": "paring"}, ValueError, "pairing"),
    ],
)
def test_bad_settings(settings, error, words):
    with pytest.raises(error, match=words):
        robust(**settings)


def test_bad_ranges_and_build_functions():
    for arguments, error in [((1, 1), ValueError), (("a", 2), TypeError), ((0.0, float("inf")), ValueError)]:
        with pytest.raises(error, match="Range"):
            tuning.Range(*arguments)
    with pytest.raises(ValueError, match="logarithmic"):
        tuning.Range(0.0, 1.0, log=True)
    with pytest.raises(TypeError, match="build_fn"):
        robust("model.keras")
    with pytest.raises(TypeError, match="return statement"):
        robust(lambda: None).build(kt.HyperParameters())
    with pytest.raises(ValueError, match="'cnov\\*'"):
        robust(bits={"cnov*": "binary"}).build(kt.HyperParameters())


# A search.


def test_search_end_to_end(tmp_path, shades):
    """Several objectives, a budget, the Pareto front, the best model, and its settings used again."""
    x, y = shades
    bits = {"conv*": "ternary", "head": ("float", "binary")}
    net = network()
    hypermodel = robust(net, bits=bits, ratio_schedule="full", pairing_distance="l2")
    both = ["val_adversarial_accuracy", "file_bytes"]
    tuner = tuning.RandomSearch(hypermodel, objective=both, max_trials=2, seed=1, directory=tmp_path)
    tuner.search(x, y, validation_data=(x, y), epochs=2, batch_size=64, verbose=0)
    results = tuner.results()
    assert results.counts() == {"completed": 2}
    best = results.best
    assert best.score == pytest.approx(
        best.metrics["file_bytes"] / tuner.byte_scale - best.metrics["val_adversarial_accuracy"]
    )
    assert best in results.pareto()
    for name in ("val_adversarial_accuracy", "file_bytes", "bits/head", "learning_rate", "not beaten"):
        assert name in str(results)
    assert best.trial_id in results.pareto_table()
    assert results.plot(tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(results.to_json(tmp_path / "results.json").read_text())["best"] == best.trial_id
    model = tuner.get_best_models()[0]
    assert isinstance(model, esq.ErrorSilencedModel)
    logs = model.evaluate(x, y, batch_size=64, verbose=0, return_dict=True)
    assert logs["accuracy"] == best.metrics["val_accuracy"]
    assert logs["adversarial_accuracy"] == best.metrics["val_adversarial_accuracy"]
    assert tuning.packed_bytes(model) == best.metrics["file_bytes"]
    stored = esq.load_model(best.folder / "best.keras")
    np.testing.assert_array_equal(stored.predict(x, verbose=0), model.predict(x, verbose=0))
    assert tuner.get_best_hyperparameters()[0].values == best.values
    assert net.predict(x, verbose=0).shape == (64, 3)  # the user's network outlives the search


def test_same_seed_same_search(tmp_path, shades):
    """Seed 0 too, which keras-tuner itself takes for none."""
    x, y = shades

    def dense(hp):
        model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")])
        model.compile(
            keras.optimizers.Adam(hp.Float("rate", 0.001, 0.1)), "sparse_categorical_crossentropy", ["accuracy"]
        )
        return model

    found = []
    for name in "ab":
        tuner = tuning.RandomSearch(
            dense, objective="val_loss", max_trials=2, seed=0, directory=tmp_path, project_name=name
        )
        tuner.search(x, y, validation_data=(x, y), epochs=1, verbose=0)
        found.append(content(tuner))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", TUNERS)
def test_every_tuner_finds_the_best_epoch_of_the_best_trial(kind, tmp_path):
    tuner = tuner_of(kind, Fake(lambda hp, epoch: hp.get("rate") - 0.01 * abs(epoch - 1)), tmp_path)
    tuner.search(**DATA, **({} if kind == "hyperband" else {"epochs": 3}))
    if kind == "bayesian":
        assert len(tuner.results().completed) == 4
    best = tuner.results().best
    assert best.score == max(t.values["rate"] for t in tuner.results().trials)
    assert best.best_epoch == 2
    assert (tuner.get_best_models()[0].layers[0].bias.numpy() == 2).all()
    assert len(tuner.get_best_models(2)) == 2


def test_hyperband_goes_on_from_the_last_epoch_of_the_earlier_round(tmp_path):
    hypermodel = Fake(lambda hp, epoch: hp.get("rate") - 0.01 * epoch)  # the first epoch is always the best
    tuner_of("hyperband", hypermodel, tmp_path).search(**DATA)
    later = [(values, weights) for values, weights in hypermodel.began if values["tuner/round"] > 0]
    assert later
    for values, weights in later:
        assert (weights[1] == values["tuner/initial_epoch"]).all()


def test_hyperband_keeps_the_optimizer_and_fills_places_that_the_budget_emptied(tmp_path, shades):
    x, y = shades[0].reshape(64, 64), shades[1]
    steps = []

    class Steps(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            steps.append((self.params["epochs"], int(self.model.optimizer.iterations.numpy())))

    def dense(hp):
        width = hp.Choice("width", [4, 64])
        rate = hp.Float("rate", 0.001, 0.1)
        model = keras.Sequential([keras.Input((64,)), layers.Dense(width), layers.Dense(3, activation="softmax")])
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", ["accuracy"])
        return model

    tuner = tuning.Hyperband(
        dense, objective="val_accuracy", max_epochs=2, factor=2, max_bytes=2000, seed=3, directory=tmp_path
    )
    tuner.search(x, y, validation_data=(x, y), batch_size=32, callbacks=[Steps()], verbose=0)
    results = tuner.results()
    assert results.counts()["over budget"] > 0
    assert {epochs: iterations for epochs, iterations in steps if iterations}[2] == 2
    first = [t for t in results.completed if t.values["tuner/epochs"] == 1]
    assert len(first) == 2  # as many as without a budget
    assert len([t for t in results.completed if "tuner/trial_id" in t.values]) == 1


def test_grid_goes_through_all_combinations_defaults_first(tmp_path):
    def build(hp):
        a = hp.Choice("a", [1, 2, 3], default=2)
        with hp.conditional_scope("a", [3]):
            if a == 3:
                hp.Choice("b", ["x", "y"])
        return Fake().build(hp) if hp.Boolean("real", default=False) else simple()

    def simple():
        model = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
        model.compile()
        return model

    hp = kt.HyperParameters()
    hp.Choice("a", [1, 2, 3], default=2)
    with hp.conditional_scope("a", [3]):
        hp.Choice("b", ["x", "y"])
    hp.Int("c", 1, 2)
    combinations = list(oracles.grid(hp))
    assert combinations[0] == {"a": 2, "c": 1}
    assert combinations == [
        *({"a": a, "c": c} for a in (2, 1) for c in (1, 2)),
        *({"a": 3, "b": b, "c": c} for b in "xy" for c in (1, 2)),
    ]


def test_grid_ends_with_its_last_combination(tmp_path):
    def build(hp):
        hp.Choice("a", [1, 2, 3])
        model = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
        model.compile(loss="mse")
        return model

    tuner = tuning.GridSearch(build, objective="val_loss", directory=tmp_path)
    data = np.zeros((4, 2)), np.zeros((4, 3))
    tuner.search(*data, validation_data=data, verbose=0)
    assert sorted(t.values["a"] for t in tuner.results().completed) == [1, 2, 3]


# Budget and failures.


def test_budget_prunes_before_training(tmp_path, capfd):
    hypermodel = Fake()
    limit = 4 * (2 * 2 + 2 + 2 * 3 + 3)  # width 2 fits, 4 does not
    tuner = tuner_of("random", hypermodel, tmp_path, max_bytes=limit)
    tuner.search(**DATA)
    results = tuner.results()
    printed = capfd.readouterr().err
    assert f"over the budget of {limit}" in printed
    assert "Traceback" not in printed
    assert len(results.trials) == 5
    assert set(results.counts()) == {"completed", "over budget"}
    assert hypermodel.fits == len(results.completed)
    for trial in results.trials:
        assert (trial.values["width"] > 2) == (trial.status == "over budget")
        assert (trial.metrics["file_bytes"] > limit) == (trial.status == "over budget")
        if trial.status == "over budget":
            assert str(limit) in trial.reason
            assert trial.reason in str(results)
            assert not (trial.folder / outcome.BEST).exists()


@pytest.mark.parametrize("kind", TUNERS)
def test_nothing_fits(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(oracles, "MAX_OVER_BUDGET", 6)
    hypermodel = Fake()
    tuner = tuner_of(kind, hypermodel, tmp_path, max_bytes=10)
    with pytest.raises(ValueError, match=r"at most 10 bytes .* smallest 36 bytes"):
        tuner.search(**DATA)
    assert hypermodel.fits == 0
    with pytest.raises(ValueError, match="at least one completed trial"):
        tuner.get_best_models()


def test_exact_sizes_by_conversion(shades):
    model = esq.ErrorSilencedModel(esq.quantize_model(network(), "ternary"))
    size = tuning.ConvertedBytes("float", shades[0][:4])(model)
    assert size > tuning.packed_bytes(model)


def test_failures_in_a_row_end_the_search_and_mending_it_goes_on(tmp_path):
    def broken(hp, epoch):
        raise OSError("no more disks")

    tuner = tuner_of("random", Fake(broken), tmp_path, max_failures=2)
    with pytest.raises(RuntimeError, match=r"2 of 2 failed.*no more disks"):
        tuner.search(**DATA)
    assert tuner.results().counts() == {"failed": 2}
    mended = tuner_of("random", Fake(), tmp_path)
    mended.search(**DATA)
    assert mended.results().counts() == {"completed": 3, "failed": 2}


def test_one_failure_does_not_end_it(tmp_path):
    def sometimes(hp, epoch):
        return float("nan") if hp.get("width") == 1 else hp.get("rate")

    tuner = tuner_of("grid", Fake(sometimes), tmp_path)
    tuner.search(**DATA)
    counts = tuner.results().counts()
    assert counts["completed"] > 0
    assert counts["failed"] > 0
    assert "NaN" in str(tuner.results())


def test_a_missing_metric_stops_at_once(tmp_path):
    hypermodel = Fake()
    tuner = tuner_of("random", hypermodel, tmp_path, objective="val_adversarial_accuracy")
    with pytest.raises(ValueError, match="validation_attack"):
        tuner.search(**DATA)
    assert hypermodel.fits == 1


# Interruption.


@pytest.mark.parametrize("kind", ["random", "hyperband", "grid", pytest.param("bayesian", marks=pytest.mark.slow)])
def test_an_interrupted_search_ends_as_an_uninterrupted_one(kind, tmp_path):
    whole = tuner_of(kind, Fake(), tmp_path / "whole")
    whole.search(**DATA)
    with pytest.raises(KeyboardInterrupt):
        tuner_of(kind, Fake(interrupt_at=3), tmp_path / "parts").search(**DATA)
    resumed = tuner_of(kind, Fake(), tmp_path / "parts", seed=None)
    resumed.search(**DATA)
    assert content(resumed) == content(whole)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("grid", (3, 4, 6, 8)),  # of a trial: begun, then known to the oracle; its outcome, its end
        pytest.param("grid", range(1, 26), marks=pytest.mark.slow),
        pytest.param("hyperband", range(1, 42), marks=pytest.mark.slow),
    ],
)
def test_killed_between_two_files(kind, numbers, tmp_path, monkeypatch):
    """Each write in turn is the first that is not done: every trial is there once in the end, none is lost."""
    limit = {} if kind == "hyperband" else {"max_trials": 2}
    whole = tuner_of(kind, Fake(), tmp_path / "whole", **limit)
    whole.search(**DATA)

    class Killed(BaseException):
        pass

    left = [0]
    real = base.write_atomic

    def write(path, text):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return real(path, text)

    for module in (base, oracles, outcome):
        monkeypatch.setattr(module, "write_atomic", write)
    for number in numbers:
        folder = tmp_path / str(number)
        left[0] = number
        try:
            tuner_of(kind, Fake(), folder, **limit).search(**DATA)
        except Killed:
            left[0] = 0
            resumed = tuner_of(kind, Fake(), folder, **limit)
            resumed.search(**DATA)
            assert content(resumed) == content(whole), number
            assert sorted(resumed.oracle.end_order) == sorted(t.trial_id for t in whole.results().trials)


def test_keras_tuner_writes_nothing_in_place(tmp_path, monkeypatch):
    """Our atomic writers stand in for keras-tuner's private ones: if those move, its own writer is called again."""
    from keras_tuner.src import utils

    def in_place(*arguments):
        raise AssertionError("keras-tuner wrote a file itself")

    monkeypatch.setattr(utils, "save_json", in_place)
    tuner_of("random", Fake(), tmp_path).search(**DATA)
    assert (tmp_path / "search/oracle.json").exists()
    assert (tmp_path / "search/trial_0/trial.json").exists()


def test_a_search_that_is_done_does_nothing_more(tmp_path):
    tuner_of("grid", Fake(), tmp_path).search(**DATA)
    again = Fake()
    tuner = tuner_of("grid", again, tmp_path)
    tuner.search(**DATA)
    assert again.fits == 0
    assert len(tuner.results().completed) == 5
    more = tuning.GridSearch(Fake(), objective="val_accuracy", directory=tmp_path, seed=0, max_trials=7)
    more.search(**DATA)
    assert len(more.results().completed) == 7


# Folders of other searches, bad input.


def test_a_folder_of_another_search(tmp_path):
    tuner_of("random", Fake(), tmp_path).search(**DATA)
    for other, words in [
        (lambda: tuner_of("random", Fake(widths=(1, 2)), tmp_path), "'width': found .*8.* now .*\\[1, 2\\]"),
        (lambda: tuner_of("random", Fake(), tmp_path, objective="val_loss"), "objective: found .*val_accuracy"),
        (lambda: tuner_of("random", Fake(), tmp_path, max_bytes=100), "max_bytes: found None, now 100"),
        (lambda: tuner_of("random", Fake(), tmp_path, seed=5), "seed: found 0, now 5"),
        (lambda: tuner_of("grid", Fake(), tmp_path), "tuner: found 'RandomSearch', now 'GridSearch'"),
        (lambda: tuning.RandomSearch(robust(bits="binary"), directory=tmp_path), "'rate' is gone"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            other()
        assert "overwrite=True" in str(error.value)
    assert tuner_of("random", Fake(widths=(1, 2)), tmp_path, overwrite=True).results().trials == ()


def test_folders_that_are_no_search_of_ours(tmp_path):
    folder = tmp_path / "search"
    folder.mkdir()
    (folder / "oracle.json").write_text("{}")
    with pytest.raises(ValueError, match="keras-tuner itself"):
        tuner_of("random", Fake(), tmp_path)
    (folder / "search.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        tuner_of("random", Fake(), tmp_path)
    with pytest.raises(OSError, match="to be a folder"):
        tuner_of("random", Fake(), folder / "oracle.json")


def test_bad_input(tmp_path):
    everything = {
        "bits": "binary",
        "ratio_schedule": "full",
        "pairing_weight": 0.1,
        "pairing_distance": "l2",
        "attack_steps": 1,
        "learning_rate": 0.1,
    }
    with pytest.raises(ValueError, match="at least one setting"):
        tuning.RandomSearch(robust(**everything), directory=tmp_path)
    for arguments, error, words in [
        ({"hypermodel": network()}, TypeError, "RobustHyperModel"),
        ({"hypermodel": "model"}, TypeError, "RobustHyperModel"),
        ({"hypermodel": lambda hp: hp.Int("n", 1, 3)}, TypeError, "compiled"),
        ({"max_trials": 0}, ValueError, "max_trials"),
        ({"max_bytes": 1.5}, TypeError, "max_bytes"),
        ({"seed": -1}, ValueError, "seed"),
        ({"size": 100}, TypeError, "size"),
        ({"max_failures": 0}, ValueError, "max_failures"),
    ]:
        with pytest.raises(error, match=words):
            tuning.RandomSearch(
                **{"hypermodel": Fake(), "objective": "val_accuracy", "directory": tmp_path, **arguments}
            )
    with pytest.raises(ValueError, match="factor"):
        tuning.Hyperband(Fake(), factor=1, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing was begun
    with pytest.raises(ValueError, match="validation_data"):
        tuner_of("random", Fake(), tmp_path).search()
    with pytest.raises(ValueError, match="max_epochs"):
        tuner_of("hyperband", Fake(), tmp_path / "b").search(epochs=3, **DATA)
    one = tuner_of("random", Fake(), tmp_path / "c")
    with pytest.raises(ValueError, match="two objectives"):
        one.results().plot(tmp_path / "x.png")


def run(script, **environment):
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def test_keras_tuner_is_imported_late_and_missed_in_words():
    script = (
        "import sys, keras_esq as esq; esq.tuning; import keras_esq.cli.tune\n"
        "assert 'keras_tuner' not in sys.modules and 'tensorflow' not in sys.modules\n"
        "sys.modules['keras_tuner'] = None\n"
        "try: esq.tuning.RandomSearch\n"
        "except ImportError as error: print(error)\n"
    )
    assert "pip install 'keras-esq[tuner]'" in run(script)


# The command.

TINY = """
from keras_esq._keras import keras
def build(hp):
    x = keras.Input((8, 8, 1))
    y = keras.layers.Conv2D(hp.Choice("width", [2, 3]), 3, strides=4, name="conv")(x)
    return keras.Model(x, keras.layers.Dense(10, name="head")(keras.layers.GlobalAveragePooling2D()(y)))
"""


def arguments_of(*words):
    parser = argparse.ArgumentParser()
    tune.COMMAND.add_arguments(parser)
    return parser.parse_args(words)


def test_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny_network.py").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    settings = ["--max-trials", "1", "--epochs", "1", "--samples", "64", "--out", "out", "--eps", "0.1"]
    words = ["tiny_network:build", *settings, "--objective", "val_accuracy", "file_bytes"]
    results = tune.COMMAND.run(arguments_of(*words))
    json.dumps(results)
    assert len(results["trials"]) == 1
    assert results["best"] in results["pareto"]
    assert "Pareto front" in capsys.readouterr().out
    assert [Path(path).name for path in results["files"]] == ["results.json", "best.keras", "pareto.png"]
    assert isinstance(esq.load_model("out/best.keras"), esq.ErrorSilencedModel)
    with pytest.raises(ValueError, match="max_bytes"):
        tune.COMMAND.run(arguments_of(*words, "--max-bytes", "1"))
    with pytest.raises(ValueError, match="biuld"):
        tune.COMMAND.run(arguments_of("tiny_network:biuld", *settings))
    with pytest.raises(FileNotFoundError, match=r"nothing\.keras"):
        tune.COMMAND.run(arguments_of("nothing.keras", *settings))


# Processes.

SEARCH = """
import sys, time
import numpy as np
from keras_esq import tuning
from keras_esq._keras import keras
x = np.random.default_rng(0).random((64, 4)).astype("float32")
y = (x.sum(axis=1) * 0.7).astype("int32")
def build(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.Adam(hp.Float("rate", 0.001, 0.1)), "sparse_categorical_crossentropy", ["accuracy"])
    return model
class Slow(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        time.sleep(0.3)
kind, folder, trials = sys.argv[1:]
tuner = getattr(tuning, kind)(build, objective="val_loss", max_trials=int(trials), seed=0, directory=folder)
print("READY", flush=True)
tuner.search(x, y, validation_data=(x, y), epochs=2, verbose=0, callbacks=[Slow()])
print("DONE", len(tuner.results().completed), len(tuner.get_best_models()), flush=True)
"""


def start(kind, folder, trials=4, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", SEARCH, kind, str(folder), str(trials)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def trials_in(folder):
    """{id: (status, values, metrics)} by keras-tuner's own files and ours."""
    found = {}
    for path in sorted((folder / "search").glob("trial_*/trial.json")):
        state = json.loads(path.read_text())
        metrics = json.loads((path.parent / "outcome.json").read_text())["metrics"]
        found[state["trial_id"]] = (state["status"], state["hyperparameters"]["values"], metrics)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["RandomSearch", "GridSearch"])
def test_killed_search_resumes(kind, tmp_path):
    whole = start(kind, tmp_path / "whole")
    out, err = whole.communicate(timeout=300)
    assert "DONE 4 1" in out, err[-3000:]
    for attempt in range(3):
        process = start(kind, tmp_path / "killed")
        assert process.stdout is not None
        for line in process.stdout:
            if "READY" in line:
                break
        time.sleep(random.uniform(0.2, 3.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert attempt < 3
    out, err = start(kind, tmp_path / "killed").communicate(timeout=300)
    assert "DONE 4 1" in out, err[-3000:]
    assert trials_in(tmp_path / "killed") == trials_in(tmp_path / "whole")
    order = json.loads((tmp_path / "killed/search/oracle.json").read_text())["end_order"]
    assert sorted(order) == ["0", "1", "2", "3"]


@pytest.mark.slow
def test_chief_and_two_workers(tmp_path):
    """keras-tuner's distributed mode: every trial is run by one of the workers, with the results of one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    names = ["chief", "worker0", "worker1"]
    processes = [start("RandomSearch", tmp_path / "many", 6, KERASTUNER_TUNER_ID=name, **address) for name in names]
    try:
        outputs = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for (out, err), process, name in zip(outputs, processes, names, strict=True):
        assert process.returncode == 0, f"{name}: {err[-3000:]}"
        assert "DONE" in out
    assert "DONE 6 1" in outputs[0][0]
    found = trials_in(tmp_path / "many")
    assert sorted(found) == [str(number) for number in range(6)]
    assert {status for status, _, _ in found.values()} == {"COMPLETED"}
    for name in names:
        assert (tmp_path / f"many/search/{name}.json").exists()
    alone = start("RandomSearch", tmp_path / "one", 6)
    out, err = alone.communicate(timeout=300)
    assert "DONE 6 1" in out, err[-3000:]
    for trial_id, (_, values, metrics) in trials_in(tmp_path / "one").items():
        assert found[trial_id][1] == pytest.approx(values, rel=1e-5)
        assert found[trial_id][2] == pytest.approx(metrics, rel=1e-3)


@pytest.mark.parametrize(("frequency", "best"), [(1, (1, 2)), (2, (2,)), ([1], (1,)), (3, None)])
def test_epochs_without_validation_are_not_compared(frequency, best, tmp_path):
    def build(hp):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(hp.Choice("rate", [0.1, 0.2])), "mse")
        return model

    search = tuning.RandomSearch(build, objective="val_loss", max_trials=1, seed=0, directory=tmp_path)
    data = {"x": np.eye(2), "y": np.eye(2), "validation_data": (np.eye(2), np.eye(2))}
    if best is None:
        with pytest.raises(ValueError, match=r"validation_freq=3"):
            search.search(**data, epochs=2, validation_freq=frequency, verbose=0)
    else:
        search.search(**data, epochs=2, validation_freq=frequency, verbose=0)
        assert search.results().best.best_epoch in best
