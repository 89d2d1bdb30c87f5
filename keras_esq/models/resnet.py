"""Residual networks for small images."""

from __future__ import annotations

from typing import Any

from keras_esq._checks import check_count
from keras_esq._keras import keras
from keras_esq.models.blocks import (
    ImageShape,
    check_network_arguments,
    classifier,
    conv_bn,
    conv_bn_relu,
    image_input,
)

layers = keras.layers

# Channels of a bottleneck module's output, as a multiple of those of its 3x3 convolution.
_EXPANSION = 4


def resnet_cifar(depth: int = 20, input_shape: ImageShape = (32, 32, 3), classes: int = 10, width: int = 16) -> Any:
    """The CIFAR ResNet of He et al. 2015 (section 4.2), with projections in the shortcuts.

    One 3x3 convolution, then three stages of (depth - 2) / 6 residual modules of two 3x3 convolutions; each stage but
    the first halves the resolution and doubles the width. The modules' outputs are the layers "stage1_block1_out" and
    so on. The paper's shortcuts pad with zeros; a 1x1 convolution converts to every target.

    Args:
        depth: 6n + 2; the paper has 20, 32, 44, 56 and 110. 20 trains fastest.
        input_shape: (height, width, channels) of the images.
        classes: number of classes.
        width: channels of the first stage; the paper has 16.

    Returns:
        A functional tf_keras.Model, not compiled; its output is logits of shape (n, classes).

    Raises:
        TypeError: for an argument that is not a whole number.
        ValueError: for a depth that is not 6n + 2, a number below 1, or a shape that is not one of images.

    Reference: He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385.
    """
    input_shape = check_network_arguments(input_shape, classes, width)
    modules, rest = divmod(check_count("depth", depth) - 2, 6)
    if rest or modules < 1:
        raise ValueError(f"Expected a depth of 6n + 2, such as 20, 32, 44, 56 or 110. Received {depth}.")
    inputs = image_input(input_shape)
    x = conv_bn_relu(inputs, width, 3, 1, "stem")
    for stage in range(3):
        for module in range(modules):
            strides = 2 if stage and not module else 1
            x = _module(x, width * 2**stage, strides, f"stage{stage + 1}_block{module + 1}")
    return classifier(inputs, x, classes, f"resnet{depth}")


def resnet152_cifar(input_shape: ImageShape = (32, 32, 3), classes: int = 100, width: int = 64) -> Any:
    """ResNet-152 of He et al. 2015 for small images, as [ESQ] uses it on CIFAR-100.

    Four stages of 3, 8, 36 and 3 bottleneck modules (1x1, 3x3 and 1x1 convolution, the last with four times the
    channels); each stage but the first halves the resolution and doubles the width. As is usual for 32x32 pixels, the
    first convolution is 3x3 with stride 1 instead of 7x7 with stride 2 and pooling; a stage's stride is in its first
    3x3 convolution, which sees every pixel, rather than in the 1x1 one. The modules' outputs are the layers
    "stage1_block1_out" and so on: the modules 4, 12 and 48 that [ESQ] pairs are "stage2_block1_out",
    "stage3_block1_out" and "stage4_block1_out".

    Args:
        input_shape: (height, width, channels) of the images.
        classes: number of classes; the default is CIFAR-100's.
        width: channels of the first stage's 3x3 convolutions; the paper has 64, which makes 58.3 million weights for
            100 classes.

    Returns:
        A functional tf_keras.Model, not compiled; its output is logits of shape (n, classes).

    Raises:
        TypeError: for an argument that is not a whole number.
        ValueError: for a number below 1, or a shape that is not one of images.

    Reference: He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385, table 1.
    """
    return bottleneck_resnet((3, 8, 36, 3), input_shape, classes, width, "resnet152")


def bottleneck_resnet(modules: tuple[int, ...], input_shape: ImageShape, classes: int, width: int, name: str) -> Any:
    """A ResNet with `modules` bottleneck modules in its stages; the rest as in `resnet152_cifar`."""
    input_shape = check_network_arguments(input_shape, classes, width)
    inputs = image_input(input_shape)
    x = conv_bn_relu(inputs, width, 3, 1, "stem")
    for stage, count in enumerate(modules):
        for module in range(count):
            strides = 2 if stage and not module else 1
            x = _bottleneck(x, width * 2**stage, strides, f"stage{stage + 1}_block{module + 1}")
    return classifier(inputs, x, classes, name)


def _module(x: Any, channels: int, strides: int, name: str) -> Any:
    shortcut = x if strides == 1 else conv_bn(x, channels, 1, strides, f"{name}_shortcut")
    y = layers.ReLU(name=f"{name}_relu")(conv_bn(x, channels, 3, strides, f"{name}_1"))
    y = layers.Add(name=f"{name}_add")([conv_bn(y, channels, 3, 1, f"{name}_2"), shortcut])
    return layers.ReLU(name=f"{name}_out")(y)


def _bottleneck(x: Any, channels: int, strides: int, name: str) -> Any:
    wide = _EXPANSION * channels
    changes = strides != 1 or x.shape[-1] != wide
    shortcut = conv_bn(x, wide, 1, strides, f"{name}_shortcut") if changes else x
    y = conv_bn_relu(x, channels, 1, 1, f"{name}_1")
    y = conv_bn_relu(y, channels, 3, strides, f"{name}_2")
    y = layers.Add(name=f"{name}_add")([conv_bn(y, wide, 1, 1, f"{name}_3"), shortcut])
    return layers.ReLU(name=f"{name}_out")(y)
