"""The published files are those that their cards describe."""

import hashlib
import json
import re
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
