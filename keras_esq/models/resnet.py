"""Residual networks for small images."""

from __future__ import annotations

from typing import Any

from keras_esq._keras import keras

layers = keras.layers


def resnet_cifar(
    depth: int = 20, input_shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10, width: int = 16
) -> Any:
    """The CIFAR ResNet of He et al. 2015 (arXiv 1512.03385, section 4.2), with projections in the shortcuts.

    One 3x3 convolution, then three stages of (depth - 2) / 6 residual modules of two 3x3 convolutions; each stage but
    the first halves the resolution and doubles the width. The modules' outputs are the layers "stage1_block1_out" and
    so on. The paper's shortcuts pad with zeros; a 1x1 convolution converts to every target.

    Args:
        depth: 6n + 2; the paper has 20, 32, 44, 56 and 110.
        input_shape: (height, width, channels) of the images.
        classes: number of classes.
        width: channels of the first stage; the paper has 16.

    Returns:
        A functional tf_keras.Model, not compiled; its output is logits of shape (n, classes).

    Raises:
        ValueError: for a depth that is not 6n + 2.
    """
    modules, rest = divmod(depth - 2, 6)
    if rest or modules < 1:
        raise ValueError(f"Expected a depth of 6n + 2, such as 20, 32, 44, 56 or 110. Received {depth}.")
    inputs = keras.Input(input_shape, name="image")
    x = layers.ReLU(name="stem_relu")(_conv_bn(inputs, width, 3, 1, "stem"))
    for stage in range(3):
        for module in range(modules):
            strides = 2 if stage and not module else 1
            x = _module(x, width * 2**stage, strides, f"stage{stage + 1}_block{module + 1}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=f"resnet{depth}")


def _conv_bn(x: Any, channels: int, size: int, strides: int, name: str) -> Any:
    x = layers.Conv2D(channels, size, strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)


def _module(x: Any, channels: int, strides: int, name: str) -> Any:
    shortcut = x if strides == 1 else _conv_bn(x, channels, 1, strides, f"{name}_shortcut")
    y = layers.ReLU(name=f"{name}_relu")(_conv_bn(x, channels, 3, strides, f"{name}_1"))
    y = layers.Add(name=f"{name}_add")([_conv_bn(y, channels, 3, 1, f"{name}_2"), shortcut])
    return layers.ReLU(name=f"{name}_out")(y)
