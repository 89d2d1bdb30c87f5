"""`keras-esq experiment`: presets, interrupted runs, tables, findings."""

import copy
import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import keras_esq as esq
from keras_esq import _toml, cli, experiment
from keras_esq.evaluation import RobustnessReport
from keras_esq.experiment import build, evaluate, findings, paper, results, running, train
from keras_esq.experiment.tables import Table

ATTACK = {"attack": "PGD", "eps": 0.15, "step_size": 0.05, "steps": 2}
TINY = {
    "data": {"name": "digits", "train": 128, "validation": 40},
    "network": {"name": "small_cnn", "options": {"width": 2}, "layers": {"middle": "relu2"}},
    "train": {
        "defaults": {"epochs": 2, "learning_rate": 0.01, "attack": ATTACK, "batch_size": 64},
        "quantize": {"source": "AF", "weights": "binary", "ratio": {"0": 0.5, "1": 1.0}},
    },
    "models": [
        {"name": "AF", "objective": "adversarial", "restore_best": "val_adversarial_accuracy"},
        {"name": "AEB", "train": "quantize", "objective": "pairing", "pairing": {"weight": 0.1, "distance": "l2"}},
    ],
    "evaluation": {
        "images": 24,
        "batch_size": 12,
        "attacks": {"PGD": ATTACK},
    },
}
# Further models and all parts of the evaluation.
FULL = copy.deepcopy(TINY)
FULL["models"] += [
    {"name": "AVB", "train": "quantize"},
    {"name": "AAB", "train": "quantize", "objective": "adversarial", "optimizer_options": {"use_ema": True}},
    {"name": "AEB-middle", "train": "quantize", "objective": "pairing", "pairing": {"layers": ["middle"]}},
    {"name": "student", "train": "quantize", "objective": "distillation", "objective_options": {"teacher": "AF"}},
]
FULL["evaluation"]["attacks"]["DDN"] = {"attack": "DDN", "eps": 0.5, "steps": 2}
FULL["evaluation"] |= {
    "strengths": {"models": ["AF", "AVB"], "attack": {"attack": "FGSM"}, "eps": ["1/255", 0.05, 0.1, 0.2, 0.3]},
    "transfer": {"models": ["AF", "AEB"], "attack": ATTACK, "images": 12},
    "amplification": {"models": ["AF", "AVB", "AEB"], "attack": ATTACK},
    "curve": {"models": ["AF", "AEB"], "attack": ATTACK, "eps": [0.05, 0.3]},
    "ensemble": {
        "models": ["AF", "AEB"],
        "images": 8,
        "attack": {"attack": "APGD", "eps": 0.15, "steps": 3},
    },
    "blackbox": {
        "models": ["AEB"],
        "images": 4,
        "eps": [0.5, 2],
        "boundary": {"query_budget": 60},
        "nattack": {"query_budget": 40, "population": 20},
    },
}


def write(path, tables):
    path.write_text(_toml.dumps(tables))
    return str(path)


def timeless(path):
    """The text of a file without what was timed."""
    text = re.sub(r'"seconds": [0-9.]+', "", path.read_text().split("## How it was made")[0])
    return re.sub(r" [0-9]+\.[0-9]{2} \|$", " |", text, flags=re.MULTILINE)


