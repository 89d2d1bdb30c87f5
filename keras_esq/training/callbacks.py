"""Callbacks for the fit loop."""

from __future__ import annotations

import warnings
from typing import Any

import tensorflow as tf

from keras_esq._checks import check_count, check_positive
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


class WarmUp(keras.callbacks.Callback):
    """Lets the regularizer grow linearly over the first epochs: the pairing, or the divergence of TRADES and the like.

    In epoch e, counted from 0, its weight is multiplied by min(1, (e + 1) / (epochs + 1)), which is less than 1 in
    `epochs` of them. It follows from the epoch alone: a training that is continued (`initial_epoch`) is the same.
    Nothing is traced anew.

        eps = tf.Variable(8 / 255)
        model = esq.ErrorSilencedModel(low_bit, attack=esq.attacks.PGD(eps=eps))
        model.fit(..., callbacks=[esq.training.WarmUp(5, eps=8 / 255)])

    Args:
        epochs: how many epochs of warm-up.
        regularizer: whether the regularizer grows. Default True.
        eps: radius of the training attack after the warm-up, which grows in the same way. The attack's `eps` must be a
            tf.Variable. Default None: the attack stays what it is.

    Raises:
        TypeError, ValueError: for settings out of range; when training begins, for a model that is not an
            ErrorSilencedModel, an objective without a regularizer, or an attack whose eps is no variable.
    """

    def __init__(self, epochs: int, *, regularizer: bool = True, eps: float | None = None) -> None:
        super().__init__()
        self.epochs = check_count("epochs", epochs)
        self.regularizer = bool(regularizer)
        self.eps = None if eps is None else check_positive("eps", eps)
        if eps is None and not regularizer:
            raise ValueError("Expected regularizer=True, an eps, or both. Received neither: nothing would grow.")

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that there is what is to grow."""
        if not isinstance(self.model, ErrorSilencedModel):
            raise TypeError(
                f"Expected WarmUp in the fit of an ErrorSilencedModel. Received {type(self.model).__name__}. Wrap the "
                "model: esq.ErrorSilencedModel(model)."
            )
        if self.regularizer and not self.model.regularizes:
            raise ValueError(
                f"Expected an objective with a regularizer, such as 'pairing' or 'trades'. Received "
                f"{self.model.objective!r}, which has none. Use WarmUp(epochs, regularizer=False, eps=...), or none."
            )
        if self.eps is not None and not isinstance(getattr(self.model.attack, "eps", None), tf.Variable):
            raise ValueError(
                "Expected a training attack whose eps is a tf.Variable, which can grow. Received "
                f"{self.model.attack!r}. Make it with eps=tf.Variable({self.eps:g})."
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the weight of this epoch."""
        self._set(min(1.0, (epoch + 1) / (self.epochs + 1)))

    def on_train_end(self, logs: Any = None) -> None:
        """All at its full weight."""
        self._set(1.0)

    def _set(self, factor: float) -> None:
        if self.regularizer:
            self.model.regularizer_factor.assign(factor)
        if self.eps is not None:
            self.model.attack.eps.assign(factor * self.eps)
