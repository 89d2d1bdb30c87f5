"""The input or the output of a file: what it takes for real values, and gives."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_esq.runtime.flatbuffer_format import items, type_name

_INTEGER = {"INT8": np.int8, "UINT8": np.uint8}
_IO_TYPES: dict[str, Any] = {"FLOAT32": np.float32, **_INTEGER}


class Port:
    """Type, shape and scale of an input or output tensor.

    Attributes:
        shape: of one sample.
        dtype: as stored.
        quantization: (scale, zero point), or None for floats.
    """

    def __init__(self, tensor: Any) -> None:
        kind, shape = type_name(tensor), items(tensor.shape)
        if kind not in _IO_TYPES:
            raise ValueError(f"Expected an input and output of type {', '.join(_IO_TYPES)}. Received: {kind}.")
        if not shape or shape[0] != 1:
            raise ValueError(f"Expected tensors with a batch of 1 as their first size. Received the shape {shape}.")
        self.shape = tuple(shape[1:])
        self.dtype = np.dtype(_IO_TYPES[kind])
        self.quantization: tuple[float, int] | None = None
        if kind in _INTEGER:
            quantization = tensor.quantization
            scales = [] if quantization is None or quantization.scale is None else list(quantization.scale)
            if len(scales) != 1 or scales[0] <= 0:
                raise ValueError(
                    f"Expected an {kind} input and output with one positive scale. Received {len(scales)} scales. "
                    "Convert the model with keras_esq.convert."
                )
            zero_points = items(quantization.zeroPoint)
            self.quantization = float(scales[0]), zero_points[0] if zero_points else 0

    def from_real(self, x: np.ndarray) -> np.ndarray:
        """What the tensor takes for these values."""
        if self.quantization is None:
            return x.astype(np.float32)
        scale, zero_point = self.quantization
        limits = np.iinfo(self.dtype)
        return np.clip(np.rint(x.astype(np.float32) / np.float32(scale)) + zero_point, limits.min, limits.max).astype(
            self.dtype
        )

    def to_real(self, q: np.ndarray) -> np.ndarray:
        """The values of what the tensor holds."""
        if self.quantization is None:
            return q
        scale, zero_point = self.quantization
        return (q.astype(np.float32) - zero_point) * np.float32(scale)
