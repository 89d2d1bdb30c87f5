"""Presets: experiments by name, or in files of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_esq import _toml
from keras_esq._checks import near_matches

_FOLDER = Path(__file__).with_name("presets")
PRESETS = tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def read_preset(text: str) -> dict[str, Any]:
    """The tables of a preset.

    Args:
        text: the name of one of `PRESETS`, or the path of a TOML file.

    Raises:
        ValueError: for an unknown name, with the near ones, or a file that is no TOML.
        OSError: if the file can't be read.
        ImportError: on Python 3.10 without tomli.
    """
    path = _FOLDER / f"{text}.toml" if text in PRESETS else Path(text)
    if not path.is_file():
        raise ValueError(
            f"Expected a preset's name or the path of a TOML file. Received {text!r}, where there is no file. "
            f"{near_matches(text, PRESETS)}"
        )
    try:
        return _toml.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected a TOML file. Received {str(path)!r}: {error}.") from error
