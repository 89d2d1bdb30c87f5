"""`quantize_model`: a float Keras model to a low-bit one."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from keras_esq._keras import tfmot_quantization
from keras_esq.quantize.activations import needs_activation_quantizer
from keras_esq.quantize.configs import WeightQuantizeConfig, check_activation_bits, low_bit_kernels
from keras_esq.quantize.graph import check_network, clone_layer, freeze_alike, rebuild
from keras_esq.quantize.quantizers import LowBitQuantizer, get_quantizer
from keras_esq.quantize.wrapper import LowBitWrapper

_DEFAULTS = {"stochastic": True, "partition": "quantized", "probability": "linear"}


def quantize_model(
    model: Any,
    weights: Any,
    *,
    activation_bits: int | None = None,
    skip: str | Iterable[str] = (),
    stochastic: bool = True,
    partition: str = "quantized",
    probability: str = "linear",
    custom_objects: dict[Any, Any] | None = None,
) -> Any:
    """A copy of `model` whose kernels are quantized to 1 or 2 bits in every forward pass.

    The copy is a flat functional model with the same layer names and weights. Dense and convolutional layers
    (depthwise, separable and transposed ones too) are wrapped in tfmot's QuantizeWrapperV2; the wrapped full-precision
    ("latent") weights are what training updates, through a straight-through gradient. All others pass through and stay
    float: recurrent layers, attention, embeddings, and layers inside of another layer, such as TimeDistributed. Nested
    models are dissolved; where two layers would get the same name, the later one is called "model_layer". Shared layers
    stay shared, regularizers act on the latent weights. A layer is frozen as ever, by
    `low_bit.get_layer(name).trainable = False`: it computes with its quantized weights, which stay what they are.

    Args:
        model: a built Sequential or functional model of tf-keras or Keras 3, or an ErrorSilencedModel around one. Not
            changed. One of Keras 3 is translated first (`esq.from_keras3`), and proven equal on random inputs. Of one
            pruned by tfmot the wrappers are dropped; `esq.Ternary(keep_zeros=True)` keeps its zeros in training.
        weights: "binary", "ternary", "int8", a quantizer (`esq.Binary()`, `esq.Ternary(threshold=0.7)`), or a dict
            {layer name or glob: quantizer or None}. Of a dict, an exact name goes before a glob and an earlier glob
            before a later; layers that no key matches keep float weights.
        activation_bits: 8 adds tfmot MovingAverageQuantizers on the outputs that an int8 file quantizes.
        skip: layer names or globs that keep float weights, for example the first and the last layer. [SQ]'s own code
            quantizes every layer, so none is skipped by default.
        stochastic: draw the share of filters that `QuantizationRatio` sets in each training step [SQ]. With False all
            filters are quantized in each step.
        partition: "quantized" draws the filters to quantize (as in [SQ]'s text), "real" those to keep real (as in
            its code).
        probability: chances of the draw: "constant", "linear", "softmax" or "sigmoid".
        custom_objects: for a Keras 3 model with layers of your own: {their class or its name: tf-keras class}, as
            `esq.from_keras3` takes it.

    Returns:
        A tf_keras.Model.

    Raises:
        TypeError: for a subclassed or foreign model, or a `weights` that is no quantizer.
        ValueError: for an unbuilt model, one that is quantized already, one in which nothing would be quantized, a
            `skip` or key that matches no layer with a kernel, or an unknown option; for a Keras 3 model that can't be
            translated, or `custom_objects` with one of tf-keras.

    Reference: [SQ] Dong et al., "Stochastic Quantization for Learning Accurate Low-bit Deep Neural Networks".
    """
    from keras_esq.keras3 import model_at_the_door  # which itself knows graphs and how to strip

    network = check_network(model_at_the_door(model, custom_objects), "quantize")
    activation_bits = check_activation_bits(activation_bits)
    settings = {"stochastic": stochastic, "partition": partition, "probability": probability}
    if not isinstance(skip, Iterable):
        raise TypeError(
            f"Expected skip to be a layer name, a glob or a list of them. Received {skip!r}. Use () for none."
        )
    rules = _Rules(weights, [skip] if isinstance(skip, str) else list(skip), settings)

    # Which outputs a file quantizes depends on what follows, be it outside of a nested model.
    flat = rebuild(network, clone_layer) if activation_bits else None

    def choose(layer: Any, name: str) -> WeightQuantizeConfig | None:
        quantizer = rules.quantizer(name, layer.name) if low_bit_kernels(layer) else None
        bits = activation_bits if flat and needs_activation_quantizer(flat.get_layer(name)) else None
        return None if quantizer is None and bits is None else WeightQuantizeConfig(quantizer, bits)

    low_bit = wrap_layers(network, choose)
    rules.check_all_used(network.name)
    return low_bit


def wrap_layers(network: Any, choose: Callable[[Any, str], Any]) -> Any:
    """A flat copy of `network`, weights included, in which each layer has the QuantizeConfig that `choose` gives it.

    Args:
        network: a built Sequential or functional model.
        choose: called with (layer, name in the copy); returns a tfmot QuantizeConfig, or None to pass the layer.
    """
    pairs: list[tuple[Any, Any]] = []

    def make_layer(layer: Any, name: str) -> Any:
        if isinstance(layer, tfmot_quantization.QuantizeWrapper):
            raise ValueError(
                f"Expected a float model. Received {network.name!r}, whose layer {layer.name!r} is quantized already. "
                "Quantize the float model, or esq.strip(model, latent=True)."
            )
        config = choose(layer, name)
        inner = clone_layer(layer, name)
        pairs.append((layer, inner))
        if config is None:
            return inner
        # tfmot runs the layer's `call` itself, so that the wrapper's precision is the layer's.
        return LowBitWrapper(inner, config, name_prefix="", name=name, dtype=inner.dtype_policy)

    low_bit = rebuild(network, make_layer)
    for original, inner in pairs:
        freeze_alike(original, inner)
        inner.set_weights(original.get_weights())
    return low_bit


class _Rules:
    """Which quantizer a layer gets, by name; remembers what matched, so that a mistyped name is an error."""

    def __init__(self, weights: Any, skip: list[str], settings: dict[str, Any]) -> None:
        given = weights if isinstance(weights, Mapping) else {"*": get_quantizer(weights)}
        get_quantizer("binary", **settings)  # checks the settings even where every quantizer is an instance
        self.quantizers = {
            pattern: None if value is None else _with_settings(get_quantizer(value), settings)
            for pattern, value in given.items()
        }
        self.explicit = isinstance(weights, Mapping)
        for argument, names in (("skip", skip), ("weights", self.quantizers)):
            for name in names:
                if not isinstance(name, str):
                    raise TypeError(f"Expected layer names or globs in {argument}. Received {name!r}. Use layer.name.")
        self.skip = skip
        self.used: set[str] = set()
        self.names: list[str] = []
        self.quantized = 0

    def quantizer(self, name: str, original_name: str) -> LowBitQuantizer | None:
        """The quantizer of the layer with a kernel called `name` (and `original_name` inside its nested model)."""
        names = (name, original_name)
        self.names.append(name)
        skipped = [pattern for pattern in self.skip if _matches(pattern, names)]
        matching = [pattern for pattern in self.quantizers if _matches(pattern, names)]
        self.used.update(skipped, matching)
        exact = [name for name in names if name in self.quantizers]
        best = (exact or matching or [None])[0]
        quantizer = None if skipped or best is None else self.quantizers[best]
        self.quantized += quantizer is not None
        return quantizer

    def check_all_used(self, model_name: str) -> None:
        """Raise for a pattern that matched no layer, or if nothing was quantized."""
        patterns = [("skip", p) for p in self.skip]
        patterns += [("weights", p) for p in self.quantizers if self.explicit]
        for argument, pattern in patterns:
            if pattern not in self.used:
                near = difflib.get_close_matches(pattern, self.names, n=3)
                hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
                raise ValueError(
                    f"Expected every name in {argument} to match a layer with a kernel. {pattern!r} matches none in "
                    f"{model_name!r}. {hint}Layers with a kernel: {self.names}."
                )
        if not self.quantized:
            raise ValueError(
                f"Expected at least one layer to quantize in {model_name!r}. Layers with a kernel: {self.names}; all "
                "of them are skipped or have no quantizer."
            )


def _matches(pattern: str, names: tuple[str, str]) -> bool:
    return pattern in names or any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _with_settings(quantizer: LowBitQuantizer, settings: dict[str, Any]) -> LowBitQuantizer:
    """`quantizer` with the call's settings; whichever of the two is not the default wins."""
    config = quantizer.get_config()
    for name, value in settings.items():
        own = config[name]
        if own not in (_DEFAULTS[name], value) and value != _DEFAULTS[name]:
            raise ValueError(
                f"Expected one value of {name}. Received {value!r} in the call and {own!r} in {quantizer!r}. Drop one."
            )
        config[name] = value if own == _DEFAULTS[name] else own
    return type(quantizer).from_config(config)
