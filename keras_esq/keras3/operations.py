"""Keras 3 operations (`x + y`, `keras.ops.*`) by tf-keras layers.

Where tf-keras has a layer of the same meaning, it is used, with the operation's name: the rest of this package knows
these layers. Else a TensorFlow function on a Keras tensor, which tf-keras makes a layer by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.keras3 import functions
from keras_esq.keras3.detect import keras3
from keras_esq.keras3.graph import decode, map_nest

layers = keras.layers
_Make = Callable[[str], Callable[..., Any]]


def _axes(axis: Any) -> Any:
    return list(axis) if isinstance(axis, (list, tuple)) else axis


def _alike(*values: Any, at_least: Any = bool) -> list[Any]:
    """Tensors and constants in the type that Keras 3 brings them to. TensorFlow takes the first one's, or refuses."""
    known = [getattr(value, "dtype", type(value)) for value in values]
    dtype = keras3().backend.result_type(*(getattr(kind, "name", kind) for kind in known), at_least)
    return [_cast(value, dtype) for value in values]


def _cast(value: Any, dtype: str) -> Any:
    if tf.is_tensor(value):
        return value if value.dtype.name == dtype else tf.cast(value, dtype)
    if isinstance(value, np.ndarray):
        return value.astype(tf.as_dtype(dtype).as_numpy_dtype)
    return float(value) if "float" in dtype else value


def _promoted(function: Callable[[Any, Any], Any], at_least: Any = bool) -> _Make:
    return lambda name: lambda a, b: function(*_alike(a, b, at_least=at_least))


def _merge(layer: Any, function: Callable[[Any, Any], Any]) -> _Make:
    """A merging layer for two tensors of one rank and batch size; a function where one is a constant."""

    def make(name: str) -> Callable[..., Any]:
        def call(a: Any, b: Any) -> Any:
            a, b = _alike(a, b)
            tensors = tf.is_tensor(a) and tf.is_tensor(b)
            if tensors and a.shape.rank == b.shape.rank and a.shape.rank > 1 and a.shape[0] == b.shape[0]:
                return layer(name=name)([a, b])
            return function(a, b)

        return call

    return make


def _layer(make_layer: Callable[..., Any]) -> _Make:
    return lambda name: lambda x, **settings: make_layer(name=name, **settings)(x)


def _activation(function: Any) -> _Make:
    return lambda name: lambda x: layers.Activation(function, name=name)(x)


def _function(function: Callable[..., Any]) -> _Make:
    return lambda name: function


def _reduce(function: Callable[..., Any]) -> _Make:
    def call(x: Any, axis: Any = None, keepdims: bool = False, dtype: Any = None, initial: Any = None) -> Any:
        if initial is not None or dtype is not None:
            raise TypeError("`initial` and `dtype` are not supported")
        return function(x, axis=_axes(axis), keepdims=keepdims)

    return _function(call)


