"""The tfmot QuantizeScheme: low-bit weights through `tfmot.quantization.keras.quantize_apply`."""

from __future__ import annotations

from typing import Any

from keras_esq._keras import tfmot_quantization
from keras_esq.quantize.activations import needs_activation_quantizer
from keras_esq.quantize.configs import WeightQuantizeConfig, check_activation_bits, low_bit_kernels
from keras_esq.quantize.model import wrap_layers
from keras_esq.quantize.quantizers import LowBitQuantizer, get_quantizer


class LowBitRegistry(tfmot_quantization.QuantizeRegistry):
    """Which layers are quantized, and how: those with a kernel, by the scheme's quantizer.

    Args:
        quantizer: a low-bit quantizer.
        activation_bits: as in `quantize_model`.
    """

    def __init__(self, quantizer: LowBitQuantizer, activation_bits: int | None = None) -> None:
        self.quantizer = quantizer
        self.activation_bits = check_activation_bits(activation_bits)

    def supports(self, layer: Any) -> bool:
        """Whether the layer has a kernel, or an output to quantize."""
        return self.get_quantize_config(layer) is not None

    def get_quantize_config(self, layer: Any) -> WeightQuantizeConfig | None:
        """The config for `layer`; None if it passes through."""
        quantizer = self.quantizer if low_bit_kernels(layer) else None
        bits = self.activation_bits if needs_activation_quantizer(layer) else None
        return None if quantizer is None and bits is None else WeightQuantizeConfig(quantizer, bits)


class LowBitLayoutTransform(tfmot_quantization.QuantizeLayoutTransform):
    """Wraps the annotated layers as `quantize_model` does, and leaves the layout of the network as it is.

    So BatchNormalization may stand anywhere, as in pre-activation residual nets, which tfmot's own pattern matching
    rejects. tfmot keeps wrappers that it finds, so its own wrapping has nothing left to do.
    """

    def __init__(self, registry: LowBitRegistry) -> None:
        self.registry = registry

    def apply(self, model: Any, layer_quantize_map: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The model with wrapped layers, and an empty map."""

        def choose(layer: Any, name: str) -> Any:
            if layer.name not in layer_quantize_map:
                return None
            own = layer_quantize_map[layer.name].get("quantize_config")
            return own or self.registry.get_quantize_config(layer)

        return wrap_layers(model, choose), {}


class LowBitScheme(tfmot_quantization.QuantizeScheme):
    """Low-bit weights for users of tfmot's own functions.

        annotated = tfmot.quantization.keras.quantize_annotate_model(model)
        low_bit = tfmot.quantization.keras.quantize_apply(annotated, scheme=esq.LowBitScheme("ternary"))

    It makes the same wrappers with the same quantizers as `esq.quantize_model`, which also takes nested models. Layer
    names are kept: the `quantized_layer_name_prefix` of `quantize_apply` has no effect.

    Args:
        weights: "binary", "ternary", "int8", or a quantizer such as `esq.Ternary(threshold=0.5)`.
        activation_bits: as in `quantize_model`.

    Raises:
        ValueError: for an unknown alias or number of bits.
    """

    def __init__(self, weights: Any, activation_bits: int | None = None) -> None:
        self.registry = LowBitRegistry(get_quantizer(weights), activation_bits)

    def get_layout_transformer(self) -> LowBitLayoutTransform:
        """The transform that wraps the annotated layers."""
        return LowBitLayoutTransform(self.registry)

    def get_quantize_registry(self) -> LowBitRegistry:
        """The registry."""
        return self.registry
