"""What quantization does during a training, for TensorBoard."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.quantize import LowBitWeight, get_ratio, low_bit_weights


class QuantizationBoard(keras.callbacks.Callback):
    """Writes to TensorBoard after each epoch: the ratio, and for each low-bit weight flips, zeros and scales.

    "flips" is the share of quantized values that are others than an epoch before (a training has settled when it is
    near 0), "zeros" the share of zeros, "scales" a histogram of the filters' alphas. All filters are looked at as if
    quantized, whatever the ratio.

    Args:
        log_dir: folder for the events, as of keras.callbacks.TensorBoard, beside which it may be used.

    Raises:
        ValueError: when training begins, for a model without low-bit weights.
    """

    def __init__(self, log_dir: str | os.PathLike[str] = "logs") -> None:
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self._writer: Any = None
        self._signs: dict[str, np.ndarray] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the events and note the quantized weights."""
        if not low_bit_weights(self.model):
            raise ValueError(
                f"Expected a low-bit model. Received {self.model.name!r}, which has only float weights. Make it one "
                "with esq.quantize_model(model, weights='ternary'), or drop QuantizationBoard."
            )
        self._writer = tf.summary.create_file_writer(os.path.join(self.log_dir, "quantization"))
        self._signs = {_name(weight): np.sign(weight.quantized) for weight in low_bit_weights(self.model)}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write this epoch's figures."""
        with self._writer.as_default(step=epoch):
            tf.summary.scalar("ratio", get_ratio(self.model))
            for weight in low_bit_weights(self.model):
                name, quantized = _name(weight), weight.quantized.numpy().astype(np.float32)
                signs = np.sign(quantized)
                tf.summary.scalar(f"{name}/flips", np.mean(signs != self._signs[name]))
                tf.summary.scalar(f"{name}/zeros", np.mean(signs == 0))
                tf.summary.histogram(f"{name}/scales", scales(weight, quantized))
                self._signs[name] = signs
        self._writer.flush()

    def on_train_end(self, logs: Any = None) -> None:
        """Close the events."""
        self._writer.close()


def scales(weight: LowBitWeight, quantized: np.ndarray) -> np.ndarray:
    """alpha of each filter of a weight, flat; 0 of a filter that is all zero."""
    axis = weight.quantizer.axis
    kept = {a % quantized.ndim for a in ((axis,) if isinstance(axis, int) else axis)}
    return np.abs(quantized).max(axis=tuple(a for a in range(quantized.ndim) if a not in kept)).reshape(-1)


def _name(weight: LowBitWeight) -> str:
    return f"{weight.wrapper.name}/{weight.attribute}"
