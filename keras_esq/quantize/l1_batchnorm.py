"""BatchNormalization by mean absolute deviations, which need no squares."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.quantize.graph import check_network, clone_layer, freeze_alike, rebuild

# Of a normal distribution, the standard deviation in units of the mean absolute one.
NORMAL_RATIO = math.sqrt(math.pi / 2)


def l1_moments(x: Any, axes: list[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and sqrt(pi/2) * mean |x - mean| over `axes`, which are kept with length 1.

    For normally distributed x the second is the standard deviation.

    Args:
        x: floating tensor.
        axes: what to reduce.
    """
    mean = tf.reduce_mean(x, axes, keepdims=True)
    return mean, NORMAL_RATIO * tf.reduce_mean(tf.abs(x - mean), axes, keepdims=True)


@keras.saving.register_keras_serializable(package="keras_esq")
class L1BatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization that divides by sqrt(pi/2) * mean |x - mean| in place of the standard deviation.

        y = gamma * (x - mean) / sqrt(deviation^2 + epsilon) + beta

    with mean and deviation of the batch in training. In inference it is Keras' own BatchNormalization: the moving
    average of the deviation is kept as its square in `moving_variance`, so that whatever folds or converts a
    BatchNormalization does so with this one, and `esq.strip` returns it as one. `keras_esq.quantize.with_l1_batchnorm`
    puts it in place of Keras' own in a network that is there already.

    Args:
        axis, momentum, epsilon, center, scale and so on: as of Keras' layer.

    Raises:
        ValueError: for synchronized=True or a virtual_batch_size, which it does not know; for a mask in training.

    Reference: Wu et al., "L1-Norm Batch Normalization for Efficient Training of Deep Neural Networks", 2018
    (arXiv 1802.09769). There epsilon is added to the deviation; here it is where Keras has it.
    """

    def __init__(self, axis: Any = -1, **kwargs: Any) -> None:
        for name in ("synchronized", "virtual_batch_size"):
            if kwargs.get(name):
                raise ValueError(
                    f"Expected L1BatchNormalization without {name}. Received {name}={kwargs[name]!r}. Drop it, or use "
                    "keras.layers.BatchNormalization."
                )
        super().__init__(axis=axis, **kwargs)

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> tf.Tensor:
        """The normalized inputs; in training mode the moving statistics follow."""
        if training is None:
            training = keras.backend.learning_phase()
        if not self.trainable:  # as in Keras: a frozen layer is in inference mode
            training = False
        if not tf.is_tensor(training):
            return self._normalize_batch(inputs, mask) if training else super().call(inputs, training=False)
        inference = super().call
        return tf.cond(
            tf.cast(training, tf.bool),
            lambda: self._normalize_batch(inputs, mask),
            lambda: inference(inputs, training=False),
        )

    def _normalize_batch(self, inputs: Any, mask: Any) -> tf.Tensor:
        if mask is not None:
            raise ValueError("Expected no mask: L1BatchNormalization normalizes over whole batches. Received one.")
        # Half-precision sums over a batch overflow; the statistics are float32, as in Keras.
        x = tf.cast(inputs, tf.float32) if inputs.dtype.size < 4 else inputs
        rank = x.shape.rank
        kept = {axis % rank for axis in self.axis}
        mean, deviation = l1_moments(x, [axis for axis in range(rank) if axis not in kept])
        self._follow(mean, deviation)
        y = (x - mean) * tf.math.rsqrt(tf.square(deviation) + self.epsilon)
        for variable, combine in ((self.gamma, tf.multiply), (self.beta, tf.add)):
            if variable is not None:
                y = combine(y, tf.reshape(variable, tf.shape(mean)))
        return tf.cast(y, inputs.dtype)

    def _follow(self, mean: tf.Tensor, deviation: tf.Tensor) -> None:
        rate = 1.0 - self.momentum
        old = tf.convert_to_tensor(self.moving_variance)
        moved = tf.sqrt(old) * self.momentum + rate * tf.reshape(tf.stop_gradient(deviation), old.shape)
        self.moving_variance.assign(tf.square(moved))
        self.moving_mean.assign_sub(rate * (self.moving_mean - tf.reshape(tf.stop_gradient(mean), old.shape)))

    def get_prunable_weights(self) -> list[Any]:
        """None: for `tfmot.sparsity.keras.prune_low_magnitude`, which asks layers that it does not know."""
        return []

    def as_batch_normalization(self, **settings: Any) -> Any:
        """Keras' own layer with these settings, but for those given, and without weights; those are the same."""
        return keras.layers.BatchNormalization.from_config({**self.get_config(), **settings})


def with_l1_batchnorm(model: Any) -> Any:
    """A flat copy of a float model with L1BatchNormalization in place of each BatchNormalization.

    Weights and statistics are kept, and so are the outputs in inference.

    Args:
        model: a built Sequential or functional model of tf-keras, or an ErrorSilencedModel around one; not changed.

    Raises:
        TypeError, ValueError: as `quantize_model` does, for models whose layers can't be read off.
    """
    network = check_network(model, "rebuild")
    pairs: list[tuple[Any, Any]] = []

    def make(layer: Any, name: str) -> Any:
        plain = isinstance(layer, keras.layers.BatchNormalization) and not isinstance(layer, L1BatchNormalization)
        kind = L1BatchNormalization.from_config({**layer.get_config(), "name": name}) if plain else None
        pairs.append((layer, kind or clone_layer(layer, name)))
        return pairs[-1][1]

    copy = rebuild(network, make)
    for old, new in pairs:
        freeze_alike(old, new)
        new.set_weights(old.get_weights())
    return copy
