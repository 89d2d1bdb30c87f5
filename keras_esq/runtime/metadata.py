"""The metadata entry "keras_esq" of a .tflite file: what the file is, as JSON, and a checksum of the whole file."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import numpy as np

from keras_esq.runtime.flatbuffer_format import FlatbufferError, _schema, text

NAME = "keras_esq"
_FIELD = "sha256"
_EMPTY = "0" * 64
_SEAL = re.compile(rb'"' + _FIELD.encode() + rb'":"([0-9a-f]{64})"')


def add_metadata(model: Any, values: dict[str, Any]) -> None:
    """Put the entry into a `ModelT`, in place of one that it has. The checksum is still empty: see `seal`."""
    schema = _schema()
    document = json.dumps({**values, _FIELD: _EMPTY}, separators=(",", ":"), allow_nan=False)
    model.buffers.append(schema.BufferT(data=np.frombuffer(document.encode(), np.uint8)))
    entry = schema.MetadataT(name=NAME, buffer=len(model.buffers) - 1)
    model.metadata = [*(m for m in model.metadata or [] if text(m.name) != NAME), entry]


def seal(content: bytes) -> bytes:
    """The bytes of a file with the checksum of its entry filled in."""
    empty = f'"{_FIELD}":"{_EMPTY}"'.encode()
    return content.replace(empty, f'"{_FIELD}":"{hashlib.sha256(content).hexdigest()}"'.encode(), 1)


def read_metadata(model: Any, name: str = "the file") -> dict[str, Any] | None:
    """What the entry says, without the checksum; None if the file has no entry.

    Args:
        model: what `parse` returned.
        name: what errors call the file.

    Raises:
        FlatbufferError: if the entry is no JSON object.
    """
    document = _document(model)
    if document is None:
        return None
    try:
        values = json.loads(document.decode())
        values.pop(_FIELD)
    except (ValueError, AttributeError, KeyError, RecursionError) as error:
        raise FlatbufferError(
            f"Expected the metadata entry {NAME!r} of {name} to be what keras_esq.convert writes. It can't be read "
            f"({error!r}). Copy or convert the file again."
        ) from error
    return dict(values)


def verify_seal(content: bytes, model: Any, name: str = "the file") -> bool:
    """Hold a file to the checksum in its entry, and tell whether it has one. Files of others have none, and pass.

    Interpreters trust every number of a graph; a changed one may end the process. This sees all changes.

    Raises:
        FlatbufferError: if the file changed after `keras_esq.convert` wrote it.
    """
    document = _document(model)
    if document is None:
        return False
    found = _SEAL.search(document)
    if found:
        stamped = found.group(0)
        empty = f'"{_FIELD}":"{_EMPTY}"'.encode()
        if hashlib.sha256(content.replace(stamped, empty, 1)).hexdigest().encode() == found.group(1):
            return True
    raise FlatbufferError(
        f"Expected {name} to be as keras_esq.convert wrote it. Its checksum tells that it changed since: it is "
        "damaged, or another tool edited it. Copy or convert it again, or pass verify=False for an edit that was meant."
    )


def _document(model: Any) -> bytes | None:
    for entry in model.metadata or []:
        if text(entry.name) == NAME and 0 <= entry.buffer < len(model.buffers):
            data = model.buffers[entry.buffer].data
            return b"" if data is None else np.asarray(data, np.uint8).tobytes()
    return None
