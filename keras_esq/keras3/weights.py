"""Weights from a layer of one Keras to its counterpart of the other."""

from __future__ import annotations

import re
from typing import Any

# Names of weights that differ, brought to one.
_SAME = {"depthwise_kernel": "kernel"}
# What Keras 3 calls weights that were given no name, such as LayerScale's.
_UNNAMED = re.compile(r"variable(_\d+)?")


def weight_name(variable: Any) -> str:
    """The last part of a variable's name, of either Keras: "kernel" of "dense/kernel:0"."""
    path = getattr(variable, "path", None) or variable.name
    name = path.split("/")[-1].split(":")[0]
    return _SAME.get(name, name)


def copy_weights(source: Any, target: Any, there: str, named: bool = True) -> None:
    """Give `target` the weights of `source`, through arrays.

    Args:
        source, target: built layers.
        there: the library of `target`, for the message.
        named: whether the names must agree; those of a user's own class needn't.

    Raises:
        ValueError: if number, shapes, order or names of the weights differ.
    """
    have, want = ([(weight_name(w), tuple(w.shape)) for w in layer.weights] for layer in (source, target))
    agree = len(have) == len(want) and all(
        a_shape == b_shape and (not named or a == b or _UNNAMED.fullmatch(a) or _UNNAMED.fullmatch(b))
        for (a, a_shape), (b, b_shape) in zip(have, want, strict=False)
    )
    if not agree:
        raise ValueError(
            f"Expected the {there} counterpart of layer {source.name!r} ({type(source).__name__}) to have its weights, "
            f"{have}, in that order. Received {type(target).__name__} with {want}. Translate the layer yourself: "
            f"custom_objects={{{type(source).__name__!r}: YourCounterpart}}."
        )
    if have:
        target.set_weights(source.get_weights())
