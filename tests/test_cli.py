"""The command line and the demo behind it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import keras_esq as esq
from keras_esq import cli
from keras_esq._keras import keras
from keras_esq._text import number as parse_number


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([c.name, "--help"] for c in cli.COMMANDS)])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "keras-esq" in text
    assert ("example: keras-esq" in text) == (arguments[0] in {c.name for c in cli.COMMANDS})


@pytest.mark.parametrize("arguments", [[], ["dmeo"], ["inspect"], ["demo", "--seed", "x"]])
def test_wrong_arguments_exit_with_2(arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2


class Strict(keras.layers.Layer):
    """Fails while it is traced, with a stack of its own."""

    def call(self, x):
        if x.shape[-1] != 3:
            raise ValueError("Expected 3 columns: a, b and c.\n  Received others.")
        return x


@pytest.mark.parametrize("function", [lambda x: Strict()(x), lambda x: keras.Sequential([Strict()])(x)])
def test_errors_of_tracing_are_without_its_stack(function, monkeypatch, capsys):
    def run(arguments):
        tf.function(function)(tf.zeros((1, 2)))

    monkeypatch.setattr(cli, "COMMANDS", (dataclasses.replace(esq.cli.inspect.COMMAND, run=run),))
    assert cli.main(["inspect", "x.tflite"]) == 1
    error = capsys.readouterr().err
    assert error == "keras-esq: Expected 3 columns: a, b and c.\n  Received others.\n"


def test_errors_are_one_line_and_exit_with_1(tmp_path, capsys):
    foreign = tmp_path / "foreign.tflite"
    foreign.write_bytes(b"no model")
    for path in (foreign, tmp_path / "nothing.tflite"):
        assert cli.main(["inspect", str(path)]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("keras-esq: ")
        assert str(path) in captured.err
        assert captured.out == ""
    blocked = tmp_path / "file"
    blocked.touch()
    assert cli.main(["demo", "--out", str(blocked)]) == 1
    assert cli.main(["demo", "--seed", "-1", "--out", str(tmp_path / "x")]) == 1


@pytest.mark.parametrize("option", [["--pairing-weight", "0.3"], ["--distance", "l1"]])
def test_pairing_options_need_an_objective_that_pairs(option, tmp_path, capsys):
    command = ["train", "small_cnn", "--data", "digits", "--objective", "adversarial", "--out", str(tmp_path / "run")]
    assert cli.main([*command, *option]) == 1
    error = capsys.readouterr().err
    assert option[0] in error
    assert "--objective adversarial" in error


def test_demo_goes_the_whole_way(tmp_path, capsys, monkeypatch):
    """The demo with small networks and few epochs; `make slow` runs it as it is."""
    from keras_esq import demo

    quick = {
        name: dataclasses.replace(attack, steps=5, restarts=1)
        for name, attack in demo.TEST_ATTACKS.items()
        if name != "FGSM"
    }
    monkeypatch.setattr(demo, "ENSEMBLE", dataclasses.replace(demo.ENSEMBLE, steps=2, query_budget=3))
    monkeypatch.setattr(demo, "FEW", 10)
    monkeypatch.setattr(demo, "STEPS", tuple(dataclasses.replace(step, epochs=2) for step in demo.STEPS))
    monkeypatch.setattr(demo, "TEST_ATTACKS", {"FGSM": demo.TEST_ATTACKS["FGSM"], **quick})
    monkeypatch.setattr(demo, "WIDTH", 4)
    monkeypatch.setattr(demo, "RATIO", "full")
    out = tmp_path / "out"
    assert cli.main(["demo", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for name in ("NF", "AF", "AVB", "AEB", "AET", "relu1", "logits", "litert", "tflm", "AutoAttack", "masked"):
        assert name in text
    for name in ("aet_phone.tflite", "aet_mcu.tflite", "aeb_phone.tflite", "aeb_mcu.tflite"):
        assert (out / name).stat().st_size > 1000
        assert cli.main(["inspect", str(out / name)]) == 0
    assert (out / "error_amplification.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "robustness.json").exists()


def build():
    """What `module:function` names in these tests."""
    keras.utils.set_random_seed(0)
    return esq.quantize_model(esq.models.small_cnn(width=4), "ternary")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "model.keras"
    build().save(path)
    return str(path)


def result(capsys, *arguments):
    """The JSON line of a command that must succeed."""
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_convert_inspect_and_evaluate(saved, tmp_path, capsys):
    file, report = str(tmp_path / "model.tflite"), tmp_path / "report"
    made = result(capsys, "convert", saved, file, "--target", "mcu", "--samples", "20")
    assert made["bytes"] == Path(file).stat().st_size
    assert 0.5 <= made["top1_agreement"] <= 1
    tensors = result(capsys, "inspect", file)["tensors"]
    assert 2 in {row["bits"] for row in tensors if row["is_weight"]}
    few = ["--samples", "20", "--eps", "25/250", "--report", str(report)]
    first = result(capsys, "evaluate", saved, "--attacks", "quick", *few)
    assert list(first["accuracy"]) == ["clean", "fgsm", "pgd", "worst case"]
    for name in ("report.json", "report.md", "accuracy.png", "options.json", "environment.json"):
        assert (report / name).stat().st_size > 50, name
    kept = esq.RobustnessReport.from_json(report / "report.json")
    assert kept.accuracy("pgd") == first["accuracy"]["pgd"]
    # The folder's options repeat the run, an option given wins.
    options = ["--config", str(report / "options.json")]
    assert result(capsys, "evaluate", *options)["accuracy"] == first["accuracy"]
    other = result(capsys, "evaluate", *options, "--samples", "10", "--report", str(tmp_path / "other"))
    assert esq.RobustnessReport.from_json(tmp_path / "other" / "report.json").row("clean").n == 10
    assert set(other["accuracy"]) == set(first["accuracy"])


def test_convert_within_a_budget(saved, tmp_path, capsys):
    file = str(tmp_path / "model.tflite")
    command = ["convert", saved, file, "--target", "mcu", "--samples", "20"]
    result(capsys, *command)
    arena = esq.Flatbuffer(file).smallest_arena()
    assert cli.main([*command, "--ram-budget", str(arena - 1), "--over-budget", "error"]) == 1
    assert f"needs {arena:,} bytes" in capsys.readouterr().err


def test_convert_for_an_accelerator(saved, tmp_path, capsys):
    pytest.importorskip("ethosu")
    command = ["convert", saved, str(tmp_path / "model.tflite"), "--samples", "20", "--accelerator", "ethos-u55-128"]
    made = result(capsys, *command, "--target", "ethos-u")
    assert made["compiled"] == str(tmp_path / "model_vela.tflite")
    assert Path(made["compiled"]).stat().st_size > 1000
    assert made["vela"]["cycles"] > 0
    assert cli.main(command) == 1
    assert "ethos-u" in capsys.readouterr().err


def test_a_file_under_attack_with_its_source(saved, tmp_path, capsys):
    file = str(tmp_path / "model.tflite")
    result(capsys, "convert", saved, file, "--samples", "20")
    config = tmp_path / "few.yaml"
    config.write_text(f"target: {file}\nsamples: 6\neps: 0.05\n")
    assert cli.main(["evaluate", "--config", str(config), "--attacks", "quick"]) == 1
    assert "source=" in capsys.readouterr().err
    rows = result(capsys, "evaluate", "--config", str(config), "--attacks", "quick", "--source", saved)["accuracy"]
    assert list(rows) == ["clean", "fgsm from source", "pgd from source", "worst case"]


def test_a_folder_of_images(saved, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for number in range(5):
            image = rng.integers(0, 256, (9, 10 + number, 3), np.uint8)
            (tmp_path / "pets" / kind / f"{number}.png").write_bytes(tf.io.encode_png(image).numpy())
    config = tmp_path / "options.yaml"
    config.write_text(f"data: {tmp_path / 'pets'}\nattacks: quick\nimage_size: null\n")
    arguments = ["evaluate", saved, "--config", str(config)]
    assert cli.main(arguments) == 1
    assert "image_size" in capsys.readouterr().err
    rows = result(capsys, *arguments, "--image-size", "8", "8", "--channels", "1")["accuracy"]
    assert list(rows) == ["clean", "fgsm", "pgd", "worst case"]
    assert cli.main(["evaluate", saved, "--channels", "1"]) == 1
    assert "folder" in capsys.readouterr().err


def build_keras_3():
    import keras as keras3

    keras3.utils.set_random_seed(0)
    image = keras3.Input((8, 8, 1))
    return keras3.Model(image, keras3.layers.Dense(10)(keras3.layers.Flatten()(image)), name="k3")


@pytest.mark.parametrize("saved_first", [False, True])
def test_models_of_keras_3(saved_first, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    name = "test_cli:build_keras_3"
    if saved_first:
        name = str(tmp_path / "k3.keras")
        build_keras_3().save(name)
    rows = result(capsys, "evaluate", name, "--samples", "4")["accuracy"]
    assert list(rows) == ["clean", "fgsm", "pgd", "worst case"]
    assert result(capsys, "convert", name, str(tmp_path / "k3.tflite"), "--samples", "20")["top1_agreement"] > 0.5


def test_models_by_function(capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    few = ["--samples", "4", "--attacks", "quick"]
    rows = result(capsys, "evaluate", "test_cli:build", *few)["accuracy"]
    assert list(rows) == ["clean", "fgsm", "pgd", "worst case"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "nothing.keras"], "module:function"),
        (["evaluate", "no_such_module:f"], "no_such_module"),
        (["evaluate", "json:laods"], "loads"),
        (["evaluate", "os:getcwd"], "Keras model"),
        (["evaluate", "{saved}", "--data", "digitz"], "digits"),
        (["evaluate", "{saved}", "--attacks", "quik"], "quick"),
        (["evaluate", "{saved}", "--samples", "4", "--eps", "-1"], "eps"),
        (["evaluate", "{saved}", "--config", "nothing.toml"], "Expected a file of options. Received 'nothing.toml'"),
        (["evaluate", "{saved}", "--report", "{saved}"], "can't be made"),
        (["experiment", "smoke", "--out", "{saved}"], "can't be made"),
        (["convert", "{saved}", "x.tflite", "--report", "{saved}"], "Expected a robustness report"),
        (["convert", "{saved}", "x.tflite", "--report", "nothing"], "Expected the path of a robustness report"),
        (["convert", "{saved}", "x.tflite", "--target", "phnoe"], "phone"),
        (["convert", "{saved}", "{saved}"], "another path"),
    ],
)
def test_errors_say_what_to_do(saved, arguments, words, capsys):
    assert cli.main([argument.format(saved=saved) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert "keras-esq: " in error
    assert words in error


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "smaples: 3", "samples"),
        ("a.yaml", "samples: many", "samples"),
        ("a.yaml", "[1, 2", "Expected a file of options"),
        ("a.json", "[1, 2]", "by name"),
        ("a.json", "{", "Expected a file of options"),
        ("a.json", '{"audit": 3}', "true or false"),
        ("a.json", '{"norm": "l3"}', "l2"),
        ("a.txt", "samples: 3", ".yaml"),
    ],
)
def test_unusable_config(saved, name, text, words, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    assert cli.main(["evaluate", saved, "--config", str(tmp_path / name)]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_method_works_in_the_demo(tmp_path):
    """On several seeds: vanilla quantization destroys robustness, error-silenced quantization keeps it."""
    from keras_esq import demo

    for seed in (0, 1):
        result = demo.run(tmp_path / str(seed), seed)
        reports = result["reports"]
        assert not any(audit.suspicious for audit in result["audits"].values())
        worst = {name: report.accuracy("worst case") for name, report in reports.items()}
        ensemble = {name: report.accuracy("AutoAttack") for name, report in result["ensemble"].items()}
        assert worst["AVB"] < 0.5 * worst["AF"]
        assert worst["AEB"] > 0.85 * worst["AF"]
        assert worst["AET"] > 0.9 * worst["AF"]
        assert ensemble["AEB"] > 0.8 * worst["AF"]
        assert ensemble["AET"] > 0.85 * worst["AF"]
        assert all(
            np.diff([report.accuracy(k) for k in ("clean", "FGSM", "worst case")]).max() <= 0
            for report in reports.values()
        )


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.5/255", 0.5 / 255), ("1/510", 0.5 / 255), ("0.1", 0.1), ("1e-3", 1e-3)]
)
def test_numbers_as_people_write_them(text, value):
    assert parse_number(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("text", ["", "eight", "8/", "/255", "1/0", "1/2/3", "nan", "inf", "1/inf"])
def test_what_is_no_number(text):
    with pytest.raises(ValueError, match="Expected a number, or a fraction"):
        parse_number(text)


@pytest.mark.parametrize(
    "arguments",
    [
        "evaluate m.keras --samples -397",
        "evaluate m.keras --batch-size 0",
        "evaluate m.keras --image-size 8 0",
        "convert m.keras m.tflite --samples 0",
        "convert m.keras m.tflite --ram-budget -1",
        "train small_cnn --out run --batch-size 0",
        "train small_cnn --out run --epochs 0",
        "train small_cnn --out run --steps x",
        "tune m.keras --samples -1",
        "tune m.keras --max-trials 0",
        "tune m.keras --max-bytes 0",
        "tune m.keras --batch-size 0",
        "tune m.keras --epochs 1.5",
    ],
)
def test_counts_start_at_one(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments.split())
    assert stop.value.code == 2
    *_, option, value = (word for word in arguments.split() if word != "8")
    assert f"argument {option}: Expected an integer >= 1. Received: '{value}'." in capsys.readouterr().err


def test_a_learning_rate_is_positive(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "small_cnn", "--out", "run", "--learning-rate", "0"])
    assert stop.value.code == 2
    assert "argument --learning-rate: Expected a number > 0. Received: '0'." in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate model.keras", "train small_cnn", "tune keras_esq.models:small_cnn"])
def test_what_is_no_number_on_the_command_line(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--eps", "eight"])
    assert stop.value.code == 2
    assert (
        "argument --eps: Expected a number, or a fraction such as '8/255'. Received: 'eight'."
        in capsys.readouterr().err
    )
