"""Parts and checks that the reference networks share."""

from __future__ import annotations

from typing import Any

from keras_esq._checks import check_count
from keras_esq._keras import keras

layers = keras.layers

ImageShape = tuple[int, int, int]

# He et al. 2015 (arXiv 1502.01852), which the residual networks' papers use: deep nets of ReLUs start well with it.
_INITIALIZER = "he_normal"


def check_network_arguments(input_shape: Any, classes: Any, width: Any = 1) -> ImageShape:
    """Return `input_shape` as a tuple (height, width, channels) after checking what all networks are given.

    Raises:
        TypeError: for something other than whole numbers.
        ValueError: for a shape that is not (height, width, channels), or a number below 1.
    """
    if not isinstance(input_shape, tuple | list):
        raise TypeError(f"Expected input_shape to be (height, width, channels). Received: {input_shape!r}.")
    if len(input_shape) != 3:
        raise ValueError(
            f"Expected input_shape to be (height, width, channels), such as (32, 32, 3). Received: {input_shape!r}. "
            "Leave the batch axis out; grey images have one channel."
        )
    height, columns, channels = (check_count("each entry of input_shape", size) for size in input_shape)
    check_count("classes", classes)
    check_count("width", width)
    return height, columns, channels


def image_input(shape: ImageShape) -> Any:
    """The input of a network, called "image"."""
    return keras.Input(shape, name="image")


def conv(x: Any, channels: int, size: int, strides: int, name: str) -> Any:
    """A convolution that keeps the size (but for `strides`), without bias: BatchNormalization has one."""
    return layers.Conv2D(
        channels, size, strides, padding="same", use_bias=False, kernel_initializer=_INITIALIZER, name=f"{name}_conv"
    )(x)


def batch_norm(x: Any, name: str) -> Any:
    """BatchNormalization whose statistics (momentum 0.9) follow within the few hundred steps of a small data set."""
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)


def conv_bn(x: Any, channels: int, size: int, strides: int, name: str) -> Any:
    """Convolution, BatchNormalization."""
    return batch_norm(conv(x, channels, size, strides, name), name)


def conv_bn_relu(x: Any, channels: int, size: int, strides: int, name: str) -> Any:
    """Convolution, BatchNormalization, ReLU."""
    return layers.ReLU(name=f"{name}_relu")(conv_bn(x, channels, size, strides, name))


def classifier(inputs: Any, x: Any, classes: int, name: str) -> Any:
    """The model that ends in global average pooling and one Dense layer "logits"."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)
