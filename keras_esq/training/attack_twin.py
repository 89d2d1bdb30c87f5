"""A copy of the network for the training attack: in a narrower type, or with statistics of the batch."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_esq._checks import near_matches
from keras_esq._keras import keras
from keras_esq.quantize import low_bit_weights
from keras_esq.quantize.graph import check_network, clone_layer, rebuild
from keras_esq.quantize.l1_batchnorm import L1BatchNormalization, l1_moments
from keras_esq.quantize.partition import held_weight
from keras_esq.quantize.strip import plain_copy

# Not float16: the small gradients of an image's pixels are 0 in it, and a step along a sign of 0 goes nowhere.
ATTACK_DTYPES = ("bfloat16",)
STATISTICS = ("moving", "batch")


class _Affine(keras.layers.Layer):
    """What a BatchNormalization is in inference: x * scale + shift. Its own kernel is slow in bfloat16."""

    def __init__(self, axis: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._axis = axis

    def build(self, input_shape: Any) -> None:
        """One scale and shift a channel, in a shape that broadcasts."""
        shape = [1] * len(input_shape)
        shape[self._axis] = input_shape[self._axis]
        self.scale = self.add_weight(name="scale", shape=shape, trainable=False)
        self.shift = self.add_weight(name="shift", shape=shape, trainable=False)

    def call(self, inputs: Any) -> Any:
        """See above."""
        return inputs * tf.cast(self.scale, inputs.dtype) + tf.cast(self.shift, inputs.dtype)

    def renew(self, layer: Any) -> None:
        """Take over what a BatchNormalization is now."""
        scale = tf.math.rsqrt(layer.moving_variance + layer.epsilon)
        if layer.gamma is not None:
            scale *= layer.gamma
        shift = -layer.moving_mean * scale
        if layer.beta is not None:
            shift += layer.beta
        self.scale.assign(tf.reshape(scale, self.scale.shape))
        self.shift.assign(tf.reshape(shift, self.shift.shape))


class _OfBatch(keras.layers.Layer):
    """What a BatchNormalization does in training, without moving its statistics.

    Args:
        source: the layer.
    """

    def __init__(self, source: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.__dict__["_source"] = source  # past Keras' tracking: its weights are the network's

    def call(self, inputs: Any) -> Any:
        """Normalized by the batch's mean and deviation."""
        layer = self._source
        x = tf.cast(inputs, tf.float32)
        kept = {axis % x.shape.rank for axis in layer.axis}
        axes = [axis for axis in range(x.shape.rank) if axis not in kept]
        if isinstance(layer, L1BatchNormalization):
            mean, deviation = l1_moments(x, axes)
            variance = tf.square(deviation)
        else:
            mean, variance = tf.nn.moments(x, axes, keepdims=True)
        shape = [x.shape[axis] if axis in kept else 1 for axis in range(x.shape.rank)]
        beta, gamma = (None if w is None else tf.reshape(w, shape) for w in (layer.beta, layer.gamma))
        return tf.cast(tf.nn.batch_normalization(x, mean, variance, beta, gamma, layer.epsilon), inputs.dtype)


class AttackTwin:
    """The network as the training attack sees it: in inference mode, but for what is asked. Weights are the network's.

    In another type it is a copy without wrappers and quantizers, in mixed precision; activation quantizers are left
    out, and BatchNormalization is the multiplication that it is in inference. In the network's own type it shares all
    layers but BatchNormalization.

    Args:
        network: a built Sequential or functional network, low-bit or float.
        dtype: of its computations: "bfloat16", or None for the network's own.
        statistics: of BatchNormalization: "moving", as in inference, or "batch".

    Raises:
        ValueError: for other values, a network that can't be copied, or another type under several replicas.
    """

    def __init__(self, network: Any, dtype: str | None, statistics: str = "moving") -> None:
        _check_settings(dtype, statistics)
        self._pairs: list[tuple[Any, Any]] = []
        self._weights = low_bit_weights(network)
        what = "attack_statistics" if dtype is None else "attack_dtype"

        def of_batch(layer: Any) -> bool:
            batch = statistics == "batch" and layer.trainable  # a frozen layer keeps its own
            return batch and isinstance(layer, keras.layers.BatchNormalization)

        try:
            checked = check_network(network, "attack")
            if dtype is None:
                self.model = rebuild(
                    checked, lambda layer, name: _OfBatch(layer, name=name) if of_batch(layer) else layer
                )
                return
            policy = keras.mixed_precision.Policy(f"mixed_{dtype}")

            def make_layer(layer: Any, name: str) -> Any:
                if of_batch(layer):
                    return _OfBatch(layer, name=name, dtype=policy)
                if isinstance(layer, keras.layers.BatchNormalization) and len(layer.axis) == 1:
                    return _Affine(layer.axis[0], name=name, dtype=policy)
                if isinstance(layer, keras.layers.Normalization):
                    return clone_layer(layer, name)  # rounded statistics would be those of other images
                return clone_layer(layer, name, dtype=policy)

            self.model, pairs = plain_copy(checked, make_layer)
            for old, new in pairs:
                if isinstance(new, keras.layers.Normalization):  # what `adapt` found stays
                    new.set_weights(old.get_weights())
                    new.finalize_state()  # it computes with copies of it
                else:
                    self._pairs.append((old, new))
        except (TypeError, ValueError) as error:
            raise ValueError(f"Expected a network that can be copied for {what}. {error} Or drop {what}.") from error

    def renewed(self) -> Any:
        """The copy, with the network's weights of this moment, low-bit ones as they are held; graph code."""
        quantized = {}
        for weight in self._weights:
            held = held_weight(weight.partition)
            quantized[id(weight.latent)] = weight.quantized if held is None else held
        for old, new in self._pairs:
            if isinstance(new, _Affine):
                new.renew(old)
                continue
            for variable, copy in zip(old.weights, new.weights, strict=not isinstance(new, _OfBatch)):
                copy.assign(quantized.get(id(variable), variable))
        return self.model


def make_twin(network: Any, dtype: str | None, statistics: str) -> AttackTwin | None:
    """The twin that these settings ask for, None if the network itself does."""
    _check_settings(dtype, statistics)
    return None if dtype is None and statistics == "moving" else AttackTwin(network, dtype, statistics)


def _check_settings(dtype: str | None, statistics: str) -> None:
    if dtype is not None and dtype not in ATTACK_DTYPES:
        raise ValueError(
            f"Expected attack_dtype out of {list(ATTACK_DTYPES)}, or None for the network's own. Received: "
            f"{dtype!r}. {near_matches(str(dtype), ATTACK_DTYPES)}"
        )
    if statistics not in STATISTICS:
        raise ValueError(
            f"Expected attack_statistics out of {list(STATISTICS)}. Received: {statistics!r}. "
            f"{near_matches(str(statistics), STATISTICS)}"
        )
    if dtype is not None and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise ValueError(
            f"Expected attack_dtype=None under a strategy of several replicas. Received: {dtype!r}. The copy of "
            "the network, which it needs, can't be renewed in each of them."
        )
