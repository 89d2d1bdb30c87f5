"""Binary and ternary weights: pure functions W -> Q, and the thin tfmot quantizers around them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import tensorflow as tf

from keras_esq._keras import keras, tfmot_quantization
from keras_esq.quantize.partition import PARTITIONS, PROBABILITIES, held_weight, relative_error

Axis = int | tuple[int, ...]


# Plain tensor code: AutoGraph would only slow its tracing, once per weight.
_as_written = tf.autograph.experimental.do_not_convert


@_as_written
def binarize(w: Any, axis: Axis = -1) -> tf.Tensor:
    """Quantize each filter of `w` to two values, -alpha and +alpha, with alpha = mean |w| of the filter.

    sign(0) counts as +1. A filter that is all zero stays all zero. The gradient is straight-through: dL/dw = dL/dq.

    Args:
        w: weights of any shape, a floating tensor, variable or array.
        axis: the axis, or axes, of the output channels; every index along them is one filter.

    Returns:
        A tensor of the shape and type of `w`.

    Raises:
        TypeError: if `w` is not of a floating type.
        ValueError: if `axis` is outside the rank of `w`.

    Reference: BWN in [SQ], after Rastegari et al. 2016 (arXiv 1603.05279).
    """
    w, reduced = _prepare(w, axis)
    magnitude = _accumulate(tf.abs(w))
    alpha = tf.reduce_mean(magnitude, axis=reduced, keepdims=True)
    return _straight_through(w, tf.where(w >= 0, alpha, -alpha))


@_as_written
def ternarize(w: Any, axis: Axis = -1, threshold: float = 0.7) -> tf.Tensor:
    """Quantize each filter of `w` to three values, -alpha, 0 and +alpha.

    Weights with |w| > threshold * mean |w| of their filter become +-alpha, where alpha is the mean of |w| over just
    those; the others become 0. A filter that is all zero stays all zero. The gradient is straight-through.

    Args:
        w: weights of any shape, a floating tensor, variable or array.
        axis: the axis, or axes, of the output channels; every index along them is one filter.
        threshold: in units of the filter's mean |w|. 0.7 minimizes ||W - T|| for normally distributed weights.

    Returns:
        A tensor of the shape and type of `w`.

    Raises:
        TypeError: if `w` is not of a floating type.
        ValueError: if `axis` is outside the rank of `w`, or `threshold` is negative or not finite.

    Reference: TWN, Li et al. 2016 (arXiv 1605.04711), as used in [SQ].
    """
    threshold = _check_threshold(threshold)
    w, reduced = _prepare(w, axis)
    magnitude = _accumulate(tf.abs(w))
    delta = threshold * tf.reduce_mean(magnitude, axis=reduced, keepdims=True)
    # A NaN compares false with everything and would become a silent 0; kept apart, it stays visible.
    kept = magnitude > delta
    total = tf.reduce_sum(tf.where(kept, magnitude, 0.0), axis=reduced, keepdims=True)
    count = tf.reduce_sum(tf.cast(kept, magnitude.dtype), axis=reduced, keepdims=True)
    alpha = tf.math.divide_no_nan(total, count) + 0.0 * delta
    return _straight_through(w, tf.where(kept, tf.where(w >= 0, alpha, -alpha), 0.0 * delta))


def _prepare(w: Any, axis: Axis) -> tuple[tf.Tensor, list[int]]:
    """The tensor, and the axes that lie inside one filter."""
    w = tf.convert_to_tensor(w)
    if not w.dtype.is_floating:
        raise TypeError(f"Expected floating-point weights. Received dtype {w.dtype.name}. Cast them first.")
    rank = w.shape.rank
    channels = (axis,) if isinstance(axis, int) else tuple(axis)
    if any(not -rank <= a < rank for a in channels):
        raise ValueError(
            f"Expected the channel axis within the rank of the weights, {rank}. Received axis={axis} for shape "
            f"{tuple(w.shape)}. Use -1 for layers whose last axis is the output channel."
        )
    kept = {a % rank for a in channels}
    return w, [a for a in range(rank) if a not in kept]


def _accumulate(x: tf.Tensor) -> tf.Tensor:
    """Half-precision weights are averaged in float32: a float16 sum overflows at 65,504."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


