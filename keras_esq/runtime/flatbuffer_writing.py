"""A graph's objects back to the bytes of a .tflite file, with every vector stored once."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np

from keras_esq.runtime.flatbuffer_format import IDENTIFIER

# Kernels read weights with vector instructions; the schema demands it, Python's generated code forgets it.
_BUFFER_ALIGNMENT = 16


class _SharingBuilder(flatbuffers.Builder):
    """A builder that stores equal vectors and strings once.

    A per-channel tensor has one zero point a channel, 8 bytes each and all of them 0; biases repeat the scales of other
    biases; names repeat. A reader can't tell that two tables point to one vector.
    """

    __slots__ = ("_strings", "_vectors")

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._vectors: dict[tuple[str, bytes], int] = {}
        self._strings: dict[Any, int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        """The place of a vector, which is written if it is new."""
        payload = np.ascontiguousarray(x).astype(x.dtype.newbyteorder("<"), copy=False).tobytes()
        key = (x.dtype.str, payload)
        if key not in self._vectors:
            alignment = _BUFFER_ALIGNMENT if x.dtype == np.uint8 else x.dtype.alignment
            self.StartVector(x.itemsize, x.size, alignment)
            self.head -= len(payload)
            self.Bytes[self.head : self.head + len(payload)] = payload
            self._vectors[key] = self.EndVector()
        return self._vectors[key]

    def CreateString(self, s: Any, encoding: str = "utf-8", errors: str = "strict") -> int:
        """The place of a string, which is written if it is new."""
        if s not in self._strings:
            self._strings[s] = super().CreateString(s, encoding, errors)
        return self._strings[s]


def pack_model(model: Any) -> bytes:
    """The bytes of a file as the objects are, unused ones included, so that tensors keep their numbers."""
    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = _SharingBuilder(size + (1 << 16))
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())
