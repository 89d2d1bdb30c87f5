"""Networks by name, for command lines and configuration files."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from keras_esq._checks import near_matches
from keras_esq.models.blocks import ImageShape
from keras_esq.models.ds_cnn import ds_cnn
from keras_esq.models.resnet import resnet152_cifar, resnet_cifar
from keras_esq.models.small_cnn import small_cnn
from keras_esq.models.vgg9 import vgg9
from keras_esq.models.wide_resnet import wide_resnet

_PLAIN: dict[str, Callable[..., Any]] = {
    "small_cnn": small_cnn,
    "ds_cnn": ds_cnn,
    "vgg9": vgg9,
    "resnet152": resnet152_cifar,
}
_PATTERNS: dict[str, Callable[..., Any]] = {
    r"resnet-?(\d+)": resnet_cifar,
    r"wrn-?(\d+)-(\d+)": wide_resnet,
}
NAMES = (*_PLAIN, "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "wrn16-4", "wrn28-10")


def build(name: str, input_shape: ImageShape, classes: int, **options: Any) -> Any:
    """The reference network called `name`, for images of `input_shape`.

    Args:
        name: "small_cnn", "ds_cnn", "vgg9", "resnet20" (any depth that `resnet_cifar` takes, 152 for
            `resnet152_cifar`) or "wrn28-10" (any depth and width that `wide_resnet` takes).
        input_shape: (height, width, channels) of the images.
        classes: number of classes.
        options: further arguments of the network's function, such as width.

    Returns:
        A functional tf_keras.Model, not compiled; its output is logits of shape (n, classes).

    Raises:
        TypeError: if `name` is no text, for an argument that is not a whole number, or for an unknown option.
        ValueError: for an unknown name, with the near ones, and as the network's own function does.
    """
    if not isinstance(name, str):
        raise TypeError(f"Expected the name of a network, such as 'wrn28-10'. Received: {name!r}.")
    function = _builder(name)
    known = [one for one in inspect.signature(function).parameters if one not in ("input_shape", "classes")]
    for option in options:
        if option not in known:
            raise TypeError(f"Expected options of {name!r}. Received {option!r}. {near_matches(option, known)}")
    return function(input_shape=input_shape, classes=classes, **options)


def _builder(name: str) -> Callable[..., Any]:
    if name in _PLAIN:
        return _PLAIN[name]
    for pattern, function in _PATTERNS.items():
        if match := re.fullmatch(pattern, name):
            return partial(function, *map(int, match.groups()))
    raise ValueError(f"Expected the name of a network. Received {name!r}. {near_matches(name, NAMES)}")
