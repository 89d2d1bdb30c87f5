"""`strip`: a low-bit model to a plain Keras model that holds the quantized values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_esq._keras import tfmot_quantization
from keras_esq.quantize.graph import check_network, clone_layer, freeze_alike, rebuild
from keras_esq.quantize.l1_batchnorm import L1BatchNormalization
from keras_esq.quantize.state import low_bit_weights


def strip(model: Any, *, latent: bool = False) -> Any:
    """A plain functional Keras model whose kernels hold exactly the quantized values of `model`.

    Wrappers, quantizers, partition and activation quantizers are gone, names are kept, and every filter is quantized,
    whatever the ratio. Layers of mixed precision compute in the type of their weights. For deployment with other
    tools; `esq.convert` does it by itself.

    Args:
        model: a low-bit model, an ErrorSilencedModel, or a plain model, of which a flat copy is returned.
        latent: the network as it was before `quantize_model`, with the latent weights in place of the quantized values,
            to be quantized anew: for other bits than it was trained with. Mixed precision and L1BatchNormalization
            stay.

    Returns:
        A tf_keras.Model, not compiled.

    Raises:
        TypeError, ValueError: as `quantize_model` does, for models whose layers can't be read off.
    """
    plain, pairs = plain_copy(check_network(model, "strip"), clone_layer if latent else _stripped)
    quantized = {} if latent else {id(weight.latent): weight.quantized for weight in low_bit_weights(model)}
    for old, new in pairs:
        for old_variable, variable in zip(old.weights, new.weights, strict=True):
            variable.assign(quantized.get(id(old_variable), old_variable))
        new.finalize_state()  # Normalization computes with what it then derives from its weights
    return plain


def plain_copy(network: Any, make_layer: Callable[[Any, str], Any]) -> tuple[Any, list[tuple[Any, Any]]]:
    """A plain functional model like `network`, without wrappers and quantizers; weights are not copied.

    Args:
        network: what `check_network` returned.
        make_layer: (layer of `network` out of its wrapper, name) -> the layer in its place, not yet called.

    Returns:
        (the model, pairs of a layer of `network` out of its wrapper and the one in its place).
    """
    pairs: list[tuple[Any, Any]] = []

    def make(layer: Any, name: str) -> Any:
        pairs.append((_inner(layer), make_layer(_inner(layer), name)))
        return pairs[-1][1]

    plain = rebuild(network, make)
    for old, new in pairs:
        if type(old) is type(new):
            freeze_alike(old, new)
    return plain, pairs


def _stripped(layer: Any, name: str) -> Any:
    mixed = layer.compute_dtype != layer.variable_dtype
    settings = {"dtype": layer.variable_dtype} if mixed else {}
    if isinstance(layer, L1BatchNormalization):  # in inference, Keras' own layer
        return layer.as_batch_normalization(name=name, **settings)
    return clone_layer(layer, name, **settings)


def _inner(layer: Any) -> Any:
    return layer.layer if isinstance(layer, tfmot_quantization.QuantizeWrapper) else layer
