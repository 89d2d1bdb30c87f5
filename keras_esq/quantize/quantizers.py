"""Binary, ternary and 8-bit weights: the thin tfmot quantizers around the pure functions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import tensorflow as tf

from keras_esq._keras import keras, tfmot_quantization
from keras_esq.quantize.functions import (
    Axis,
    accumulate,
    as_written,
    binarize,
    check_threshold,
    prepare,
    round_int8,
    straight_through,
    ternarize,
)
from keras_esq.quantize.partition import PARTITIONS, PROBABILITIES, held_weight, relative_error
from keras_esq.quantize.pruning import hold_zeros


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
        self.axis: Axis = tuple(axis) if isinstance(axis, Iterable) else int(axis)
        self.stochastic = bool(stochastic)
        self.partition = _choice("partition", partition, PARTITIONS)
        self.probability = _choice("probability", probability, PROBABILITIES)

    def quantize(self, w: Any) -> tf.Tensor:
        """All filters of `w` quantized."""
        raise NotImplementedError

    def latent(self, w: tf.Tensor) -> tf.Tensor:
        """The latent weight on its way into a forward pass: as it is."""
        return w

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

    @as_written
    def __call__(self, inputs: Any, training: bool, weights: Mapping[str, Any], **kwargs: Any) -> tf.Tensor:
        """The quantized weight: all of it in inference, the present partition of it in training."""
        w = self.latent(tf.convert_to_tensor(inputs))
        held = held_weight(weights["partition"])
        if held is not None:
            return straight_through(w, held) if training else tf.cast(held, w.dtype)
        quantized = self.quantize(w)
        return self.mix(w, quantized, weights["partition"]) if training and self.stochastic else quantized

    @as_written
    def mix(self, w: Any, quantized: tf.Tensor, partition: Any) -> tf.Tensor:
        """`quantized` for just those filters whose entry of `partition` is above one half, `w` for the others."""
        w = tf.convert_to_tensor(w)
        return tf.where(self.per_filter(partition, w.shape) > 0.5, quantized, w)

    @as_written
    def error(self, w: Any, quantized: tf.Tensor) -> tf.Tensor:
        """e = ||W_i - Q_i||_1 / ||W_i||_1 of each filter, in the shape of the partition; 0 for an all-zero filter."""
        w = tf.convert_to_tensor(w)
        _, reduced = prepare(w, self.axis)
        error = relative_error(accumulate(w), accumulate(quantized), reduced)
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
    """Weights of 1 bit: see `binarize` for the formula, `LowBitQuantizer` for the arguments. Alias "binary".

    One bit has no zero: pruned weights become +alpha. Binary weights and a mask are `Ternary(threshold=0,
    keep_zeros=True)`.
    """

    precision = 1
    alias = "binary"

    def __init__(self, **kwargs: Any) -> None:
        if kwargs.pop("keep_zeros", False):
            raise ValueError(
                "Expected weights that have a zero, to keep zeros. Received Binary(keep_zeros=True), and one bit has "
                "none. Use Ternary(threshold=0, keep_zeros=True): -alpha and +alpha where weights were not pruned."
            )
        super().__init__(**kwargs)

    def quantize(self, w: Any) -> tf.Tensor:
        """All filters of `w` at -alpha or +alpha."""
        return binarize(w, self.axis)


@keras.saving.register_keras_serializable(package="keras_esq")
class Ternary(LowBitQuantizer):
    """Weights of 2 bits: see `ternarize` for the formula and `threshold`, `LowBitQuantizer` for the other arguments.

    Alias "ternary". With `keep_zeros=True` latent weights that are exactly 0, as pruning leaves them, get no gradient
    and so stay 0 (`hold_zeros`); else training may bring them back. Layers that start at zero would not learn.
    """

    precision = 2
    alias = "ternary"

    def __init__(self, *, threshold: float = 0.7, keep_zeros: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = check_threshold(threshold)
        self.keep_zeros = bool(keep_zeros)

    def latent(self, w: tf.Tensor) -> tf.Tensor:
        """The latent weight on its way into a forward pass: its zeros held, if asked for."""
        return hold_zeros(w) if self.keep_zeros else w

    def quantize(self, w: Any) -> tf.Tensor:
        """All filters of `w` at -alpha, 0 or +alpha."""
        return ternarize(w, self.axis, self.threshold)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"threshold": self.threshold, "keep_zeros": self.keep_zeros, **super().get_config()}


@keras.saving.register_keras_serializable(package="keras_esq")
class Int8(LowBitQuantizer):
    """Weights of 8 bits: see `round_int8` for the formula, `LowBitQuantizer` for the arguments. Alias "int8".

    For layers that lose much by 1 or 2 bits and weigh little, as the first and the last one do. An int8 file stores
    float layers so too, but with these weights the network is trained, measured and counted as it is stored.
    """

    precision = 8
    alias = "int8"

    def quantize(self, w: Any) -> tf.Tensor:
        """All filters of `w` at multiples of their largest weight / 127."""
        return round_int8(w, self.axis)


QUANTIZERS: dict[str, type[LowBitQuantizer]] = {cls.alias: cls for cls in (Binary, Ternary, Int8)}


def get_quantizer(identifier: Any, **defaults: Any) -> LowBitQuantizer:
    """A quantizer from its alias ("binary", "ternary", "int8"), its class, or an instance, which is returned as it is.

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
        f"Expected a weight quantizer: one of {list(QUANTIZERS)}, esq.Binary(), esq.Ternary() or esq.Int8(). "
        f"Received {identifier!r} of type {type(identifier).__name__}."
    )


def _choice(argument: str, value: str, choices: tuple[str, ...]) -> str:
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Expected {argument} to be one of {list(choices)}. Received {value!r}.{hint}")
