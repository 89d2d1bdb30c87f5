"""Quiet native libraries."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def native_notes(expected: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Keep what native libraries print off the terminal; Python's own messages stay on it.

    TensorFlow and the interpreters write to the process' stderr past Python, dozens of lines that bury tables and
    progress bars. If the block fails with anything but the `expected` exceptions they are shown: they may say why.
    """
    python, kept = sys.stderr, os.dup(2)
    with tempfile.TemporaryFile() as notes, os.fdopen(os.dup(kept), "w", buffering=1) as terminal:
        try:
            os.dup2(notes.fileno(), 2)
            if python is sys.__stderr__:
                sys.stderr = terminal
            yield
        except Exception as error:
            if not isinstance(error, expected):
                notes.seek(0)
                terminal.write(notes.read().decode(errors="replace"))
            raise
        finally:
            sys.stderr = python
            os.dup2(kept, 2)
            os.close(kept)
