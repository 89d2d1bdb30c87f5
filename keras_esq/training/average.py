"""Averages of the weights over a training, and the BatchNormalization statistics that fit them."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._checks import check_count, check_images
from keras_esq._keras import keras
from keras_esq.attacks.logits import check_model, input_shape_of
from keras_esq.quantize import frozen_weights
from keras_esq.quantize.graph import unwrap

# Of the attacks: the same at each call, so that epochs can be compared.
_SEED = 0


def reestimate_batchnorm(model: Any, x: Any, batch_size: int = 128, *, y: Any = None) -> None:
    """Set the moving mean and variance of each BatchNormalization to their mean over the batches of `x`.

    For weights that did not come from training steps, such as averages. The network runs in training mode with every
    filter quantized; nothing but these statistics is changed. Layers that are frozen (trainable=False) keep theirs.

    Args:
        model: a tf-keras model, low-bit or float, or an ErrorSilencedModel.
        x: images (n, ...) of the training data.
        batch_size: that of the training. A last batch that is smaller counts less.
        y: their labels, for a compiled ErrorSilencedModel: its attack and objective then pass on what they do in a
            training step, x_adv or x and x_adv, whose statistics are those that it was trained with. Those of
            clean images do not fit a network that was trained on x_adv. Default None: `x` as it is.

    Raises:
        TypeError: for anything but a tf-keras model and images; for `y` with another model than ErrorSilencedModel.
        ValueError: for images or labels of a wrong shape or number, NaN or none; for `y` before `compile`.
    """
    network = unwrap(check_model(model))
    images = check_images(x, None, input_shape_of(network))
    labels = _check_labels(model, network, y, len(images))
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

    spec = [
        tf.TensorSpec((None, *images.shape[1:]), tf.float32),
        tf.TensorSpec((None, *labels.shape[1:]), labels.dtype),
    ]

    @tf.function(input_signature=[*spec, tf.TensorSpec((2,), tf.int32)])
    def run(batch: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> None:
        if y is not None:
            model.passes_of_step(batch, labels, seed)
            return
        with frozen_weights(network):
            network(batch, training=True)

    sums = [np.zeros(variable.shape, np.float64) for variable in statistics]
    try:
        for layer in layers:
            _leave_means(layer)
        for start in range(0, len(images), batch_size):
            batch, its_labels = (part[start : start + batch_size] for part in (images, labels))
            run(tf.constant(batch), tf.constant(its_labels), tf.constant([_SEED, start]))
            for total, variable in zip(sums, statistics, strict=True):
                total += len(batch) * variable.numpy().astype(np.float64)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            vars(layer).pop("call", None)
        for weight, value in before:  # activation quantizers move in training mode too
            weight.assign(value)
    for variable, total in zip(statistics, sums, strict=True):
        variable.assign(total / len(images))


def _leave_means(layer: Any) -> None:
    """Make a pass, traced from now on, leave the statistics of its batch alone in a BatchNormalization.

    Those of a layer that is used several times are the mean over its calls, as in a training: that is what a momentum
    of i / (i + 1) in call i, counted from 0, makes of them.
    """
    call, calls = layer.call, itertools.count()
    signature = inspect.signature(call)
    layer.momentum = 0.0

    @tf.autograph.experimental.do_not_convert
    def counted(*args: Any, **kwargs: Any) -> Any:
        training = signature.bind(*args, **kwargs).arguments.get("training")
        if not tf.is_tensor(training) and training:  # the passes of an attack move nothing
            done = next(calls)
            layer.momentum = done / (done + 1)
        return call(*args, **kwargs)

    vars(layer)["call"] = counted  # past Keras' tracking


def _check_labels(model: Any, network: Any, y: Any, n: int) -> np.ndarray:
    """The labels (n, ...) to pass on; of none, zeros that nobody reads."""
    if y is None:
        return np.zeros(n, np.int32)
    if model is network:
        raise TypeError(
            f"Expected y only with an ErrorSilencedModel, which attacks as it was trained. Received labels with "
            f"{type(model).__name__}. Leave y out, or pass attacked images as x."
        )
    if model.compiled_loss is None:
        raise ValueError(
            "Expected a compiled ErrorSilencedModel with y. Received one without a loss. Call compile first."
        )
    labels = np.asarray(y)
    if len(labels) != n:
        raise ValueError(f"Expected one label per image, {n} in all. Received {len(labels)} labels in y.")
    return labels


class WeightAverage(keras.callbacks.Callback):
    """Validates on, and ends with, the exponential moving average of the weights, with statistics that fit it.

        model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.999), ...)
        model.fit(x, y, validation_data=..., callbacks=[esq.training.WeightAverage(x[:1000], y[:1000])])

    The average is the optimizer's own, of the latent weights of a low-bit network; quantized is what it ends with. As
    part of the optimizer it is in every checkpoint, so that a training that was killed goes on to the same average.
    Training steps, and callbacks at the end of an epoch such as ModelCheckpoint, see the weights themselves.

    Args:
        x, y: images (n, ...) and their labels for `reestimate_batchnorm`, before each validation and at the end.
            Default: none, the statistics stay those of the training steps. Without labels they are those of clean
            images, which do not fit a network that is trained on adversarial ones.
        batch_size: for them. Default 128.

    Raises:
        ValueError: when training begins, for an optimizer without use_ema=True, or with ema_overwrite_frequency.
    """

    def __init__(self, x: Any = None, y: Any = None, *, batch_size: int = 128) -> None:
        super().__init__()
        self.x, self.y = None if x is None else check_images(x, None), y
        self.batch_size = check_count("batch_size", batch_size)
        self._training = False
        self._weights: list[Any] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that the optimizer keeps an average."""
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)  # of a LossScaleOptimizer
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
            reestimate_batchnorm(self.model, self.x, self.batch_size, y=self.y)