def changed(tables, **changes):
    """A copy of the tables; changes are {"evaluation.images": 3} with __ for the dot."""
    tables = copy.deepcopy(tables)
    for name, value in changes.items():
        *path, last = name.split("__")
        table = tables
        for part in path:
            table = table[int(part) if isinstance(table, list) else part]
        table[last] = value
    return tables


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The folder of a finished experiment."""
    folder = tmp_path_factory.mktemp("experiment")
    preset = write(folder / "full.toml", FULL)
    assert cli.main(["experiment", preset, "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_all_tables_and_figures_are_written(full):
    page = (full / "tables.md").read_text()
    for title in ("Table 1.", "Table 2.", "Table 3a.", "Table 3b.", "Table 4.", "Table 5.", "APGD", "findings"):
        assert f"## {title}" in page or title in page, title
    for name in ("figure1", "figure2", "figure3", "table3b"):
        assert (full / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"{name}.png" in page
    assert "keras-esq experiment full.toml --seeds 1 --out out" in page  # no paths of this machine
    assert "Training 0.0 h, evaluation 0.0 h" in page
    kept = json.loads((full / "results.json").read_text())
    assert set(kept["tables"]) == {"table1", "table2", "table3a", "table3b", "table4", "table5", "ensemble", "recipes"}
    assert kept["seeds"] == [0]
    # The paper's own figures stand beside.
    assert [row for row in kept["tables"]["table1"]["rows"] if row[0] == "AF"][1][2:] == list(paper.TABLE_1["AF"])
    # One seed: no twin.
    rows = kept["tables"]["table3b"]["rows"][1:]
    assert rows[0][1] is None and rows[1][2] is None and rows[0][2] is not None  # noqa: PT018
    assert "there was one seed" in page


def test_numbers_are_those_of_the_reports(full):
    """From the masks that evaluate_robustness wrote, by another way than the tables go."""
    report = RobustnessReport.from_json(full / "seed-0" / "AEB" / "report.json")
    rows = {row[0]: row for row in json.loads((full / "results.json").read_text())["tables"]["table3a"]["rows"][::-1]}
    table = dict(zip(("clean", "PGD", "DDN"), rows["AEB"][2:5], strict=True))
    for name, cell in table.items():
        assert cell["mean"] == pytest.approx(100 * report.robust[name].mean())
    walks = json.loads((full / "seed-0" / "AEB" / "evaluation.json").read_text())["blackbox"]["result"]
    assert walks["white box"] == report.robust["DDN"][: walks["n"]].sum()
    # The model in the folder is the one that was measured, and quantized.
    model = esq.load_model(full / "seed-0" / "AEB" / "model.keras")
    digits = esq.data.load("digits")
    right = model.predict(digits.x_test[:24], verbose=0).argmax(axis=1) == digits.y_test[:24]
    np.testing.assert_array_equal(right, report.robust["clean"])
    kernel = esq.strip(model.network).get_layer("conv2").get_weights()[0]
    assert all(len(np.unique(np.abs(kernel[..., i]).round(6))) == 1 for i in range(kernel.shape[-1]))


def test_over_its_source_is_counted_on_the_same_images(full):
    kept = json.loads((full / "results.json").read_text())["tables"]["recipes"]
    cell = dict(zip(kept["header"], next(row for row in kept["rows"] if row[0] == "AEB"), strict=True))[
        "over its source"
    ]
    masks = []
    for name in ("AEB", "AF"):
        result = json.loads((full / "seed-0" / name / "evaluation.json").read_text())["ensemble"]["result"]
        assert result["correct"]["APGD"] == result["robust"]["APGD"].count("1")
        masks.append(np.array([int(one) for one in result["robust"]["APGD"]]))
    difference = masks[0] - masks[1]
    assert cell["means"] == [pytest.approx(100 * difference.mean())]
    assert (cell["low"], cell["high"]) == tuple(100 * one for one in esq.evaluation.paired_interval(difference))
    report = RobustnessReport.from_json(full / "seed-0" / "AEB" / "report.json")
    worst = json.loads((full / "seed-0" / "AEB" / "evaluation.json").read_text())["attacks"]["result"]["robust"]
    assert worst["worst L-inf"] == "".join(str(int(one)) for one in report.robust["PGD"])
    first = next(row for row in kept["rows"] if row[0] == "AF")
    assert dict(zip(kept["header"], first, strict=True))["over its source"] is None


def test_leads_of_seeds_are_joined_image_by_image():
    def kept(**seeds):
        return {"ensemble": {int(seed[1:]): {"n": 4, "robust": {"AA": bits}} for seed, bits in seeds.items()}}

    parts = {
        "low": kept(s0="1100", s1="1001"),
        "AF": kept(s0="1010", s1="1011", s2="1111"),
        "old": {"ensemble": {0: {}}},
    }
    results = experiment.results.Results(config=None, seeds=(0, 1, 2), parts=parts)
    lead = results.lead("low", "AF", "AA", "ensemble")
    assert lead.differences == ((0, 1, -1, 0), (0, 0, -1, 0))
    assert lead.means == (0.0, -25.0)
    assert lead.interval == tuple(100 * one for one in esq.evaluation.paired_interval([0, 0.5, -1, 0]))
    assert results.lead("low", "old", "AA", "ensemble") is None
    assert results.lead("low", "AF", "other", "ensemble") is None


def test_size_is_counted_right(full):
    """small_cnn of width 2: kernels 9x1x2, 9x2x4, 9x4x8, 8x10; a float scale for each of 24 outputs."""
    rows = {row[0]: row for row in json.loads((full / "results.json").read_text())["tables"]["table2"]["rows"]}
    weights = 18 + 72 + 288 + 80
    assert rows["AF"][3] == 4 * weights
    assert rows["AEB"][2] == "1"
    packed = rows["AEB"][3] - 4 * 24
    assert weights / 8 <= packed <= weights / 8 + 4


def test_a_finished_experiment_is_only_rendered(full, monkeypatch, capsys):
    for module, name in ((running, "train"), (evaluate, "trained"), (running, "check_recipes")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("done again"))
    before = (full / "tables.md").read_text()
    (full / "tables.md").unlink()
    assert (
        cli.main(["experiment", str(full / "config.toml"), "--out", str(full), "--compare", str(full), "--json"]) == 0
    )
    assert (full / "tables.md").read_text() == before
    text = capsys.readouterr().out
    assert "difference" in text
    assert "table3a" in json.loads(text.splitlines()[-1])["tables"]


def test_compare(full, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.toml").write_text((full / "config.toml").read_text())
    kept = json.loads((full / "seed-0" / "AEB" / "evaluation.json").read_text())
    kept["attacks"]["result"]["correct"]["PGD"] = 6 + kept["attacks"]["result"]["correct"]["PGD"]
    (other / "seed-0" / "AEB").mkdir(parents=True)
    (other / "seed-0" / "AEB" / "evaluation.json").write_text(json.dumps(kept))
    table = experiment.compare(full, other)
    assert {row[0] for row in table.rows} == {"AEB"}
    assert table.rows[2][1:4] == ("difference", "+0.0", "+25.0")
    with pytest.raises(FileNotFoundError, match="folder of an experiment"):
        experiment.compare(full, tmp_path)


def interrupted(config, out, monkeypatch):
    """Runs that are broken off after each epoch, before each mark and at each second batch of an attack."""
    breaks = {"epoch": 0, "save": 0, "batch": 0}

    def breaking(kind, original, after):
        def once(*args, **kwargs):
            breaks[kind] += 1
            if after:
                original(*args, **kwargs)
            if breaks[kind] % 2:
                raise KeyboardInterrupt
            return None if after else original(*args, **kwargs)

        return once

    monkeypatch.setattr(train.Backup, "on_epoch_end", breaking("epoch", train.Backup.on_epoch_end, True))
    monkeypatch.setattr(train, "atomic_path", breaking("save", train.atomic_path, False))
    store = esq.evaluation.cache.BatchCache
    monkeypatch.setattr(store, "save", breaking("batch", store.save, True))
    for attempt in range(40):
        try:
            experiment.run(config, out)
        except KeyboardInterrupt:
            continue
        assert attempt > 4
        return
    pytest.fail("never finished")


@pytest.mark.slow
def test_an_interrupted_experiment_comes_to_the_same(tmp_path, monkeypatch):
    config = experiment.config_from(TINY)
    experiment.run(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted(config, tmp_path / "broken", patch)
    for recipe in config.models:
        whole, broken = (tmp_path / name / "seed-0" / recipe.name for name in ("whole", "broken"))
        one, other = (esq.load_model(folder / "model.keras").get_weights() for folder in (whole, broken))
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
        for name in ("history.json", "evaluation.json"):
            assert timeless(whole / name) == timeless(broken / name)
        assert sorted(path.name for path in broken.iterdir()) == [
            "evaluation.json", "finished", "history.json", "model.keras", "report.json"
        ]  # fmt: skip
    pages = [timeless(tmp_path / name / "tables.md") for name in ("whole", "broken")]
    assert pages[0] == pages[1]
    assert "break" in (tmp_path / "broken" / "log.txt").read_text()
    # Another evaluation of the same models is a run that goes on; another recipe is another experiment.
    fewer = experiment.config_from(changed(TINY, evaluation__images=10))
    report = experiment.run(fewer, tmp_path / "whole")
    assert report.results.of("AEB", "attacks")[0]["n"] == 10
    other = experiment.config_from(changed(TINY, models__1__epochs=4))
    with pytest.raises(ValueError, match=r"models.AEB.epochs is 4 instead of 2"):
        experiment.run(other, tmp_path / "whole")
    digits = esq.data.load("digits")
    monkeypatch.setattr(running.data, "resolve", lambda *_: dataclasses.replace(digits, x_test=digits.x_test / 2))
    with pytest.raises(ValueError, match="other x_test of"):
        experiment.run(fewer, tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_experiment_comes_to_the_same(tmp_path):
    """SIGKILL at growing times, in training and in evaluation."""
    preset = write(tmp_path / "tiny.toml", TINY)
    command = [sys.executable, "-m", "keras_esq.cli", "experiment", preset, "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    for seconds in range(6, 40, 2):
        process = subprocess.Popen([*command, str(tmp_path / "broken")], stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, str(tmp_path / "broken")], check=True, capture_output=True)
    for name in ("seed-0/AF/evaluation.json", "seed-0/AEB/evaluation.json", "seed-0/AEB/history.json", "tables.md"):
        assert timeless(tmp_path / "whole" / name) == timeless(tmp_path / "broken" / name)


@pytest.mark.slow
def test_smoke_with_twins(tmp_path):
    report = experiment.run("smoke", tmp_path / "out", seeds=2)
    rows = {table.key: table for table in report.tables}["table3b"].rows[1:]
    assert all(row[1 + i] is not None for i, row in enumerate(rows))
    verdicts = {one.claim: one.verdict for one in report.findings}
    assert verdicts["Vanilla quantization destroys robustness (less than half is left)."] == findings.HELD
    assert verdicts["Pairing restores the robustness that vanilla quantization takes."] == findings.HELD


@pytest.mark.parametrize("preset", experiment.PRESETS)
@pytest.mark.parametrize(
    ("dataset", "model"), [(None, None), ("cifar10", None), ("cifar100", None), (None, "resnet20")]
)
def test_presets_are_whole(preset, dataset, model):
    config = experiment.load_config(preset, dataset, model)
    assert config.data.name == (dataset or config.data.name)
    assert experiment.config_from(config.tables()) == config
    assert experiment.config_from(_toml.loads(_toml.dumps(config.tables()))) == config
    if preset == "paper" and dataset == "cifar100":
        assert config.network.name == "resnet152"
        assert config.network.layers["late"] == "stage4_block1_out"
    names = {recipe.name for recipe in config.models}
    assert "AF" in names
    if preset in ("ablation", "pruning"):
        assert config.evaluation.on == "validation"  # it is for choosing
    else:
        assert config.evaluation.on == "test"
        assert {"NF", "AF", "NVB", "AVB", "AEB", "AAB"} <= names


def test_any_text_goes_to_toml_and_back():
    tables = {
        text: {text: text, "list": [text]} for text in ("\U0001f600", "a\x7fb", "\u00fc", 'a\n"\\\t\x00', "#", "")
    }
    assert _toml.loads(_toml.dumps(tables)) == tables


@pytest.mark.parametrize("on", ["test", "validation"])
def test_images_of_an_evaluation(on, tmp_path):
    config = experiment.config_from(changed(TINY, evaluation__on=on, evaluation__images=5))
    data = esq.data.load("digits")
    x, y = evaluate.Evaluator(config, data, tmp_path, 0, None, None)._images(None)
    wanted = (data.x_test, data.y_test) if on == "test" else (data.x_val, data.y_val)
    np.testing.assert_array_equal(x, wanted[0][:5])
    np.testing.assert_array_equal(y, wanted[1][:5])


def test_presets_are_found_in_the_examples():
    folder = Path(__file__).parent.parent / "examples" / "presets"
    assert {path.stem for path in folder.glob("*.toml")} == set(experiment.PRESETS)
    assert experiment.read_preset(str(folder / "small.toml")) == experiment.read_preset("small")


def dataset(shape=(32, 32, 3), classes=10):
    x, y = np.zeros((8, *shape), np.float32), np.arange(8, dtype=np.int32)
    return esq.data.Dataset(x, y, x, y, x, y, tuple(map(str, range(classes))))


@pytest.mark.parametrize(
    ("network", "name"),
    [("wrn28-1", "wrn28-10"), pytest.param("resnet152", "resnet152", marks=pytest.mark.slow)],
)
def test_the_paper_pairs_layers_that_its_networks_have(network, name):
    config = experiment.load_config("paper", None, name)
    options = {"width": 1} if network == "resnet152" else {}
    built = esq.models.build(network, (32, 32, 3), 10, **options)
    assert set(config.network.layers.values()) <= {layer.name for layer in built.layers}
    aliases = {alias for recipe in config.models for alias in recipe.pairing.get("layers", ())}
    assert aliases == set(config.network.layers)


@pytest.mark.parametrize(
    ("preset", "some"),
    [
        ("small", ("AF", "AET", "AEB-late")),
        ("ablation", ("AF", "one branch", "late", "RSLAD", "average")),
        ("frontier", ("AF", "AF int8", "AF half", "binary", "ternary half")),
    ],
)
def test_networks_of_presets_can_be_built(preset, some):
    for name in (None, "cifar10"):
        config = experiment.load_config(preset, name)
        few = tuple(recipe for recipe in config.models if recipe.name in some)
        assert len(few) == len(some)
        shape = (32, 32, 3) if name else (8, 8, 1)
        build.check_recipes(experiment.Config(**{**vars(config), "models": few}), dataset(shape))


@pytest.mark.parametrize(("name", "hidden"), [("mnist", 512), ("cifar10", 512), ("digits", 0)])
def test_the_frontier_narrows_every_layer(name, hidden):
    """Half the width is a quarter of the weights only if the hidden layer is halved too, or absent throughout."""
    config = experiment.load_config("frontier", name)
    options = [{**config.network.options, **one.network} for one in config.models if one.objective == "adversarial"]
    widths = sorted({(one["width"], one["hidden"]) for one in options}, reverse=True)
    assert widths == [(32 // part, hidden // part) for part in (1, 2, 4)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modles": []}, "models"),
        ({"data__nmae": "digits"}, "name"),
        ({"data__train": -1}, "train of"),
        ({"data__train": "many"}, "whole number"),
        ({"data__train": 10**6}, "at most"),
        ({"data__name": "digitz"}, "digits"),
        ({"network__name": "smal_cnn"}, "small_cnn"),
        ({"network__options": {"widht": 2}}, "width"),
        ({"models": []}, "at least one"),
        ({"models__1__name": "AF"}, "of its own"),
        ({"models__1__name": "a/b"}, "folder"),
        ({"models__1__source": "FA"}, "AF"),
        ({"models__0__source": "AEB"}, "circle"),
        ({"models__1__train": "quantise"}, "quantize"),
        ({"models__1__weights": "binnary"}, "binary"),
        ({"models__1__epcohs": 2}, "epochs"),
        ({"models__1__epochs": 0}, "epochs"),
        ({"models__1__epochs": True}, "whole number"),
        ({"models__1__learning_rate": float("nan")}, "learning_rate"),
        ({"models__1__seeds": -1}, "seeds of"),
        ({"models__0__seeds": 1}, "at most the 1 seeds of 'AF'"),
        ({"models__1__optimizer": "adma"}, "adam"),
        ({"models__1__optimizer_options": {"momntum": 0.9}}, "momntum"),
        ({"models__1__schedule": "cosin"}, "cosine"),
        ({"models__1__schedule": {"x": 0.1}}, "epochs as keys"),
        ({"models__1__ratio": "unifrom"}, "uniform"),
        ({"models__1__objective": "pairng"}, "pairing"),
        ({"models__0__objective": "tradse"}, "trades"),
        ({"models__0__objective_options": {"bta": 1}}, "bta"),
        ({"models__1__pairing": {"layers": ["relu9"]}}, "relu3"),
        ({"models__1__pairing": {"wieght": 1}}, "weight"),
        ({"models__1__pairing": {"distance": "l3"}}, "l2"),
        ({"models__1__attack": {"attack": "PDG"}}, "PGD"),
        ({"models__1__attack": {"attack": "PGD", "eps": "8/"}}, "a fraction"),
        ({"models__1__attack": {**ATTACK, "epsilon": 1}}, "eps"),
        ({"models__1__attack": {**ATTACK, "eps": "8/x"}}, "8/255"),
        ({"evaluation__imags": 3}, "images"),
        ({"evaluation__on": "training"}, "validation"),
        ({"evaluation__attacks": {}}, "at least one"),
        ({"evaluation__attacks": {"PGD": {"attack": "PGD", "eps": -1}}}, "eps"),
        ({"evaluation__transfer": {"models": ["AFF"], "attack": ATTACK}}, "AF"),
        ({"evaluation__transfer": {"models": ["AF"]}}, "attack"),
        ({"evaluation__curve": {"attack": ATTACK, "eps": 3}}, "list"),
        ({"evaluation__curve": {"attack": ATTACK, "eps": [0.1, -0.1]}}, "eps"),
        ({"evaluation__curve": {"attack": {"attack": "PGD", "step_size": 0.1}, "eps": [0.1]}}, "eps"),
        ({"evaluation__blackbox": {"eps": [1], "boundary": {"queries": 3}, "nattack": {}}}, "query_budget"),
        ({"for": {"digits": {"models": []}}}, "without models"),
        ({"for": {"digits": {"dta": {}}}}, "data"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_presets_say_what_is_wrong_and_leave_nothing(change, words, tmp_path, capsys):
    preset = write(tmp_path / "bad.toml", changed(TINY, **change))
    assert cli.main(["experiment", preset, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "keras-esq: " in error
    assert words in error.split("keras-esq: ", 1)[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["smal"], "small"),
        (["smoke", "--seeds", "0"], "seeds"),
        (["smoke", "--dataset", "cifar11"], "cifar10"),
        (["smoke", "--model", "small_cn"], "small_cnn"),
        (["small", "--data-path", "nothing.npz"], "nothing.npz"),
        (["bad.toml"], "Expected a TOML file"),
        (["smoke", "--out", "full"], "has files"),
        (["smoke", "--compare", "nothing"], "nothing"),
    ],
)
def test_bad_arguments(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("[data")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").touch()
    out = [] if "--out" in arguments else ["--out", "out"]
    assert cli.main(["experiment", *arguments, *out]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_overrides_by_data_set_and_network():
    tables = changed(TINY)
    tables["for"] = {
        "mnist": {"network": {"name": "resnet20"}, "train": {"defaults": {"attack": {"eps": 0.3}}}},
        "resnet20": {"network": {"layers": {"middle": "stage2_block1_out"}}},
        "cifar10": {"train": {"defaults": {"attack": {"attack": "FGSM", "eps": "8/255"}}}},
    }
    plain, mnist, both, cifar = (
        experiment.config_from(tables, *names)
        for names in ((), ("mnist",), ("mnist", "small_cnn"), ("cifar10", "resnet20"))
    )
    assert plain.recipe("AF").attack == ATTACK
    assert mnist.recipe("AF").attack == {**ATTACK, "eps": 0.3}
    assert (mnist.network.name, mnist.network.layers["middle"]) == ("resnet20", "stage2_block1_out")
    # What the command says wins over what the data set wants.
    assert (both.network.name, both.network.options) == ("small_cnn", {"width": 2})
    # An attack of another class takes nothing from the first one.
    assert cifar.recipe("AF").attack == {"attack": "FGSM", "eps": "8/255"}
    assert cifar.network.options == {}


def test_toml_is_read_back():
    tables = {
        "a": 1, "b": 0.1, "c": 1e-7, "d": True, "e": 'quote " \\ and ü', "list": [1, "x", [2.5]], "empty": [],
        "t": {"key with space": {"deep": {"x": -3}}, "inline": [{"n": "one", "p": {"q": [0.5]}}, {"n": "two"}]},
    }  # fmt: skip
    assert _toml.loads(_toml.dumps(tables)) == tables


def made(models, amplification=None, n=1000, **parts):
    """Results with {model: (clean, worst in L-inf, worst in L2)} right of n images."""
    recipes = [
        {"name": "AF", "objective": "adversarial"},
        {"name": "AVB", "train": "quantize"},
        {"name": "AEB", "train": "quantize", "objective": "pairing"},
        {"name": "AAB", "train": "quantize", "objective": "adversarial"},
        {"name": "AEB-x", "train": "quantize", "objective": "pairing", "pairing": {"layers": ["relu1"]}},
    ]
    config = experiment.config_from({**FULL, "models": recipes, "evaluation": TINY["evaluation"]})
    names = ("clean", "worst L-inf", "worst L2")
    kept = {
        name: {"attacks": {0: {"n": n, "correct": dict(zip(names, counts, strict=True))}}}
        for name, counts in models.items()
    }
    for name, value in (amplification or {}).items():
        one = {"mean": {"logits": value}, "std": {"logits": 0.1}, "undefined": {"logits": 0}, "n": n}
        kept[name]["amplification"] = {0: one}
    for part, by_model in parts.items():
        for name, value in by_model.items():
            kept[name][part] = {0: value}
    return results.Results(config=config, seeds=(0,), parts=kept)


GOOD = {
    "AF": (950, 700, 600),
    "AVB": (980, 20, 100),
    "AEB": (940, 650, 500),
    "AAB": (940, 500, 500),
    "AEB-x": (950, 300, 300),
}
BAD = {
    "AF": (950, 700, 600),
    "AVB": (980, 690, 100),
    "AEB": (940, 300, 500),
    "AAB": (940, 500, 500),
    "AEB-x": (950, 600, 300),
}


@pytest.mark.parametrize(
    ("models", "amplification", "transfer", "verdict"),
    [
        (GOOD, {"AF": 0.3, "AVB": 0.9, "AEB": 0.25}, 0.9, findings.HELD),
        (BAD, {"AF": 0.5, "AVB": 0.2, "AEB": 0.9}, 0.1, findings.NOT_HELD),
    ],
)
def test_findings_are_judged_by_the_numbers(models, amplification, transfer, verdict):
    """Both ways: a finding that can't fail says nothing."""
    crossed = {name: {"n": 1000, "accuracy": {"AF": transfer}, "clean": {"AF": 1.0}} for name in ("AVB", "AEB")}
    found = findings.judge(made(models, amplification, transfer=crossed))
    assert {one.verdict for one in found} == {verdict}
    assert len(found) == 7


