"""What a recipe may say besides what the paper's do: networks, bits, regularizers, averages."""

import json

import numpy as np
import pytest

import keras_esq as esq
from keras_esq import experiment
from keras_esq._keras import keras
from keras_esq.experiment import evaluate, figures, log, networks, train
from keras_esq.quantize import low_bit_weights
from keras_esq.training import load_model

ATTACK = {"attack": "PGD", "eps": 0.15, "step_size": 0.05, "steps": 2}
LOW_BIT = {"source": "AF", "weights": "binary", "objective": "adversarial"}
MODELS = [
    {"name": "AF", "objective": "adversarial"},
    {"name": "wide", "network": {"width": 5}, "objective": "natural"},
    {"name": "sparse", "source": "AF", "prune": 0.5, "objective": "adversarial"},
    {"name": "sparse ternary", "source": "sparse", "weights": "ternary", "weights_options": {"keep_zeros": True}},
    {**LOW_BIT, "name": "L1", "batchnorm": "l1"},
    {
        **LOW_BIT,
        "name": "flat",
        "orthogonality": 0.01,
        "weight_perturbation": 0.1,
        "warm_up": {"epochs": 1, "eps": True, "regularizer": False},
    },
    {
        **{**LOW_BIT, "name": "mean", "objective": "trades", "average": True, "warm_up": {"epochs": 1}},
        "optimizer_options": {"use_ema": True, "ema_momentum": 0.5},
    },
    {**LOW_BIT, "name": "mixed", "weights": "mixed", "max_bytes": 900},
    {"name": "int8", "source": "AF", "weights": "int8"},
    {**LOW_BIT, "name": "layers", "layer_weights": {"first": "ternary", "log*": "float"}, "frozen": ["first"]},
    {**LOW_BIT, "name": "anew", "source": "layers", "weights": "ternary"},
    {
        **{**LOW_BIT, "name": "bf16", "attack_dtype": "bfloat16", "reestimate": True},
        **{"ratio": {"0": 0.5, "1": 1.0}, "schedule": "restarts"},
        # So weak that the images under it are answered as the clean ones.
        **{"restore_best": "val_adversarial_accuracy", "validation_attack": {"attack": "FGSM", "eps": 1e-7}},
    },
]
TABLES = {
    "data": {"name": "digits", "train": 128, "validation": 40},
    "network": {"options": {"width": 3}, "layers": {"first": "conv1"}},
    "train": {"defaults": {"epochs": 2, "learning_rate": 0.01, "attack": ATTACK, "batch_size": 64, "ratio": "full"}},
    "models": MODELS,
    "evaluation": {
        "on": "validation",
        "images": 40,
        "attacks": {"PGD": ATTACK},
        "corruptions": {"images": 10, "models": ["AF"]},
        "audit": {"images": 20, "models": ["AF", "mixed"], "attack": ATTACK},
    },
}


class Stop(Exception):
    """What interrupts."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of the experiment."""
    folder = tmp_path_factory.mktemp("options") / "out"
    experiment.run(experiment.config_from(TABLES), folder)
    return folder


def network(folder, name):
    return load_model(folder / "seed-0" / name / "model.keras", compile=False).network


def _images(count):
    data = esq.data.load("digits")
    return data.x_val[:count], data.y_val[:count]


@pytest.mark.slow
def test_an_interrupted_one_ends_with_the_same_weights(run, tmp_path, monkeypatch):
    """Each model is stopped in its 2nd epoch."""
    config = experiment.config_from(TABLES)
    begin = train.History.on_epoch_begin
    stopped = set()

    def interrupt(self, epoch, logs=None):
        begin(self, epoch, logs)
        if epoch == 1 and self.model.name not in stopped:
            stopped.add(self.model.name)
            raise Stop

    monkeypatch.setattr(train.History, "on_epoch_begin", interrupt)
    for _ in (model for model in MODELS if model.get("weights") != "int8"):
        with pytest.raises(Stop):
            experiment.run(config, tmp_path / "out")
    experiment.run(config, tmp_path / "out")
    for model in MODELS:
        weights = (network(folder, model["name"]).get_weights() for folder in (run, tmp_path / "out"))
        for one, other in zip(*weights, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=model["name"])


