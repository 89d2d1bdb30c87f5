"""A copy of the network that computes in a narrower type, against which attacks are made sooner."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_esq._checks import near_matches
from keras_esq._keras import keras
from keras_esq.quantize import low_bit_weights
from keras_esq.quantize.graph import check_network, clone_layer
from keras_esq.quantize.partition import held_weight
from keras_esq.quantize.strip import plain_copy

# Not float16: gradients of confident images are 0 in it, and a step along a sign of 0 goes nowhere.
ATTACK_DTYPES = ("bfloat16",)


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


class AttackTwin:
    """The network without wrappers and quantizers, in mixed precision; its weights are those of the network.

    Activation quantizers are left out, and BatchNormalization is the multiplication that it is in inference.

    Args:
        network: a built Sequential or functional network, low-bit or float.
        dtype: of its computations: "bfloat16".

    Raises:
        ValueError: for another type, a network that can't be copied, or under several replicas.
    """

    def __init__(self, network: Any, dtype: str) -> None:
        if dtype not in ATTACK_DTYPES:
            raise ValueError(
                f"Expected attack_dtype out of {list(ATTACK_DTYPES)}, or None for the network's own. Received: "
                f"{dtype!r}. {near_matches(str(dtype), ATTACK_DTYPES)}"
            )
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError(
                f"Expected attack_dtype=None under a strategy of several replicas. Received: {dtype!r}. The copy of "
                "the network, which it needs, can't be renewed in each of them."
            )
        policy = keras.mixed_precision.Policy(f"mixed_{dtype}")

        def make_layer(layer: Any, name: str) -> Any:
            if isinstance(layer, keras.layers.BatchNormalization) and len(layer.axis) == 1:
                return _Affine(layer.axis[0], name=name, dtype=policy)
            return clone_layer(layer, name, dtype=policy)

        try:
            self.model, self._pairs = plain_copy(check_network(network, f"attack in {dtype}"), make_layer)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Expected a network that can be copied in {dtype} for attack_dtype={dtype!r}. {error} Or drop "
                "attack_dtype."
            ) from error
        self._weights = low_bit_weights(network)

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
            for variable, copy in zip(old.weights, new.weights, strict=True):
                copy.assign(quantized.get(id(variable), variable))
        return self.model
