"""Tables of what is called otherwise in Keras 3 than in tf-keras. Keras 3 is not imported before it is needed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import accumulate
from typing import Any

from keras_esq.keras3.detect import keras3
from keras_esq.keras3.functions import with_constants
from keras_esq.keras3.rules import TO_TF_ACTIVATIONS, lambda_layer, normalization, scaled_sum
from keras_esq.keras3.settings import Rule


def to_keras3_activations() -> dict[str, Any]:
    """tf-keras' name -> Keras 3's name or function."""

    @keras3().saving.register_keras_serializable(package="keras_esq")
    def hard_sigmoid_of_keras_2(x: Any) -> Any:
        """clip(0.2 x + 0.5, 0, 1); the hard_sigmoid of Keras 3 is another function."""
        return keras3().ops.clip(0.2 * x + 0.5, 0.0, 1.0)

    ours = {f"keras_esq>{name}": name for name in TO_TF_ACTIVATIONS}
    return {**ours, "hard_sigmoid": hard_sigmoid_of_keras_2}


# tf-keras writes the settings of a Conv's kernel, of which separable ones have two with settings of their own.
_UNUSED = frozenset({"kernel_initializer", "kernel_regularizer", "kernel_constraint"})

TO_KERAS3: dict[str, Rule] = {
    "layers.LeakyReLU": Rule(rename={"alpha": "negative_slope"}),
    "layers.ThresholdedReLU": Rule(to="ReLU", rename={"theta": "threshold"}),
    "layers.SeparableConv1D": Rule(drop=_UNUSED),
    "layers.SeparableConv2D": Rule(drop=_UNUSED),
    "layers.MultiHeadAttention": Rule(drop=frozenset({"query_shape", "key_shape", "value_shape"})),
    "layers.BatchNormalization": Rule(change={"axis": lambda axis: axis[0] if isinstance(axis, list) else axis}),
}


def _layer_scale(layer: Any) -> Any:
    """ConvNeXt's LayerScale, which is not public in Keras 3, as a diagonal EinsumDense."""
    letters = "abcdefg"[: len(layer.input_shape)]
    made = keras3().layers.EinsumDense(
        f"{letters},{letters[-1]}->{letters}", output_shape=layer.input_shape[1:], name=layer.name
    )
    made.build(layer.input_shape)
    made.set_weights(layer.get_weights())
    return made


def _einsum(layer: Any, inputs: Any) -> Any:
    tensors = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    operands = with_constants(tensors, layer.constants, keras3().ops.convert_to_tensor)
    return keras3().ops.einsum(layer.subscripts, *operands)


SPECIAL: dict[str, Callable[[Any], Any]] = {
    "LayerScale": _layer_scale,
    "Normalization": lambda layer: normalization(keras3().layers)(layer),
    "Lambda": lambda layer: lambda_layer(keras3().layers)(layer),
}
COMPOSED: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "CustomScaleLayer": lambda layer: scaled_sum(keras3().layers, layer),
    "Einsum": lambda layer: lambda inputs: _einsum(layer, inputs),
}


def _l2_normalize(ops: Any, x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=axis, keepdims=True), epsilon))