def test_each_recipe_made_what_it_says(run):
    made = {model["name"]: network(run, model["name"]) for model in MODELS}
    assert made["AF"].get_layer("conv1").filters == 3
    assert made["wide"].get_layer("conv1").filters == 5
    zeros = esq.summary(made["sparse"]).totals.zeros
    assert zeros == pytest.approx(0.5, abs=0.05)
    was = {layer.name: layer.get_weights()[0] == 0 for layer in esq.strip(made["sparse"]).layers if layer.weights}
    for layer in esq.strip(made["sparse ternary"]).layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            assert not layer.get_weights()[0][was[layer.name]].any()
    assert any(isinstance(layer, esq.L1BatchNormalization) for layer in made["L1"].layers)
    bits = {weight.quantizer.alias for weight in low_bit_weights(made["mixed"])}
    assert bits == {"binary", "ternary"}
    assert esq.summary(made["mixed"]).totals.low_bit_bytes <= 900
    kinds = {row.name: row.quantizer for row in esq.summary(made["layers"]).rows if row.weights}
    assert kinds == {"conv1": "ternary", "conv2": "binary", "conv3": "binary", "logits": "float"}
    assert {row.quantizer for row in esq.summary(made["anew"]).rows if row.weights} == {"ternary"}
    kept = [one.latent.numpy() for one in low_bit_weights(made["layers"])]
    source = made["AF"].get_layer("conv1").kernel.numpy()
    np.testing.assert_array_equal(kept[0], source)
    assert not np.array_equal(kept[1], made["AF"].get_layer("conv2").kernel.numpy())


def test_epochs_are_judged_by_the_validation_attack(run):
    history = json.loads((run / "seed-0" / "bf16" / "history.json").read_text(encoding="utf-8"))
    assert len(history) == 2
    for epoch in history:
        assert epoch["val_adversarial_accuracy"] == epoch["val_accuracy"]


def test_what_a_source_froze_can_be_trained_again(run):
    config = experiment.config_from({**TABLES, "models": [*MODELS, {"name": "again", "source": "layers"}]})
    again = networks.network_of(config.recipe("again"), config, esq.data.load("digits"), run / "seed-0")
    assert not network(run, "layers").get_layer("conv1").trainable
    assert all(layer.trainable for layer in again.layers)


def test_models_of_fewer_seeds_are_named_and_left_out_of_the_others(tmp_path):
    few = {**LOW_BIT, "name": "few", "seeds": 1}
    small = {"images": 10, "attacks": {"PGD": ATTACK}, "transfer": {"attack": ATTACK, "images": 5}}
    tables = {**TABLES, "models": [MODELS[0], few], "evaluation": small}
    report = experiment.run(experiment.config_from(tables), tmp_path / "out", seeds=2)
    assert {one.name for one in (tmp_path / "out" / "seed-1").iterdir()} == {"AF"}
    counts = {name: len(report.results.worst(name).counts) for name in ("AF", "few")}
    assert counts == {"AF": 2, "few": 1}
    assert "Of fewer seeds: few 1." in (tmp_path / "out" / "tables.md").read_text()
    assert experiment.read_results(tmp_path / "out").seeds == (0, 1)
    # More of them later are the same experiment.
    experiment.run(
        experiment.config_from({**tables, "models": [MODELS[0], {**few, "seeds": 2}]}), tmp_path / "out", seeds=2
    )
    assert (tmp_path / "out" / "seed-1" / "few" / "evaluation.json").exists()
    # What stood in for "few" on itself is there now, so that part was done anew.
    kept = json.loads((tmp_path / "out" / "seed-0" / "few" / "evaluation.json").read_text())
    assert kept["transfer"]["settings"]["twin"] == "seed-1"


def test_parts_that_another_process_does_meanwhile_are_kept(tmp_path):
    evaluator = evaluate.Evaluator(None, None, tmp_path, 0, None, log.Log(tmp_path / "log.txt"))
    (tmp_path / "AF").mkdir()

    def slow(name):
        evaluator._do(name, "curve", {}, lambda name: {"n": 2})
        return {"n": 1}

    evaluator._do("AF", "attacks", {}, slow)
    kept = json.loads((tmp_path / "AF" / "evaluation.json").read_text())
    assert {part: one["result"]["n"] for part, one in kept.items()} == {"attacks": 1, "curve": 2}


def test_int8_is_the_source_rounded(run):
    source, rounded = network(run, "AF"), network(run, "int8")
    for before, after in zip(source.weights, rounded.weights, strict=True):
        if "kernel" not in before.name:
            np.testing.assert_array_equal(before, after)
            continue
        kernel = before.numpy().reshape(-1, before.shape[-1])
        scale = np.abs(kernel).max(axis=0) / 127
        np.testing.assert_allclose(after.numpy().reshape(kernel.shape) / scale, np.round(kernel / scale), atol=1e-4)
    size = json.loads((run / "seed-0" / "int8" / "evaluation.json").read_text())["size"]["result"]
    kernels = [weight for weight in source.weights if "kernel" in weight.name]
    assert size["bits"] == 8
    assert size["kernel_bytes"] == sum(np.size(one) + 4 * one.shape[-1] for one in kernels)


