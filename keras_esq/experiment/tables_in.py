"""Checks of tables that people write."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from keras_esq import _text
from keras_esq._checks import near_matches

_KINDS = {str: "text", int: "a whole number", float: "a number", dict: "a table", list: "a list", bool: "true or false"}


def check_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise ValueError, with near matches, for a key of `table` that is not among `known`."""
    known = list(known)
    for key in table:
        if key not in known:
            raise ValueError(f"Expected keys of {where}. Received: {key!r}. {near_matches(key, known)}")


def check_type(value: Any, kind: type, where: str) -> Any:
    """Return `value` if it is of that kind; whole numbers are numbers too, truth values are no numbers."""
    kinds = (int, float) if kind is float else (list, tuple) if kind is list else kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"Expected {where} to be {_KINDS[kind]}. Received: {value!r}.")
    return value


def number(value: Any) -> Any:
    """`value`, or the number that it means if it is a text, as `_text.number`."""
    return _text.number(value) if isinstance(value, str) else value


def strings(values: Iterable[Any]) -> list[str]:
    """The values as a list of text."""
    return [str(value) for value in values]


def without_defaults(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not empty, as a table."""
    table = dataclasses.asdict(settings)
    return {key: value for key, value in table.items() if value is not None and value not in ("", {}, [], ())}


def fields_of(cls: type, table: Any, where: str) -> dict[str, Any]:
    """The table as arguments of a dataclass, checked for unknown keys and types."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    check_keys(check_type(table, dict, where), fields, where)
    kinds = {
        **{"str": str, "int": int, "float": float, "bool": bool},
        **{"dict[str, Any]": dict, "dict[str, str]": dict, "list[str]": list},
    }
    for key, value in table.items():
        kind = kinds.get(str(fields[key].type))
        if kind is not None:
            check_type(value, kind, f"{key} of {where}")
    return dict(table)


def received(name: Any, known: Any) -> str:
    """The end of a message about an unknown name, with near matches."""
    return f"Received: {name!r}. {near_matches(str(name), [one for one in known if one])}"
