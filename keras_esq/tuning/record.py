"""What a search is, written into its folder, so that another one is not mistaken for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_esq._files import write_atomic

_FILE = "search.json"
# Marks of a search of plain keras-tuner.
_FOREIGN = ("oracle.json", "tuner0.json")


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `write_record` wrote; None if there is no search in `folder`.

    Raises:
        ValueError: for a search that is not one of this package, or a damaged record.
    """
    path = folder / _FILE
    if not path.exists():
        found = [name for name in _FOREIGN if (folder / name).exists()]
        if found:
            raise ValueError(
                f"Expected an empty folder, or one of a search by keras_esq. Found {found} without {_FILE} in "
                f"{str(folder)!r}: a search by keras-tuner itself. Choose another directory or project_name, or pass "
                "overwrite=True to delete it."
            )
        return None
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"Expected the record of a search. {str(path)!r} is damaged ({error}). Choose another directory, or pass "
            "overwrite=True to begin anew."
        ) from error
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a search to its folder."""
    write_atomic(folder / _FILE, json.dumps(record, indent=2) + "\n")


def check_same(folder: Path, found: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError, with every difference, unless `now` describes the search that was `found` in `folder`."""
    differences = [
        f"{name}: found {found.get(name)!r}, now {now[name]!r}"
        for name in now
        if name != "space" and found.get(name) != now[name]
    ]
    differences += _space_differences(found.get("space", {}), now["space"])
    if differences:
        raise ValueError(
            f"Expected {str(folder)!r} to hold this search, or nothing. Found another one:\n  "
            + "\n  ".join(differences)
            + "\nUse the settings that were found to go on with it, choose another directory or project_name, or pass "
            "overwrite=True to delete it."
        )


def _space_differences(found: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    lines = [f"search space: {name!r} is new" for name in now if name not in found]
    lines += [f"search space: {name!r} is gone" for name in found if name not in now]
    lines += [
        f"search space: {name!r}: found {found[name]}, now {now[name]}"
        for name in now
        if name in found and found[name] != now[name]
    ]
    return lines


def describe_space(hp: Any) -> dict[str, Any]:
    """{name: plain settings} of a HyperParameters, as JSON gives them back."""
    space = {}
    for entry in hp.get_config()["space"]:
        config = dict(entry["config"])
        name, conditions = config.pop("name"), config.get("conditions")
        space[f"{name} if {conditions}" if conditions else name] = {"kind": entry["class_name"], **config}
    return json.loads(json.dumps(space))