def test_the_front_is_what_no_smaller_model_equals():
    points = {"AF": (400, 70.0), "int8": (100, 70.0), "ternary": (25, 65.0), "binary": (12, 50.0), "bad": (25, 60.0)}
    assert list(figures._front(points)) == ["binary", "ternary", "int8"]


@pytest.mark.parametrize(
    ("means", "low"),
    [({"AF": 90.0, "AVB": 0.1, "half": 45.0, "less": 44.9}, ["AVB", "less"]), ({"a": 0.0, "b": 0.0}, []), ({}, [])],
)
def test_what_the_front_does_not_show(means, low):
    assert list(figures._low(means)) == low


def test_the_table_shows_gain_and_cost(run):
    results = json.loads((run / "results.json").read_text())
    assert (run / "pareto.png").stat().st_size > 10_000
    # Images by which recipes are chosen judge no finding of the paper.
    assert set(results["tables"]) == {"recipes", "table3a"}
    assert results["findings"] == []
    table = results["tables"]["recipes"]
    rows = {row[0]: dict(zip(table["header"], row, strict=True)) for row in table["rows"]}
    assert list(rows) == [model["name"] for model in MODELS]
    assert rows["sparse"]["zeros (%)"] == pytest.approx(50, abs=5)
    assert rows["AF"]["zeros (%)"] == 0
    assert "Weights perturbed in training by 0.1 of their norms in flat." in table["notes"]
    audits = {name: row["masking audit"] for name, row in rows.items()}
    assert audits["mixed"]
    assert audits["wide"] is None
    report = esq.evaluate_robustness(network(run, "AF"), *_images(10), attacks="corruptions", progress=False)
    assert rows["AF"]["corruptions"]["mean"] == pytest.approx(100 * report.accuracy("mean corruption"))
    history = json.loads((run / "seed-0" / "flat" / "history.json").read_text())
    assert rows["flat"]["training (min)"] == pytest.approx(sum(row["seconds"] for row in history) / 60)
    model = load_model(run / "seed-0" / "flat" / "model.keras", compile=False)
    assert float(model.attack.eps) == pytest.approx(0.15)  # grown up


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prune": 1.0}, "share"),
        ({"prune": 0.5}, "keep_zeros"),
        ({"weights": "mixed"}, "max_bytes"),
        ({"max_bytes": 10}, "max_bytes"),
        ({"weights": "mixed", "max_bytes": 10}, "at least [0-9]{3}, all binary"),
        ({"weights": "", "weights_options": {"threshold": 0.5}}, "weights_options"),
        ({"weights": "ternary", "weights_options": {"treshold": 0.5}}, "threshold"),
        ({"weights": "", "layer_weights": {"conv1": "ternary"}}, "layer_weights"),
        ({"layer_weights": {"conv1": "tenary"}}, "ternary"),
        ({"frozen": ["conf1"]}, "conv1"),
        ({"frozen": "conv1"}, "a list"),
        ({"source": "", "weights": "int8"}, "source"),
        ({"source": "low", "weights": "int8"}, "float source"),
        ({"layer_weights": {"conf1": "ternary"}}, "conv1"),
        ({"average": True}, "use_ema"),
        ({"average": 1}, "true or false"),
        ({"network": {"width": 4}}, "source"),
        ({"batchnorm": "l2"}, "l1"),
        ({"source": "low", "batchnorm": "l1"}, "float source"),
        ({"attack_dtype": "bfloat61"}, "bfloat16"),
        ({"warm_up": {"epoch": 3}}, "epochs"),
        ({"warm_up": {"epochs": 3, "eps": True}, "objective": "natural"}, "attack"),
        ({"restore_best": "val_accuracy", "start_from_epoch": 2}, "below its 2 epochs"),
        ({"start_from_epoch": -1}, "start_from_epoch"),
        ({"start_from_epoch": 1.5}, "start_from_epoch"),
        ({"orthogonality": -1.0}, "orthogonality"),
        ({"weight_perturbation": "much"}, "weight_perturbation"),
        ({"weight_perturbation": 0.1, "objective": "free"}, "weight_perturbation"),
    ],
)
def test_bad_options_say_what_is_wrong(change, words, tmp_path):
    tables = {
        **TABLES,
        "models": [MODELS[0], {**LOW_BIT, "name": "low"}, {**LOW_BIT, "name": "bad", **change}],
        "evaluation": {"attacks": {"A": ATTACK}},
    }
    with pytest.raises((TypeError, ValueError), match=words):
        experiment.run(experiment.config_from(tables), tmp_path / "out")
    assert not (tmp_path / "out").exists()
