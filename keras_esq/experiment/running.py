"""Running an experiment: every step has a folder and a finished mark, so that an interrupted one goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_esq import _toml, data
from keras_esq._checks import check_count
from keras_esq._environment import environment
from keras_esq._files import make_folder, write_atomic
from keras_esq.experiment.build import check_recipes
from keras_esq.experiment.config import Config, config_from
from keras_esq.experiment.evaluate import Evaluator
from keras_esq.experiment.log import Log
from keras_esq.experiment.presets_in import read_preset
from keras_esq.experiment.report import ENVIRONMENT, LOG, Report, write_report
from keras_esq.experiment.results import CONFIG
from keras_esq.experiment.train import is_trained, tidy, train

DATA = "data.json"


def load_config(preset: str, dataset: str | None = None, model: str | None = None) -> Config:
    """The experiment of a preset.

    Args:
        preset: its name, or the path of a TOML file.
        dataset, model: in place of the preset's own.

    Raises:
        TypeError, ValueError, OSError: for an unknown preset, an unreadable file, unknown keys and unusable values.
    """
    return config_from(read_preset(preset), dataset, model)


def start(out: Path, config: Config, images: data.Dataset) -> None:
    """Make the folder of the experiment, or check that it is this experiment's.

    Raises:
        ValueError: if it is another one's, with what differs.
        TypeError, ValueError: for recipes and attacks that can't be built; nothing is written then.
        OSError: if it can't be made.
    """
    path = out / CONFIG
    text = _toml.dumps(config.tables())
    if path.exists():
        before = path.read_text(encoding="utf-8")
        if before == text:
            return
        differences = _differences(_trained(config_from(_toml.loads(before)), config), _trained(config, config))
        if differences:
            raise ValueError(
                f"Expected the experiment of {str(out)!r}, see its {CONFIG}. Received another one: "
                f"{'; '.join(differences)}. Choose another folder, or run {str(path)!r} itself to go on with it."
            )
    elif out.is_dir() and any(out.iterdir()):
        raise ValueError(
            f"Expected a new or empty folder, or one of this experiment. Received {str(out)!r}, which has files but no "
            f"{CONFIG}. Choose another folder."
        )
    check_recipes(config, images)
    make_folder(out, "the folder of the experiment")
    write_atomic(path, text)


def _check_data(path: Path, images: data.Dataset) -> None:
    """Note what the data are, or check that they are those of the models that are there."""
    arrays = {name: getattr(images, name) for name in ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test")}
    found = {
        name: {"shape": list(array.shape), "sha256": hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()}
        for name, array in arrays.items()
    }
    if not path.exists():
        write_atomic(path, json.dumps(found, indent=1) + "\n")
        return
    kept = json.loads(path.read_text())
    other = [name for name in found if found[name] != kept.get(name)]
    if other:
        raise ValueError(
            f"Expected the data of the experiment in {str(path.parent)!r}, see its {path.name}. Received other "
            f"{', '.join(other)} of {images.name!r}. Give the --data-path of then, or choose another folder."
        )


def _note_command(path: Path, **given: str | None) -> None:
    """Keep what an experiment was started with, beside the environment of its last run; seeds may be added later."""
    first = json.loads(path.read_text()).get("experiment", given) if path.exists() else given
    kept = {**first, "seeds": given["seeds"]}
    write_atomic(path, json.dumps({**environment(), "experiment": kept}, indent=2) + "\n")


def _trained(config: Config, wanted: Config) -> dict[str, Any]:
    """What may not change once models are trained. Their evaluation may, and there may be more of them and of seeds."""
    tables = config.tables()
    names = {recipe.name for recipe in wanted.models}
    models = {one["name"]: {key: one[key] for key in one if key not in ("what", "seeds")} for one in tables["models"]}
    return {"data": tables["data"], "network": tables["network"], "models": models | dict.fromkeys(names - set(models))}


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What differs between two nests of tables, in words; a few are enough."""
    if old is None and where.startswith("models.") and where.count(".") == 1:
        return []  # a model more
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        parts = [_differences(old.get(key), new.get(key), f"{where}.{key}".lstrip(".")) for key in keys]
        return [line for part in parts for line in part][:5]
    return [] if old == new else [f"{where} is {_short(new)} instead of {_short(old)}"]


def _short(value: Any) -> str:
    if value is None:
        return "not set"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def load_data(config: Config, data_path: str | os.PathLike[str] | None = None) -> data.Dataset:
    """The data of an experiment, as few of it as the experiment uses.

    Raises:
        ValueError, OSError: as `keras_esq.data.resolve`; for more images than there are.
    """
    full = data.resolve(config.data.name, data_path)
    cut: dict[str, Any] = {}
    for part, count in (("train", config.data.train), ("val", config.data.validation)):
        images, labels = getattr(full, f"x_{part}"), getattr(full, f"y_{part}")
        if count > len(images):
            raise ValueError(f"Expected at most {len(images)} {part} images of {full.name!r}. Received: {count}.")
        if count:
            cut |= {f"x_{part}": images[:count].copy(), f"y_{part}": labels[:count].copy()}
    return dataclasses.replace(full, **cut)


def run(
    preset: str | Config,
    out: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    model: str | None = None,
    data_path: str | os.PathLike[str] | None = None,
    seeds: int = 1,
) -> Report:
    """Run an experiment, or go on with one, and write its tables and figures.

    Args:
        preset: its name, the path of a TOML file, or a `Config`.
        out: the folder; made if needed. One experiment each.
        dataset, model: in place of the preset's own.
        data_path: where the data set's files are; see `keras_esq.data.load`.
        seeds: repetitions, with the seeds 0, 1, ...; more can be added later.

    Returns:
        The `Report`: tables, findings, and the files that were written.

    Raises:
        TypeError, ValueError, OSError: for what can't be run; before anything is trained.
    """
    check_count("seeds", seeds)
    config = preset if isinstance(preset, Config) else load_config(preset, dataset, model)
    out = Path(out)
    images = load_data(config, data_path)
    start(out, config, images)
    _check_data(out / DATA, images)
    _note_command(
        out / ENVIRONMENT,
        preset=preset if isinstance(preset, str) else CONFIG,
        dataset=dataset,
        model=model,
        **{"data-path": None if data_path is None else os.fspath(data_path)},
        seeds=str(seeds),
        out=str(out),
    )
    log = Log(out / LOG)
    folders = [out / f"seed-{seed}" for seed in range(seeds)]
    for seed, folder in enumerate(folders):
        for recipe in config.of_seed(seed):
            if not is_trained(folder / recipe.name):
                with log.step(f"train seed {seed} {recipe.name}"):
                    train(recipe, config, images, seed, folder)
            tidy(folder / recipe.name)
    for seed, folder in enumerate(folders):
        twin = folders[(seed + 1) % seeds] if seeds > 1 else None
        Evaluator(config, images, folder, seed, twin, log).run()
    return write_report(out, seeds)
