"""A small convolutional network for small images."""

from __future__ import annotations

from typing import Any

from keras_esq._keras import keras
from keras_esq.models.blocks import ImageShape, check_network_arguments, image_input

layers = keras.layers


def small_cnn(input_shape: ImageShape = (8, 8, 1), classes: int = 10, width: int = 16) -> Any:
    """Three 3x3 convolutions with BatchNormalization and ReLU, global average pooling, one Dense layer of logits.

    The statistics' momentum of 0.9 lets them follow within the few hundred steps that a small data set gives. The
    second and third convolution halve the resolution and double the width.

    Args:
        input_shape: (height, width, channels) of the images.
        classes: number of classes.
        width: channels of the first convolution. The default has 24k weights at 1 input channel.

    Returns:
        A functional tf_keras.Model, not compiled; its output is logits of shape (n, classes).

    Raises:
        TypeError: for an argument that is not a whole number.
        ValueError: for a number below 1, or a shape that is not one of images.
    """
    input_shape = check_network_arguments(input_shape, classes, width)
    inputs = image_input(input_shape)
    x = inputs
    for number, (channels, strides) in enumerate([(width, 1), (2 * width, 2), (4 * width, 2)], start=1):
        x = layers.Conv2D(channels, 3, strides, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"bn{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="small_cnn")
