"""Checks of tables that people write."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

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
    """`value`, or the number that a text such as "8/255" means.

    Raises:
        ValueError: for other texts.
    """
    if not isinstance(value, str):
        return value
    try:
        return float(Fraction(value))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"Expected a number, or a fraction such as '8/255'. Received: {value!r}.") from error


def strings(values: Iterable[Any]) -> list[str]:
    """The values as a list of text."""
    return [str(value) for value in values]


def without_defaults(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not empty, as a table."""
    table = dataclasses.asdict(settings)
    return {key: value for key, value in table.items() if value is not None and value not in ("", {}, [], ())}
