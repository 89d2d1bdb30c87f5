"""tfmot QuantizeConfigs: which weights of a layer become low-bit, and along which axis its filters lie."""

from __future__ import annotations

import numbers
from typing import Any

import tensorflow as tf

from keras_esq._keras import describe, from_description, keras, tfmot_quantization
from keras_esq.quantize.functions import Axis
from keras_esq.quantize.quantizers import Binary, Int8, LowBitQuantizer, Ternary

layers = keras.layers
_ACTIVATION_QUANTIZER = {"per_axis": False, "symmetric": False, "narrow_range": False}

# Layer class -> ((weight attribute, axes of its output channels), ...). The first class that fits decides, so a
# subclass stands before its base: DepthwiseConv and SeparableConv derive from Conv.
_KERNELS: tuple[tuple[tuple[type, ...], tuple[tuple[str, Axis], ...]], ...] = (
    (
        (layers.SeparableConv1D, layers.SeparableConv2D),
        (("depthwise_kernel", (-2, -1)), ("pointwise_kernel", -1)),
    ),
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), (("depthwise_kernel", (-2, -1)),)),
    ((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), (("kernel", -2),)),
    ((layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Dense), (("kernel", -1),)),
)


def low_bit_kernels(layer: Any) -> tuple[tuple[str, Axis], ...]:
    """The weights of `layer` that can be quantized: (attribute, channel axes) each; empty if there are none."""
    for classes, kernels in _KERNELS:
        if isinstance(layer, classes):
            return kernels
    return ()


class _ActivationQuantizer(tfmot_quantization.quantizers.MovingAverageQuantizer):
    """tfmot's, which takes float32 only, for activations of any precision."""

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """The range, as tfmot makes it, kept out of the casts of mixed precision."""
        return {
            f"{end}_var": layer.add_weight(
                name=f"{name}_{end}",
                initializer=keras.initializers.Constant(first),
                trainable=False,
                dtype="float32",
                experimental_autocast=False,
            )
            for end, first in (("min", -6.0), ("max", 6.0))
        }

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        """The activations, rounded, in their own type."""
        rounded = super().__call__(tf.cast(inputs, tf.float32), training, weights, **kwargs)
        return tf.cast(rounded, inputs.dtype)


class LowBitQuantizeConfig(tfmot_quantization.QuantizeConfig):
    """A tfmot QuantizeConfig that quantizes the kernels of one layer with a low-bit weight quantizer.

    The axis of the filters is the layer's own (the last one for convolutions and Dense, the one before it for
    transposed convolutions, both for depthwise ones), so that one config serves every kind of layer.

    Args:
        quantizer: a `Binary`, `Ternary` or `Int8`, or None to leave the weights as they are.
        activation_bits: bits of an additional tfmot MovingAverageQuantizer on the layer's output, or None.

    Raises:
        TypeError: if `quantizer` is not a low-bit quantizer.
        ValueError: if `activation_bits` is not between 2 and 16.
    """

    def __init__(self, quantizer: Any = None, activation_bits: int | None = None) -> None:
        if isinstance(quantizer, dict):  # as get_config() wrote it
            quantizer = from_description(quantizer)
        if quantizer is not None and not isinstance(quantizer, LowBitQuantizer):
            raise TypeError(
                f"Expected quantizer to be esq.Binary(), esq.Ternary(), esq.Int8() or None. Received {quantizer!r}."
            )
        self.quantizer = quantizer
        self.activation_bits = check_activation_bits(activation_bits)

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, LowBitQuantizer]]:
        """The layer's kernels, each with its quantizer."""
        if self.quantizer is None:
            return []
        return [(getattr(layer, name), self.quantizer.with_axis(axis)) for name, axis in low_bit_kernels(layer)]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Put the quantized weights where the layer's call will find them.

        Past Keras' attribute tracking, which would forget the variable that the tensor stands in for.
        """
        if self.quantizer is not None:
            for (name, _), weight in zip(low_bit_kernels(layer), quantize_weights, strict=True):
                vars(layer)[name] = weight

    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
        """None: outputs are quantized instead, so that a fused activation is quantized once."""
        return []

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """Nothing to set; see `get_activations_and_quantizers`."""
        return

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """The activation quantizer, if asked for."""
        if self.activation_bits is None:
            return []
        return [_ActivationQuantizer(num_bits=self.activation_bits, **_ACTIVATION_QUANTIZER)]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"quantizer": describe(self.quantizer), "activation_bits": self.activation_bits}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), self.quantizer, self.activation_bits))


def check_activation_bits(bits: int | None) -> int | None:
    """`bits` if it is None or a number of bits that tfmot's fake quantization takes."""
    if bits is None:
        return None
    if isinstance(bits, bool) or not isinstance(bits, numbers.Integral) or not 2 <= bits <= 16:
        raise ValueError(f"Expected activation_bits=None or an integer from 2 to 16. Received {bits!r}. Files use 8.")
    return int(bits)


@keras.saving.register_keras_serializable(package="keras_esq")
class WeightQuantizeConfig(LowBitQuantizeConfig):
    """The general config that `quantize_model` attaches; see `LowBitQuantizeConfig`."""


class _NamedQuantizeConfig(LowBitQuantizeConfig):
    """A config for `tfmot.quantization.keras.quantize_annotate_layer(layer, config)`."""

    quantizer_class: type[LowBitQuantizer]

    def __init__(self, activation_bits: int | None = None, **settings: Any) -> None:
        super().__init__(self.quantizer_class(**settings), activation_bits)
        self.settings = settings

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"activation_bits": self.activation_bits, **self.settings}


@keras.saving.register_keras_serializable(package="keras_esq")
class BinaryQuantizeConfig(_NamedQuantizeConfig):
    """Binary weights for one layer, for use with tfmot's own `quantize_annotate_layer`.

    Args:
        activation_bits: as in `LowBitQuantizeConfig`.
        **settings: arguments of `Binary`.
    """

    quantizer_class = Binary


@keras.saving.register_keras_serializable(package="keras_esq")
class TernaryQuantizeConfig(_NamedQuantizeConfig):
    """Ternary weights for one layer, for use with tfmot's own `quantize_annotate_layer`.

    Args:
        activation_bits: as in `LowBitQuantizeConfig`.
        **settings: arguments of `Ternary`.
    """

    quantizer_class = Ternary


@keras.saving.register_keras_serializable(package="keras_esq")
class Int8QuantizeConfig(_NamedQuantizeConfig):
    """8-bit weights for one layer, for use with tfmot's own `quantize_annotate_layer`.

    Args:
        activation_bits: as in `LowBitQuantizeConfig`.
        **settings: arguments of `Int8`.
    """

    quantizer_class = Int8
