"""The published files are those that their cards describe."""

import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_esq as esq

FOLDER = Path(__file__).parents[1] / "tflite_models"
FILES = sorted(FOLDER.glob("*.tflite"))


def facts(file):
    return json.loads(re.search(r"```json\n(.*?)```", file.with_suffix(".md").read_text(), re.DOTALL).group(1))


def test_there_are_files_and_they_are_small():
    assert len(FILES) >= 4
    assert {file.stem for file in FILES} == {card.stem for card in FOLDER.glob("*.md")}
    assert sum(file.stat().st_size for file in FILES) < 4_000_000


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_cards_match_files(file):
    told, text = facts(file), file.with_suffix(".md").read_text()
    content = file.read_bytes()
    assert told["bytes"] == len(content)
    assert told["sha256"] == hashlib.sha256(content).hexdigest()
    assert told["sha256"] in text.split("```json")[0]
    summary = esq.inspect(file)
    assert summary.metadata["target"] == told["target"]
    assert summary.metadata["bits"] == told["bits"]
    for figure in figures_of([told["keras"], told["file"], told.get("float", {})]):
        assert 0 <= figure <= 1
        assert f"{100 * figure:.1f}" in text
    assert told["keras"]["AutoAttack"] <= told["keras"]["PGD"] + 0.01 <= told["keras"]["clean"] + 0.01


def figures_of(content):
    """All accuracies in nested facts, which are the numbers that are not whole."""
    if isinstance(content, float):
        return [content]
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else []
    return [figure for part in parts for figure in figures_of(part)]


@pytest.mark.parametrize("file", [file for file in FILES if "digits" in file.stem], ids=lambda file: file.stem)
def test_digits_files_have_the_accuracy_of_their_cards(file):
    told, digits = facts(file), esq.data.load("digits")
    classes = esq.Flatbuffer(file, runtime=told["runtime"]).predict(digits.x_test).argmax(axis=1)
    assert np.mean(classes == digits.y_test) == pytest.approx(told["file"]["all"]["clean"], abs=1e-3)


def test_the_script_builds_files_and_cards_from_an_experiment(tmp_path, monkeypatch):
    """With the preset's names and parts, as small as they can be."""
    attack = {"attack": "PGD", "eps": 0.15, "step_size": 0.1, "steps": 1}
    tables = {
        "data": {"name": "digits", "train": 128, "validation": 40},
        "network": {"name": "small_cnn", "options": {"width": 2}},
        "train": {"defaults": {"epochs": 1, "attack": attack, "batch_size": 64}},
        "models": [
            {"name": "AF", "objective": "adversarial"},
            {
                "name": "binary",
                "what": "low-bit",
                "source": "AF",
                "weights": "binary",
                "objective": "adversarial_pairing",
                "weight_perturbation": 0.01,
            },
        ],
        "evaluation": {
            "images": 20,
            "attacks": {"PGD": attack},
            "ensemble": {"images": 6, "attack": {"attack": "AutoAttack", "eps": 0.15, "steps": 2, "query_budget": 4}},
        },
    }
    esq.experiment.run(esq.experiment.config_from(tables), tmp_path / "run")
    spec = importlib.util.spec_from_file_location(
        "build_tflite_models", FOLDER.parent / "examples/build_tflite_models.py"
    )
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for it
    spec.loader.exec_module(module)
    monkeypatch.setitem(module.FILES, "digits", module.Files((("binary", "mcu"),), images=5, square=(3, 4)))
    module.build(tmp_path / "run", None, tmp_path)
    file = tmp_path / "digits_binary_mcu.tflite"
    told, text = facts(file), file.with_suffix(".md").read_text()
    assert told["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    kept = json.loads((tmp_path / "run/seed-0/binary/evaluation.json").read_text())
    assert told["keras"]["clean"] == kept["attacks"]["result"]["correct"]["clean"] / 20
    assert told["keras"]["AutoAttack"] == pytest.approx(
        kept["ensemble"]["result"]["correct"]["AutoAttack"] / 6, abs=1e-4
    )
    digits = esq.data.load("digits")
    right = esq.Flatbuffer(file, runtime=told["runtime"]).predict(digits.x_test).argmax(axis=1) == digits.y_test
    assert told["file"]["all"] == {"images": len(right), "clean": pytest.approx(right.mean(), abs=1e-4)}
    assert told["file"]["attacked"]["clean"] == pytest.approx(right[:5].mean())
    assert told["file"]["attacked"]["AutoAttack"] <= told["file"]["attacked"]["clean"]
    assert told["recipe"] == "low-bit, weights perturbed by 0.01 of their norms"
    for part in ("eps 0.15", "clean on 20 test images", "attacked on the first 6", "On the first 5", "(4 queries)"):
        assert part in text