def _mean(name: str) -> Callable[..., Any]:
    def call(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        if x.shape.rank == 4 and sorted(np.ravel(_axes(axis) or [-9]).tolist()) in ([1, 2], [-3, -2]):
            return layers.GlobalAveragePooling2D(keepdims=keepdims, name=name)(x)
        return tf.reduce_mean(x, axis=_axes(axis), keepdims=keepdims)

    return call


def _reshape(name: str) -> Callable[..., Any]:
    def call(x: Any, newshape: Any) -> Any:
        batch, *rest = newshape
        # With -1 or the batch size in front the batch axis stays what it is only if the rest is of one size.
        if batch in (-1, None) and None not in x.shape[1:] and int(np.prod(rest)) == int(np.prod(x.shape[1:])):
            return layers.Reshape(tuple(rest), name=name)(x)
        return tf.reshape(x, [-1 if size is None else size for size in newshape])

    return call


def _transpose(name: str) -> Callable[..., Any]:
    def call(x: Any, axes: Any = None) -> Any:
        axes = [int(a) % x.shape.rank for a in axes] if axes else list(range(x.shape.rank))[::-1]
        if axes[0] == 0 and len(axes) > 1:
            return layers.Permute(axes[1:], name=name)(x)
        return tf.transpose(x, axes)

    return call


def _swap(x: Any, axis1: int, axis2: int) -> Any:
    axes = list(range(x.shape.rank))
    axes[axis1], axes[axis2] = axes[axis2], axes[axis1]
    return tf.transpose(x, axes)


def _move(x: Any, source: Any, destination: Any) -> Any:
    rank = x.shape.rank
    moved = {d % rank: s % rank for s, d in zip(np.ravel(source).tolist(), np.ravel(destination).tolist(), strict=True)}
    left = iter([axis for axis in range(rank) if axis not in moved.values()])
    return tf.transpose(x, [moved[i] if i in moved else next(left) for i in range(rank)])


def _split(x: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    if isinstance(indices_or_sections, int):
        return tf.split(x, indices_or_sections, axis=axis)
    edges = [0, *indices_or_sections, x.shape[axis]]
    return tf.split(x, [b - a for a, b in pairwise(edges)], axis=axis)


def _pool(layer: Any) -> _Make:
    def make(name: str) -> Callable[..., Any]:
        def call(x: Any, **settings: Any) -> Any:
            if x.shape.rank != 4:
                raise TypeError("only images are supported")
            return layer(name=name, **settings)(x)

        return call

    return make


def _resize(name: str) -> Callable[..., Any]:
    def call(x: Any, size: Any, interpolation: str, data_format: Any = None, **settings: Any) -> Any:
        if any(settings.pop(key) for key in ("antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio")):
            raise TypeError("antialias and aspect ratios are not supported")
        if data_format not in (None, "channels_last"):
            raise TypeError("channels_first is not supported")
        return layers.Resizing(*size, interpolation=interpolation, name=name)(x)

    return call


def _gelu(name: str) -> Callable[..., Any]:
    return lambda x, approximate=True: tf.nn.gelu(x, approximate=approximate)


def _pad(x: Any, pad_width: Any, constant_values: Any = None, mode: str = "constant") -> Any:
    return tf.pad(x, [list(pair) for pair in pad_width], mode=mode.upper(), constant_values=constant_values or 0)


def _log_softmax(x: Any, axis: int = -1) -> Any:
    return tf.nn.log_softmax(x, axis=axis)


def _one_hot(x: Any, num_classes: int, axis: int = -1, dtype: str = "float32", sparse: bool = False) -> Any:
    if sparse:
        raise TypeError("sparse tensors are not supported")
    return tf.one_hot(x, num_classes, axis=axis, dtype=dtype)


def _einsum(name: str) -> Callable[..., Any]:
    def call(*operands: Any, subscripts: str) -> Any:
        constants = [None if tf.is_tensor(x) else np.asarray(x).tolist() for x in operands]
        layer = functions.Einsum(subscripts, constants if any(c is not None for c in constants) else None, name=name)
        return layer([x for x in operands if tf.is_tensor(x)])

    return call


def _where(condition: Any, x: Any, y: Any) -> Any:
    return tf.where(condition, *_alike(x, y))


def _getitem(x: Any, key: Any) -> Any:
    # In full, as tf-keras can't save an ellipsis.
    keys = list(key) if isinstance(key, tuple) else [key]
    for place in [i for i, part in enumerate(keys) if part is Ellipsis]:
        rest = sum(part is not None and part is not Ellipsis for part in keys)
        keys[place : place + 1] = [slice(None)] * (x.shape.rank - rest)
    return x[tuple(keys)]


_MATH = tf.math
# Class name -> function of the new layer's name -> function of the call's arguments and the operation's settings.
OPERATIONS: dict[str, _Make] = {
    # Two tensors.
    "Add": _merge(layers.Add, tf.add),
    "Subtract": _merge(layers.Subtract, tf.subtract),
    "Multiply": _merge(layers.Multiply, tf.multiply),
    "Maximum": _merge(layers.Maximum, tf.maximum),
    "Minimum": _merge(layers.Minimum, tf.minimum),
    "Divide": _promoted(tf.divide, at_least=float),
    "TrueDivide": _promoted(tf.divide, at_least=float),
    "Power": _promoted(tf.pow),
    "Matmul": _function(tf.matmul),
    "Einsum": _einsum,
    "Equal": _promoted(tf.equal),
    "NotEqual": _promoted(tf.not_equal),
    "Greater": _promoted(tf.greater),
    "GreaterEqual": _promoted(tf.greater_equal),
    "Less": _promoted(tf.less),
    "LessEqual": _promoted(tf.less_equal),
    "Where": _function(_where),
    # Activations.
    "Relu": _layer(layers.ReLU),
    "Relu6": lambda name: layers.ReLU(6.0, name=name),
    "LeakyRelu": lambda name: lambda x, negative_slope=0.2: layers.LeakyReLU(negative_slope, name=name)(x),
    "Elu": _layer(layers.ELU),
    "Softmax": _layer(layers.Softmax),
    "LogSoftmax": _function(_log_softmax),
    "Gelu": _gelu,
    "Sigmoid": _activation("sigmoid"),
    "Tanh": _activation("tanh"),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "Selu": _activation("selu"),
    "Silu": _activation("swish"),
    "HardSigmoid": _activation(functions.hard_sigmoid),
    "HardSilu": _activation(functions.hard_silu),
    "HardTanh": _activation(functions.hard_tanh),
    "LogSigmoid": _activation(functions.log_sigmoid),
    "Squareplus": lambda name: lambda x, b=4: 0.5 * (x + tf.sqrt(tf.square(x) + float(b))),
    # Element by element.
    "Negative": _function(tf.negative),
    "Absolute": _function(tf.abs),
    "Exp": _function(tf.exp),
    "Expm1": _function(_MATH.expm1),
    "Log": _function(_MATH.log),
    "Log1p": _function(_MATH.log1p),
    "Sqrt": _function(tf.sqrt),
    "Rsqrt": _function(_MATH.rsqrt),
    "Square": _function(tf.square),
    "Sign": _function(tf.sign),
    "Floor": _function(tf.floor),
    "Ceil": _function(_MATH.ceil),
    "Sin": _function(tf.sin),
    "Cos": _function(tf.cos),
    "Erf": _function(_MATH.erf),
    "Reciprocal": _function(_MATH.reciprocal),
    "Clip": lambda name: lambda x, x_min, x_max: tf.clip_by_value(x, x_min, x_max),
    "Cast": lambda name: lambda x, dtype: tf.cast(x, dtype),
    "StopGradient": _function(tf.stop_gradient),
    # Over axes.
    "Mean": _mean,
    "Sum": _reduce(tf.reduce_sum),
    "Max": _reduce(tf.reduce_max),
    "Min": _reduce(tf.reduce_min),
    "Prod": _reduce(tf.reduce_prod),
    "Var": _reduce(_MATH.reduce_variance),
    "Std": _reduce(_MATH.reduce_std),
    "Logsumexp": _reduce(tf.reduce_logsumexp),
    "Argmax": lambda name: lambda x, axis, keepdims=False: tf.argmax(x, axis, output_type=tf.int32),
    "OneHot": _function(_one_hot),
    # Shape.
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Swapaxes": _function(_swap),
    "Moveaxis": _function(_move),
    "Concatenate": _layer(layers.Concatenate),
    "Stack": lambda name: lambda xs, axis=0: tf.stack(xs, axis=axis),
    "Split": _function(_split),
    "Squeeze": lambda name: lambda x, axis=None: tf.squeeze(x, axis=_axes(axis)),
    "ExpandDims": lambda name: lambda x, axis: tf.expand_dims(x, axis),
    "GetItem": _function(_getitem),
    "Pad": _function(_pad),
    "Flip": lambda name: lambda x, axis: tf.reverse(x, np.ravel(axis).tolist()),
    "Roll": lambda name: lambda x, shift, axis: tf.roll(x, shift, axis),
    "Repeat": lambda name: lambda x, repeats, axis: tf.repeat(x, repeats, axis),
    "Tile": lambda name: lambda x, repeats: tf.tile(x, repeats),
    "MaxPool": _pool(layers.MaxPooling2D),
    "AveragePool": _pool(layers.AveragePooling2D),
    "Resize": _resize,
}


def counterpart(operation: Any) -> Callable[..., Any] | None:
    """A function that does with tf-keras tensors what a Keras 3 operation does with its own; None if there is none.

    Args:
        operation: a Keras 3 Operation that is no layer.
    """
    make = OPERATIONS.get(type(operation).__name__)
    if make is None:
        return None
    settings = {key: decode(value) for key, value in operation.get_config().items() if key != "name"}
    function = make(operation.name)

    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = map_nest(_narrow, args), map_nest(_narrow, kwargs)
        return function(*args, **kwargs, **settings)

    return call


def _narrow(leaf: Any) -> Any:
    # numpy's float64 next to float32 tensors, which only Keras 3 brings together by itself.
    return leaf.astype("float32") if isinstance(leaf, np.ndarray) and leaf.dtype == np.float64 else leaf
