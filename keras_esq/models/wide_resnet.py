"""Wide residual networks."""

from __future__ import annotations

from typing import Any

from keras_esq._checks import check_count
from keras_esq._keras import keras
from keras_esq.models.blocks import (
    ImageShape,
    batch_norm,
    check_network_arguments,
    classifier,
    conv,
    image_input,
)

layers = keras.layers

_STEM_CHANNELS = 16


def wide_resnet(depth: int = 28, width: int = 10, input_shape: ImageShape = (32, 32, 3), classes: int = 10) -> Any:
    """WRN-depth-width of Zagoruyko and Komodakis 2016: pre-activation residual modules, `width` times the channels.

    A 3x3 convolution with 16 channels, then three stages of (depth - 4) / 6 modules with 16, 32 and 64 times `width`
    channels; the second and the third stage halve the resolution. A module is twice BatchNormalization, ReLU, 3x3
    convolution. Where the number of channels or the resolution changes, the shortcut is a 1x1 convolution of the
    module's first ReLU. The modules' outputs are the layers "stage1_block1_out" and so on. Without the paper's
    optional dropout.

    Args:
        depth: 6n + 4; the paper has 16, 22, 28 and 40. The default is [ESQ]'s for CIFAR-10.
        width: factor of the channels, the paper's k. WRN-28-10 has 36.5 million weights, WRN-16-4 2.8 million.
        input_shape: (height, width, channels) of the images.
        classes: number of classes.

    Returns:
        A functional tf_keras.Model, not compiled; its output is logits of shape (n, classes).

    Raises:
        TypeError: for an argument that is not a whole number.
        ValueError: for a depth that is not 6n + 4, a number below 1, or a shape that is not one of images.

    Reference: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146.
    """
    input_shape = check_network_arguments(input_shape, classes, width)
    modules, rest = divmod(check_count("depth", depth) - 4, 6)
    if rest or modules < 1:
        raise ValueError(f"Expected a depth of 6n + 4, such as 10, 16, 22, 28 or 40. Received {depth}.")
    inputs = image_input(input_shape)
    x = conv(inputs, _STEM_CHANNELS, 3, 1, "stem")
    for stage in range(3):
        for module in range(modules):
            strides = 2 if stage and not module else 1
            x = _module(x, _STEM_CHANNELS * width * 2**stage, strides, f"stage{stage + 1}_block{module + 1}")
    x = layers.ReLU(name="head_relu")(batch_norm(x, "head"))
    return classifier(inputs, x, classes, f"wrn{depth}-{width}")


def _module(x: Any, channels: int, strides: int, name: str) -> Any:
    y = layers.ReLU(name=f"{name}_1_relu")(batch_norm(x, f"{name}_1"))
    changes = strides != 1 or x.shape[-1] != channels
    shortcut = conv(y, channels, 1, strides, f"{name}_shortcut") if changes else x
    y = conv(y, channels, 3, strides, f"{name}_1")
    y = layers.ReLU(name=f"{name}_2_relu")(batch_norm(y, f"{name}_2"))
    y = conv(y, channels, 3, 1, f"{name}_2")
    return layers.Add(name=f"{name}_out")([y, shortcut])