def _straight_through(w: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """`q` in the forward pass, to the bit; the identity to `w` in the backward pass."""

    @tf.custom_gradient
    def identity(w: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.cast(tf.stop_gradient(q), w.dtype), lambda upstream: upstream

    return identity(w)


def _check_threshold(threshold: float) -> float:
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise TypeError(f"Expected threshold as a number. Received {threshold!r}. The literature's value is 0.7.")
    if not math.isfinite(threshold) or threshold < 0:
        raise ValueError(
            f"Expected a finite threshold >= 0, in units of mean |w|. Received {threshold}. The literature's is 0.7."
        )
    return float(threshold)


class LowBitQuantizer(tfmot_quantization.quantizers.Quantizer):
    """A tfmot quantizer that quantizes a share of the filters of a weight: the stochastic quantization of [SQ].

    It keeps two variables on the layer that owns it: `ratio`, the share r of filters to quantize in a training step,
    and `partition`, one entry a filter, 1.0 where the filter is quantized in the present step. `partition` is honoured
    in training mode only. In inference mode every filter is quantized, whatever the state of a training.

    Args:
        axis: the axis, or axes, of the output channels. A QuantizeConfig of this package sets the layer's own.
        stochastic: False quantizes all filters in each step from the start.
        partition: "quantized" draws the r*m filters to quantize with chances from f = 1/error ([SQ]'s paper, the
            default); "real" draws the (1-r)*m filters that stay real with chances from the error ([SQ]'s code).
        probability: "constant", "linear" (the paper's choice, the default), "softmax" or "sigmoid".

    Raises:
        ValueError: for an unknown `partition` or `probability`.
    """

    precision: ClassVar[int]
    alias: ClassVar[str]

    def __init__(
        self,
        *,
        axis: Axis | list[int] = -1,
        stochastic: bool = True,
        partition: str = "quantized",
        probability: str = "linear",
    ) -> None:
        self.axis: Axis = axis if isinstance(axis, int) else tuple(axis)
        self.stochastic = bool(stochastic)
        self.partition = _choice("partition", partition, PARTITIONS)
        self.probability = _choice("probability", probability, PROBABILITIES)

    def quantize(self, w: Any) -> tf.Tensor:
        """All filters of `w` quantized."""
        raise NotImplementedError

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Create `partition` and `ratio` on `layer`; called by tfmot's wrapper."""
        shape = tf.TensorShape(tensor_shape)
        channels = (self.axis,) if isinstance(self.axis, int) else self.axis
        settings = {
            "trainable": False,
            "dtype": tf.float32,
            # Every replica draws the same partition, so any one of them may write it.
            "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
        }
        return {
            "partition": layer.add_weight(
                name=f"{name}_partition", shape=[shape[a] for a in channels], initializer="ones", **settings
            ),
            "ratio": layer.add_weight(name=f"{name}_ratio", shape=[], initializer="ones", **settings),
        }

    @_as_written
    def __call__(self, inputs: Any, training: bool, weights: Mapping[str, Any], **kwargs: Any) -> tf.Tensor:
        """The quantized weight: all of it in inference, the present partition of it in training."""
        w = tf.convert_to_tensor(inputs)
        held = held_weight(weights["partition"])
        if held is not None:
            return _straight_through(w, held) if training else tf.cast(held, w.dtype)
        quantized = self.quantize(w)
        return self.mix(w, quantized, weights["partition"]) if training and self.stochastic else quantized

    @_as_written
    def mix(self, w: Any, quantized: tf.Tensor, partition: Any) -> tf.Tensor:
        """`quantized` for just those filters whose entry of `partition` is above one half, `w` for the others."""
        w = tf.convert_to_tensor(w)
        return tf.where(self.per_filter(partition, w.shape) > 0.5, quantized, w)

    @_as_written
    def error(self, w: Any, quantized: tf.Tensor) -> tf.Tensor:
        """e = ||W_i - Q_i||_1 / ||W_i||_1 of each filter, in the shape of the partition; 0 for an all-zero filter."""
        w = tf.convert_to_tensor(w)
        _, reduced = _prepare(w, self.axis)
        error = relative_error(_accumulate(w), _accumulate(quantized), reduced)
        channels = (self.axis,) if isinstance(self.axis, int) else self.axis
        return tf.reshape(error, [w.shape[a] for a in channels])

    def per_filter(self, values: Any, shape: Any) -> tf.Tensor:
        """`values`, one a filter, shaped to broadcast against weights of `shape`."""
        shape = tf.TensorShape(shape)
        channels = (self.axis,) if isinstance(self.axis, int) else self.axis
        kept = {a % shape.rank for a in channels}
        return tf.reshape(values, [shape[a] if a in kept else 1 for a in range(shape.rank)])

    def with_axis(self, axis: Axis) -> LowBitQuantizer:
        """The same quantizer for a layer whose output channels lie along `axis`."""
        return type(self).from_config({**self.get_config(), "axis": axis})

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "axis": self.axis,
            "stochastic": self.stochastic,
            "partition": self.partition,
            "probability": self.probability,
        }

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), *self.get_config().values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"


@keras.saving.register_keras_serializable(package="keras_esq")
class Binary(LowBitQuantizer):
    """Weights of 1 bit: see `binarize` for the formula, `LowBitQuantizer` for the arguments. Alias "binary"."""

    precision = 1
    alias = "binary"

    def quantize(self, w: Any) -> tf.Tensor:
        """All filters of `w` at -alpha or +alpha."""
        return binarize(w, self.axis)


@keras.saving.register_keras_serializable(package="keras_esq")
class Ternary(LowBitQuantizer):
    """Weights of 2 bits: see `ternarize` for the formula and `threshold`, `LowBitQuantizer` for the other arguments.

    Alias "ternary".
    """

    precision = 2
    alias = "ternary"

    def __init__(self, *, threshold: float = 0.7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = _check_threshold(threshold)

    def quantize(self, w: Any) -> tf.Tensor:
        """All filters of `w` at -alpha, 0 or +alpha."""
        return ternarize(w, self.axis, self.threshold)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"threshold": self.threshold, **super().get_config()}


QUANTIZERS: dict[str, type[LowBitQuantizer]] = {cls.alias: cls for cls in (Binary, Ternary)}


def get_quantizer(identifier: Any, **defaults: Any) -> LowBitQuantizer:
    """A quantizer from its alias ("binary", "ternary"), its class, or an instance, which is returned as it is.

    Args:
        identifier: alias, class or instance.
        **defaults: constructor arguments for an alias or a class.

    Raises:
        ValueError: for an unknown alias, with the near ones.
        TypeError: for anything else.
    """
    if isinstance(identifier, LowBitQuantizer):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, LowBitQuantizer):
        return identifier(**defaults)
    if isinstance(identifier, str):
        return QUANTIZERS[_choice("weights", identifier.lower(), tuple(QUANTIZERS))](**defaults)
    raise TypeError(
        f"Expected a weight quantizer: one of {list(QUANTIZERS)}, esq.Binary() or esq.Ternary(). "
        f"Received {identifier!r} of type {type(identifier).__name__}."
    )


def _choice(argument: str, value: str, choices: tuple[str, ...]) -> str:
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Expected {argument} to be one of {list(choices)}. Received {value!r}.{hint}")
