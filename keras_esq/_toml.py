"""TOML: reading on every Python that we run on, and writing, which Python can't."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def loads(text: str) -> dict[str, Any]:
    """The tables in a text.

    Raises:
        ValueError: if it is no TOML.
        ImportError: on Python 3.10 without tomli.
    """
    try:
        import tomllib
    except ImportError:  # Python 3.10
        try:
            import tomli as tomllib
        except ImportError as error:
            raise ImportError(
                "Reading .toml on Python 3.10 needs tomli: pip install tomli. Or use .yaml or .json."
            ) from error
    return tomllib.loads(text)


def dumps(tables: Mapping[str, Any]) -> str:
    """Tables as text that `loads` reads back: text, numbers, truth values, lists, tables and lists of tables."""
    return "\n".join(_lines(tables, "")).strip() + "\n"


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, value in table.items():
        if not isinstance(value, Mapping) and not _is_tables(value):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        where = f"{path}{_key(key)}"
        if isinstance(value, Mapping):
            yield from ("", f"[{where}]", *_lines(value, f"{where}."))
        elif _is_tables(value):
            for one in value:
                yield from ("", f"[[{where}]]", *(f"{_key(k)} = {_value(v)}" for k, v in one.items()))


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _key(key: str) -> str:
    bare = key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if bare else _text(key)


def _text(value: str) -> str:
    # TOML's basic strings have JSON's escapes, but no pairs of surrogates, and DEL not as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
