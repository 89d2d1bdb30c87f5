"""Callbacks for the fit loop."""

from __future__ import annotations

import warnings
from typing import Any

from keras_esq._keras import keras
from keras_esq.quantize import get_schedule, low_bit_weights, set_ratio
from keras_esq.quantize.state import check_ratio
from keras_esq.training.model import ErrorSilencedModel


class QuantizationRatio(keras.callbacks.Callback):
    """Sets the share of filters that each training step quantizes, epoch by epoch [SQ].

    The ratio is logged as the metric "ratio". At the end of the training it is set to 1. Outside training steps
    (validation, prediction, saving for deployment) every filter is quantized at any time.

    Args:
        schedule: "uniform" ([ESQ]: 0.2, 0.4, ... 1.0), "exponential" ([SQ]: 0.5, 0.75, 0.875, 1.0), "full" (1.0
            always), a dict {epoch: ratio}, or a callable of (epoch) or (epoch, epochs). See `get_schedule`.

    Raises:
        TypeError, ValueError: for an unusable schedule; when training begins, for a model that is not an
            ErrorSilencedModel or has no low-bit weights.
    """

    def __init__(self, schedule: Any = "uniform") -> None:
        super().__init__()
        self.schedule = get_schedule(schedule)

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that the model is one whose steps draw partitions."""
        if not isinstance(self.model, ErrorSilencedModel):
            raise TypeError(
                "Expected QuantizationRatio in the fit of an ErrorSilencedModel, whose training step draws the filters "
                f"to quantize. Received {type(self.model).__name__}. Wrap the model: "
                "esq.ErrorSilencedModel(model, objective='natural')."
            )
        if not low_bit_weights(self.model):
            raise ValueError(
                f"Expected a low-bit model. Received {self.model.network.name!r}, which has only float weights. Make "
                "it one with esq.quantize_model(model, weights='ternary'), or drop QuantizationRatio."
            )
        epochs = self.params["epochs"]
        last = check_ratio(self.schedule(epochs - 1, epochs))
        if last < 1.0:
            warnings.warn(
                f"The schedule ends at a ratio of {last:g} in epoch {epochs - 1}, so the fully quantized network is "
                "never trained. Let it reach 1.0, or train on from here.",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the ratio of this epoch."""
        set_ratio(self.model, self.schedule(epoch, self.params["epochs"]))

    def on_train_end(self, logs: Any = None) -> None:
        """All filters quantized from here on."""
        set_ratio(self.model, 1.0)
