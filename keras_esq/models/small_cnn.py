"""A small convolutional network for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_esq._checks import check_count
from keras_esq._keras import keras
from keras_esq.models.blocks import ImageShape, check_network_arguments, image_input

layers = keras.layers


def small_cnn(
    input_shape: ImageShape = (8, 8, 1),
    classes: int = 10,
    width: int = 16,
    strides: Sequence[int] = (1, 2, 2),
    hidden: int = 0,
) -> Any:
    """Three 3x3 convolutions with BatchNormalization and ReLU, global average pooling, one Dense layer of logits.

    The statistics' momentum of 0.9 lets them follow within the few hundred steps that a small data set gives. The
    second and third convolution double the width.

    Args:
        input_shape: (height, width, channels) of the images.
        classes: number of classes.
        width: channels of the first convolution. The default has 24k weights at 1 input channel.
        strides: of each convolution. Default (1, 2, 2), for images as small as the digits. (2, 2, 2) costs a quarter of
            the multiplications at the same width, so a network of twice the width, and four times the weights, costs
            the same.
        hidden: units of a Dense layer, with BatchNormalization and ReLU, over the flattened features in place of the
            pooling. Default 0, none. It is where weights cost the fewest multiplications, one each, so capacity for
            low-bit networks is cheapest there: 256 at width 32 and strides (2, 2, 2), on 28x28 images, are 6.6 times
            the weights at 1.25 times the multiplications.

    Returns:
        A functional tf_keras.Model, not compiled; its output is logits of shape (n, classes).

    Raises:
        TypeError: for an argument that is not a whole number, or strides that are no list or tuple.
        ValueError: for a number below 1 (hidden: below 0), a shape that is not one of images, or other than three
            strides.
    """
    input_shape = check_network_arguments(input_shape, classes, width)
    if not isinstance(strides, list | tuple):
        raise TypeError(f"Expected strides to be a list or tuple of three whole numbers. Received: {strides!r}.")
    if len(strides) != 3:
        raise ValueError(f"Expected strides of the three convolutions, such as (1, 2, 2). Received: {strides!r}.")
    strides = [check_count("each of strides", one) for one in strides]
    hidden = check_count("hidden", hidden, minimum=0)
    inputs = image_input(input_shape)
    x = inputs
    for number, stride in enumerate(strides, start=1):
        channels = width * 2 ** (number - 1)
        x = layers.Conv2D(channels, 3, stride, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"bn{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
    if hidden:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(hidden, use_bias=False, name="hidden")(x)
        x = layers.BatchNormalization(momentum=0.9, name="bn_hidden")(x)
        x = layers.ReLU(name="relu_hidden")(x)
    else:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="small_cnn")
