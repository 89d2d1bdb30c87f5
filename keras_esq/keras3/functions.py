"""What Keras 3 has and tf-keras has not: activation functions and layers, for tf-keras, with Keras 3's formulas."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_esq._keras import keras

_register = keras.saving.register_keras_serializable(package="keras_esq")


@_register
def hard_sigmoid(x: Any) -> Any:
    """relu6(x + 3) / 6. tf-keras' own is another function: clip(0.2 x + 0.5, 0, 1)."""
    return tf.nn.relu6(x + 3.0) / 6.0


@_register
def hard_silu(x: Any) -> Any:
    """x * relu6(x + 3) / 6."""
    return x * hard_sigmoid(x)


@_register
def hard_tanh(x: Any) -> Any:
    """clip(x, -1, 1)."""
    return tf.clip_by_value(x, -1.0, 1.0)


@_register
def log_sigmoid(x: Any) -> Any:
    """log(1 / (1 + exp(-x)))."""
    return tf.math.log_sigmoid(x)


@_register
def celu(x: Any) -> Any:
    """max(0, x) + min(0, exp(x) - 1)."""
    return tf.maximum(x, 0.0) + tf.math.expm1(tf.minimum(x, 0.0))


@_register
def squareplus(x: Any) -> Any:
    """(x + sqrt(x^2 + 4)) / 2."""
    return 0.5 * (x + tf.sqrt(tf.square(x) + 4.0))


@_register
def tanh_shrink(x: Any) -> Any:
    """x - tanh(x)."""
    return x - tf.tanh(x)


@_register
def soft_shrink(x: Any) -> Any:
    """sign(x) * max(|x| - 0.5, 0)."""
    return tf.sign(x) * tf.nn.relu(tf.abs(x) - 0.5)


@_register
def hard_shrink(x: Any) -> Any:
    """x where |x| > 0.5, else 0."""
    return tf.where(tf.abs(x) > 0.5, x, tf.zeros_like(x))


@_register
class LayerScale(keras.layers.Layer):
    """Scales each channel by a trained weight, as in ConvNeXt.

    Args:
        init_values: what the weights start at.
        projection_dim: number of channels.
    """

    def __init__(self, init_values: float, projection_dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.init_values = init_values
        self.projection_dim = projection_dim

    def build(self, _: Any) -> None:
        """Make the weights."""
        initializer = keras.initializers.Constant(self.init_values)
        self.gamma = self.add_weight(name="gamma", shape=(self.projection_dim,), initializer=initializer)
        self.built = True

    def call(self, x: Any) -> Any:
        """x * gamma."""
        return x * self.gamma

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "init_values": self.init_values, "projection_dim": self.projection_dim}


@_register
class Einsum(keras.layers.Layer):
    """Sums of products by Einstein's notation. As a call of tf.einsum, tf-keras saves it without its inputs.

    Args:
        subscripts: such as "bhwc,cd->bhwd".
        constants: for each operand None, where it is an input, or its values as lists. None if all are inputs.
    """

    def __init__(self, subscripts: str, constants: list[Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.subscripts = subscripts
        self.constants = constants

    def call(self, inputs: Any) -> Any:
        """The sums of a tensor or a list of tensors."""
        tensors = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        return tf.einsum(self.subscripts, *with_constants(tensors, self.constants, tf.convert_to_tensor))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "subscripts": self.subscripts, "constants": self.constants}


def with_constants(tensors: list[Any], constants: list[Any] | None, tensor: Any) -> list[Any]:
    """The operands of an Einsum: its inputs, and between them its constants, made by `tensor(values, dtype)`."""
    left = iter(tensors)
    dtype = tensors[0].dtype
    return [next(left) if value is None else tensor(value, dtype) for value in constants or [None] * len(tensors)]
