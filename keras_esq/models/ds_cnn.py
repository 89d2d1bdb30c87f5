"""A depthwise separable network for microcontrollers."""

from __future__ import annotations

from typing import Any

from keras_esq._keras import keras
from keras_esq.models.blocks import ImageShape, check_network_arguments, classifier, conv_bn_relu, image_input

layers = keras.layers

# (channels as a multiple of the width, stride) of each separable convolution: MobileNet's rhythm, cut for small images.
_BLOCKS = ((2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1))


def ds_cnn(input_shape: ImageShape = (32, 32, 3), classes: int = 10, width: int = 32) -> Any:
    """Six separable convolutions after one plain one, in the form that quantizes well.

    Between a depthwise convolution and its pointwise one there is neither BatchNormalization nor an activation:
    a BatchNormalization there has channels whose variance is next to nothing, which it folds into a few huge weights,
    and the other channels' weights are rounded away [Sheng et al. 2018]. Activations are ReLU rather than ReLU6, as
    there. The layers are "block1_depthwise", "block1_conv", "block1_bn", "block1_relu" and so on.

    Args:
        input_shape: (height, width, channels) of the images.
        classes: number of classes.
        width: channels of the first convolution. The default has 140 thousand weights for 32x32x3 images, 35 kB at
            2 bits, and needs 6 million multiplications an image; 16 has 38 thousand.

    Returns:
        A functional tf_keras.Model, not compiled; its output is logits of shape (n, classes).

    Raises:
        TypeError: for an argument that is not a whole number.
        ValueError: for a number below 1, or a shape that is not one of images.

    References: Sheng et al., "A Quantization-Friendly Separable Convolution for MobileNets", 2018, arXiv 1803.08607.
    Howard et al., "MobileNets", 2017, arXiv 1704.04861.
    """
    input_shape = check_network_arguments(input_shape, classes, width)
    inputs = image_input(input_shape)
    x = conv_bn_relu(inputs, width, 3, 1, "stem")
    for number, (factor, strides) in enumerate(_BLOCKS, start=1):
        depthwise = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False, name=f"block{number}_depthwise")
        x = conv_bn_relu(depthwise(x), factor * width, 1, 1, f"block{number}")
    return classifier(inputs, x, classes, "ds_cnn")
