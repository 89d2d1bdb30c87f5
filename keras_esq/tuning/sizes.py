"""How many bytes a model will need, known before it is trained."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from keras_esq.quantize import summary


def packed_bytes(model: Any) -> int:
    """Bytes of all weights as `esq.summary` counts them: kernels packed at 1, 2 or 32 bits with a scale a filter.

    A .tflite file has a header and a graph besides, and folds BatchNormalization; for its exact size see
    `ConvertedBytes`.

    Args:
        model: a low-bit or float model, or an ErrorSilencedModel around one.

    Raises:
        TypeError, ValueError: as `esq.summary`.
    """
    return summary(model).totals.low_bit_bytes


def float_bytes(model: Any) -> int:
    """Bytes of all weights in 32 bits."""
    return summary(model).totals.float_bytes


@dataclasses.dataclass(frozen=True, eq=False)
class ConvertedBytes:
    """Bytes of the .tflite file that a model becomes: exact, at the price of a conversion before each training.

    Args:
        target: as in `esq.convert`.
        calibration: images of shape (n, height, width, channels), as in `esq.convert`; some ten are enough for a size.
        options: further arguments of `esq.convert`, such as {"weights": "int4"}.
    """

    target: str
    calibration: Any
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, model: Any) -> int:
        """The bytes. Raises as `esq.convert` does, which fails the trial."""
        from keras_esq.conversion import convert

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            convert(model, path, target=self.target, calibration=self.calibration, **self.options)
            return path.stat().st_size


def size_name(size: Any) -> str:
    """What tells one measure of size from another, for the record of a search."""
    if isinstance(size, ConvertedBytes):
        options = "".join(f", {name}={value!r}" for name, value in sorted(size.options.items()))
        return f"ConvertedBytes({size.target!r}{options})"
    return getattr(size, "__qualname__", type(size).__qualname__)
