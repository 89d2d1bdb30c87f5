"""Averages of the weights over a training, and the BatchNormalization statistics that fit them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._checks import check_count, check_images
from keras_esq._keras import keras
from keras_esq.attacks.logits import check_model, input_shape_of
from keras_esq.quantize import frozen_weights
from keras_esq.quantize.graph import unwrap


def reestimate_batchnorm(model: Any, x: Any, batch_size: int = 128) -> None:
    """Set the moving mean and variance of each BatchNormalization to their mean over the batches of `x`.

    For weights that did not come from training steps, such as averages. The network runs in training mode with every
    filter quantized; nothing but these statistics is changed. Layers that are frozen (trainable=False) keep theirs.

    Args:
        model: a tf-keras model, low-bit or float, or an ErrorSilencedModel.
        x: images (n, ...) as the network is trained on: a training with x_adv normalizes over x and x_adv.
        batch_size: that of the training. A last batch that is smaller counts less.

    Raises:
        TypeError: for anything but a tf-keras model and images.
        ValueError: for images of a wrong shape, NaN or none.
    """
    network = unwrap(check_model(model))
    images = check_images(x, None, input_shape_of(network))
    check_count("batch_size", batch_size)
    layers = [
        layer
        for layer in network.submodules
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and layer.built
    ]
    if not layers:
        return
    statistics = [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]
    momenta = [layer.momentum for layer in layers]
    before = [(weight, weight.numpy()) for weight in network.weights]

    @tf.function(input_signature=[tf.TensorSpec((None, *images.shape[1:]), tf.float32)])
    def run(batch: tf.Tensor) -> None:
        with frozen_weights(network):
            network(batch, training=True)

    sums = [np.zeros(variable.shape, np.float64) for variable in statistics]
    try:
        for layer in layers:
            layer.momentum = 0.0  # so that a pass leaves the statistics of its batch alone
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            run(tf.constant(batch))
            for total, variable in zip(sums, statistics, strict=True):
                total += len(batch) * variable.numpy().astype(np.float64)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for weight, value in before:  # activation quantizers move in training mode too
            weight.assign(value)
    for variable, total in zip(statistics, sums, strict=True):
        variable.assign(total / len(images))


class WeightAverage(keras.callbacks.Callback):
    """Validates on, and ends with, the exponential moving average of the weights, with statistics that fit it.

        model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.999), ...)
        model.fit(x, y, validation_data=..., callbacks=[esq.training.WeightAverage(x[:1000])])

    The average is the optimizer's own, of the latent weights of a low-bit network; quantized is what it ends with. As
    part of the optimizer it is in every checkpoint, so that a training that was killed goes on to the same average.
    Training steps, and callbacks at the end of an epoch such as ModelCheckpoint, see the weights themselves.

    Args:
        x: images (n, ...) for `reestimate_batchnorm`, before each validation and at the end. Default: none, the
            statistics stay those of the training steps.
        batch_size: for them. Default 128.

    Raises:
        ValueError: when training begins, for an optimizer without use_ema=True, or with ema_overwrite_frequency.
    """

    def __init__(self, x: Any = None, *, batch_size: int = 128) -> None:
        super().__init__()
        self.x = None if x is None else check_images(x, None)
        self.batch_size = check_count("batch_size", batch_size)
        self._training = False
        self._weights: list[Any] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that the optimizer keeps an average."""
        optimizer = self.model.optimizer
        if not getattr(optimizer, "use_ema", False) or optimizer.ema_overwrite_frequency is not None:
            raise ValueError(
                "Expected an optimizer that keeps an average and does not train on it, such as "
                "keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.999, ema_overwrite_frequency=None). Received "
                f"{type(optimizer).__name__} with use_ema={getattr(optimizer, 'use_ema', False)} and "
                f"ema_overwrite_frequency={getattr(optimizer, 'ema_overwrite_frequency', None)}."
            )
        self._training = True

    def on_test_begin(self, logs: Any = None) -> None:
        """Put the average in place."""
        if self._training:
            self._weights = unwrap(self.model).get_weights()
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
            self._reestimate()

    def on_test_end(self, logs: Any = None) -> None:
        """Put the weights back."""
        if self._weights is not None:
            unwrap(self.model).set_weights(self._weights)
            self._weights = None

    def on_train_end(self, logs: Any = None) -> None:
        """Keras has put the average in place; now the statistics."""
        self._training = False
        self._reestimate()

    def _reestimate(self) -> None:
        if self.x is not None:
            reestimate_batchnorm(self.model, self.x, self.batch_size)
