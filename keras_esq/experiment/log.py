"""What happened when, for tables that take hours."""

from __future__ import annotations

import contextlib
import datetime
import re
import time
from collections.abc import Iterator
from pathlib import Path


class Log:
    """Appends lines with the time to a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, text: str) -> None:
        """Append a line."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(sep=" ", timespec="seconds")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{now}  {text}\n")

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Lines for the beginning and the end of a step, with its seconds; an interruption is a line too."""
        start = time.perf_counter()
        self.write(f"begin  {what}")
        try:
            yield
        except BaseException as error:
            self.write(f"break  {what}: {type(error).__name__} after {time.perf_counter() - start:.1f} s")
            raise
        self.write(f"end    {what}: {time.perf_counter() - start:.1f} s")


def seconds_of(path: Path) -> dict[str, float]:
    """{"train": seconds, "evaluate": seconds} of the steps in a log that came to their end."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    sums = {"train": 0.0, "evaluate": 0.0}
    for kind, seconds in re.findall(r"  end    (train|evaluate) .*: ([0-9.]+) s$", text, re.MULTILINE):
        sums[kind] += float(seconds)
    return sums
