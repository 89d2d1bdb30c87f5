"""VGG-9, the plain network of the stochastic quantization papers."""

from __future__ import annotations

from typing import Any

from keras_esq._keras import keras
from keras_esq.models.blocks import ImageShape, batch_norm, check_network_arguments, conv_bn_relu, image_input

layers = keras.layers

_STAGES = 3
_SMALLEST = 2**_STAGES  # each stage ends in a pooling that halves the resolution


def vgg9(input_shape: ImageShape = (32, 32, 3), classes: int = 10, width: int = 64, dropout: bool = True) -> Any:
    """VGG-9 of [SQ]: 2 x 64C3, MP2, 2 x 128C3, MP2, 2 x 256C3, MP2, 2 x 512FC, logits.

    Every layer but the last is followed by BatchNormalization and ReLU and has no bias.

    Args:
        input_shape: (height, width, channels) of the images; height and width at least 8.
        classes: number of classes.
        width: channels of the first convolution; the Dense layers have eight times as many. [SQ] has 64, which makes
            3.5 million weights, most of them in the first Dense layer.
        dropout: drop a quarter after each pooling and half after each Dense layer, as [SQ] does. It acts in training
            only.

    Returns:
        A functional tf_keras.Model, not compiled; its output is logits of shape (n, classes).

    Raises:
        TypeError: for an argument of a wrong type.
        ValueError: for a number below 1, or a shape that is not one of images of at least 8x8.

    Reference: [SQ] Dong et al., "Stochastic Quantization for Learning Accurate Low-bit Deep Neural Networks".
    """
    input_shape = check_network_arguments(input_shape, classes, width)
    if not isinstance(dropout, bool):
        raise TypeError(f"Expected dropout to be True or False. Received: {dropout!r}.")
    if min(input_shape[:2]) < _SMALLEST:
        raise ValueError(
            f"Expected images of at least {_SMALLEST}x{_SMALLEST}, as vgg9 halves them {_STAGES} times. Received "
            f"input_shape {input_shape}. Use esq.models.small_cnn, or larger images."
        )
    inputs = x = image_input(input_shape)
    for stage in range(_STAGES):
        for number in (2 * stage + 1, 2 * stage + 2):
            x = conv_bn_relu(x, width * 2**stage, 3, 1, f"block{number}")
        x = layers.MaxPooling2D(name=f"pool{stage + 1}")(x)
        x = layers.Dropout(0.25, name=f"pool{stage + 1}_dropout")(x) if dropout else x
    x = layers.Flatten(name="flatten")(x)
    for number in (7, 8):
        x = layers.Dense(8 * width, use_bias=False, name=f"block{number}_dense")(x)
        x = layers.ReLU(name=f"block{number}_relu")(batch_norm(x, f"block{number}"))
        x = layers.Dropout(0.5, name=f"block{number}_dropout")(x) if dropout else x
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="vgg9")