@pytest.mark.parametrize(
    ("white", "verdict"), [(35, findings.NOT_HELD), (9, findings.HELD), (None, None)], ids=["masked", "fine", "none"]
)
def test_black_boxes_are_compared_on_the_same_images(white, verdict):
    walks = {"n": 50, "eps": [0.5, 2], "Boundary": [40, 10], "N-Attack": [45, 30], "clean": 48, "white box": white}
    results_ = made(GOOD, blackbox={"AEB": walks})
    attacks = results_.config.evaluation.attacks
    attacks["DDN"] = {"attack": "DDN", "eps": 2}
    found = [one for one in findings.judge(results_) if "Boundary" in one.numbers]
    assert [one.verdict for one in found] == ([verdict] if verdict else [])
    if verdict:
        share = f"{100 * white / 50:.1f}"
        assert f"Boundary within L2 2 leaves 20.0 %, the worst white-box attack in L2 {share} %" in found[0].numbers


def test_findings_are_undecided_within_the_intervals():
    near = {**GOOD, "AAB": (940, 645, 500)}
    verdicts = {one.claim: one.verdict for one in findings.judge(made(near))}
    assert verdicts["Pairing is better than adversarial training while quantizing."] == findings.OPEN


def test_shares():
    share = results.Share(((50, 100), (70, 100), (60, 100)))
    assert share.mean == pytest.approx(60)
    assert share.spread == pytest.approx(statistics.stdev([50, 70, 60]))
    low, high = share.interval
    # Wilson's interval of 180 of 300, by its formula.
    p, n, z = 0.6, 300, 1.959963984540054
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (low, high) == pytest.approx(
        (100 * (middle - half) / (1 + z * z / n), 100 * (middle + half) / (1 + z * z / n))
    )
    assert str(share) == "60.0 ± 10.0"
    assert str(results.Share(((1, 3),))) == "33.3"


def test_tables_as_text_and_markdown():
    table = Table("t", "Title", ("model", "n", "x"), (("A", 1200, None), ("B", 3, 0.5)), ("A note.",))
    assert table.to_markdown().splitlines()[2:6] == [
        "| model | n | x |", "| --- | ---: | ---: |", "| A | 1,200 | - |", "| B | 3 | 0.50 |"
    ]  # fmt: skip
    assert table.to_text().splitlines()[-1] == "A note."


def test_the_papers_figures_agree_with_each_other():
    """Table 1's last strength is that of Table 3a."""
    for name in ("NF", "AF"):
        assert paper.TABLE_1[name][-1] == pytest.approx(paper.TABLE_3A[name]["FGSM"], abs=0.03)
    assert paper.TABLE_3A["AEB"]["PGD"] / paper.TABLE_3A["AF"]["PGD"] == pytest.approx(0.925, abs=0.001)
