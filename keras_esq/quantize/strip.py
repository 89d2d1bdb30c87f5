"""`strip`: a low-bit model to a plain Keras model that holds the quantized values."""

from __future__ import annotations

from typing import Any

from keras_esq._keras import tfmot_quantization
from keras_esq.quantize.graph import check_network, clone_layer, rebuild
from keras_esq.quantize.l1_batchnorm import L1BatchNormalization
from keras_esq.quantize.wrapper import wrapper_low_bit_weights


def strip(model: Any) -> Any:
    """A plain functional Keras model whose kernels hold exactly the quantized values of `model`.

    Wrappers, quantizers, partition and activation quantizers are gone, names are kept, and every filter is quantized,
    whatever the ratio. Layers of mixed precision compute in the type of their weights. For deployment with other
    tools; `esq.convert` does it by itself.

    Args:
        model: a low-bit model, an ErrorSilencedModel, or a plain model, of which a flat copy is returned.

    Returns:
        A tf_keras.Model, not compiled.

    Raises:
        TypeError, ValueError: as `quantize_model` does, for models whose layers can't be read off.
    """
    network = check_network(model, "strip")
    pairs: list[tuple[Any, Any]] = []

    def make_layer(layer: Any, name: str) -> Any:
        inner = _inner(layer)
        mixed = inner.compute_dtype != inner.variable_dtype
        settings = {"dtype": inner.variable_dtype} if mixed else {}
        if isinstance(inner, L1BatchNormalization):  # in inference, Keras' own layer
            new = inner.as_batch_normalization(name=name, **settings)
        else:
            new = clone_layer(inner, name, **settings)
        pairs.append((layer, new))
        return new

    plain = rebuild(network, make_layer)
    for layer, new in pairs:
        quantized = {id(weight.latent): weight.quantized for weight in wrapper_low_bit_weights(layer)}
        for old_variable, variable in zip(_inner(layer).weights, new.weights, strict=True):
            variable.assign(quantized.get(id(old_variable), old_variable))
    return plain


def _inner(layer: Any) -> Any:
    return layer.layer if isinstance(layer, tfmot_quantization.QuantizeWrapper) else layer
