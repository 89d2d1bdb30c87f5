"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on failure.

    Raises:
        OSError: if the folder does not exist or can't be written, with what to do.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"Expected a file to write to. Received the folder {str(target)!r}. Add a file name.")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"Expected a path in an existing folder. Received {str(target)!r}, and {str(target.parent)!r} does not "
            "exist. Create the folder first."
        )
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise type(error)(
            f"Expected a writable folder. Received {str(target.parent)!r}, which refused a new file "
            f"({error.strerror}). Choose another path or change its permissions."
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; a result should follow the user's umask like any other file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write `content` to `path` so that no half-written file can be seen. Returns the path."""
    data = content.encode() if isinstance(content, str) else content
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def make_folder(path: str | os.PathLike[str], name: str) -> Path:
    """The folder `path`, made if it is missing.

    Args:
        path: the folder.
        name: what the caller calls it, such as "--out".

    Raises:
        OSError: if it can't be made, with what to do.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"Expected {name} to be a folder, or free for one. Received {str(folder)!r}, which can't be made "
            f"({error.strerror}). Choose another."
        ) from error
    return folder


def as_json(content: Any, path: str | os.PathLike[str] | None = None) -> str:
    """`content` as JSON text, which has no NaN; also written to `path` if given."""
    text = json.dumps(content, indent=2, allow_nan=False)
    if path is not None:
        write_atomic(path, text + "\n")
    return text