def _matmul(ops: Any, a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    a, b = (ops.swapaxes(x, -1, -2) if swap else x for x, swap in ((a, transpose_a), (b, transpose_b)))
    return ops.matmul(a, b)


def _clip(ops: Any, t: Any, clip_value_min: Any, clip_value_max: Any) -> Any:
    return ops.clip(t, clip_value_min, clip_value_max)


def _pad(
    ops: Any, tensor: Any, paddings: Any, mode: str = "CONSTANT", name: Any = None, constant_values: Any = 0
) -> Any:
    constant = {"constant_values": constant_values} if mode == "CONSTANT" else {}
    return ops.pad(tensor, [tuple(pair) for pair in paddings], mode=mode.lower(), **constant)


def _getitem(ops: Any, x: Any, index: Any) -> Any:
    index = index if isinstance(index, (list, tuple)) else (index,)
    return x[tuple(slice(i["start"], i["stop"], i["step"]) if isinstance(i, dict) else i for i in index)]


def _split(ops: Any, value: Any, num_or_size_splits: Any, axis: int = 0) -> Any:
    if isinstance(num_or_size_splits, int):
        return ops.split(value, num_or_size_splits, axis)
    return ops.split(value, list(accumulate(num_or_size_splits))[:-1], axis)


def _unary(name: str) -> Callable[..., Any]:
    return lambda ops, x: getattr(ops, name)(x)


def _binary(name: str) -> Callable[..., Any]:
    return lambda ops, x, y: getattr(ops, name)(x, y)


def _reduced(name: str) -> Callable[..., Any]:
    def call(ops: Any, input_tensor: Any, axis: Any = None, keepdims: bool = False) -> Any:
        return getattr(ops, name)(input_tensor, axis=axis, keepdims=keepdims)

    return call


_UNARY = {
    **{name: name for name in ("negative", "square", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "sign", "floor")},
    **{name: name for name in ("ceil", "sin", "cos", "erf", "reciprocal", "abs", "sigmoid", "tanh", "softplus")},
    "log_sigmoid": "log_sigmoid",
}
_BINARY = {
    **{name: name for name in ("add", "subtract", "multiply", "maximum", "minimum", "greater", "less")},
    **{
        "equal": "equal",
        "not_equal": "not_equal",
        "greater_equal": "greater_equal",
        "less_equal": "less_equal",
        "truediv": "true_divide",
        "pow": "power",
    },
}
_REDUCED = {"mean": "mean", "sum": "sum", "max": "max", "min": "min", "prod": "prod", "std": "std", "variance": "var"}
_ACTIVATIONS = {name: name for name in ("relu", "relu6", "selu", "silu", "softsign", "elu")}

# Name of a TensorFlow function in tf-keras' configs -> function of (keras.ops, the call's arguments); parameters have
# TensorFlow's names, as calls may name them.
TENSORFLOW_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"math.{name}": _unary(other) for name, other in _UNARY.items()},
    **{f"math.{name}": _binary(other) for name, other in _BINARY.items()},
    **{f"math.reduce_{name}": _reduced(other) for name, other in _REDUCED.items()},
    "math.reduce_logsumexp": _reduced("logsumexp"),
    **{
        f"nn.{name}": lambda ops, features, other=other: getattr(ops, other)(features)
        for name, other in _ACTIVATIONS.items()
    },
    "nn.leaky_relu": lambda ops, features, alpha=0.2: ops.leaky_relu(features, alpha),
    "nn.gelu": lambda ops, features, approximate=False: ops.gelu(features, approximate),
    "nn.softmax": lambda ops, logits, axis=-1: ops.softmax(logits, -1 if axis is None else axis),
    "nn.log_softmax": lambda ops, logits, axis=-1: ops.log_softmax(logits, -1 if axis is None else axis),
    "math.l2_normalize": _l2_normalize,
    "linalg.matmul": _matmul,
    "einsum": lambda ops, equation, *inputs: ops.einsum(equation, *inputs),
    "__operators__.add": _binary("add"),
    "__operators__.getitem": _getitem,
    "clip_by_value": _clip,
    "cast": lambda ops, x, dtype: ops.cast(x, getattr(dtype, "name", dtype)),
    "where": lambda ops, condition, x, y: ops.where(condition, x, y),
    "stop_gradient": lambda ops, input: ops.stop_gradient(input),
    "identity": lambda ops, input: keras3().layers.Identity()(input),
    "reshape": lambda ops, tensor, shape: ops.reshape(tensor, [int(size) for size in shape]),
    "compat.v1.transpose": lambda ops, a, perm=None, name=None, conjugate=False: ops.transpose(a, perm),
    "concat": lambda ops, values, axis: ops.concatenate(values, axis),
    "stack": lambda ops, values, axis=0: ops.stack(values, axis),
    "split": _split,
    "expand_dims": lambda ops, input, axis: ops.expand_dims(input, axis),
    "compat.v1.squeeze": lambda ops, input, axis=None, *_: ops.squeeze(input, axis),
    "math.argmax": lambda ops, input, axis, output_type=None: ops.argmax(input, axis),
    "one_hot": lambda ops, indices, depth, axis=-1, dtype="float32": ops.one_hot(indices, depth, axis, dtype),
    "compat.v1.pad": _pad,
    "pad": _pad,
    # One at a time: flip with a tuple fails up to Keras 3.12.
    "reverse": lambda ops, tensor, axis: functools.reduce(ops.flip, axis, tensor),
    "roll": lambda ops, input, shift, axis: ops.roll(input, shift, axis),
    "repeat": lambda ops, input, repeats, axis: ops.repeat(input, repeats, axis),
    "tile": lambda ops, input, multiples: ops.tile(input, multiples),
}
