"""Bits by group of layers, as choices of a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_esq._checks import near_matches
from keras_esq.quantize import quantize_model
from keras_esq.quantize.configs import low_bit_kernels
from keras_esq.quantize.graph import check_network, walk_layers
from keras_esq.quantize.model import wrap_layers
from keras_esq.tuning.space import check_setting, choose

FLOAT = "float"
BITS = ("binary", "ternary", FLOAT)
# The first and the last layer hold few of the weights and much of the accuracy.
_ENDS, _MIDDLE = BITS, ("binary", "ternary")


def check_bits(bits: Any) -> Any:
    """`bits` if it is None, a name, choices of names, or a dict {layer name or glob: name or choices}.

    Raises:
        ValueError: for an unknown name, or an empty dict.
    """
    if bits is None:
        return None
    groups = bits if isinstance(bits, Mapping) else {"*": bits}
    if not groups:
        raise ValueError("Expected bits {layer name or glob: choices} with at least one group. Received {}.")
    for pattern, setting in groups.items():
        check_setting(f"bits of {pattern!r}", setting, _check_name)
    return bits


def _check_name(name: Any) -> None:
    if name not in BITS:
        raise ValueError(f"Expected bits out of {list(BITS)}. Received {name!r}. {near_matches(str(name), BITS)}")


def default_groups(network: Any) -> dict[str, tuple[str, Any]]:
    """The first layer with a kernel, the last one and those between, as far as there are any."""
    names = [layer.name for layer in walk_layers(network) if low_bit_kernels(layer)]
    if len(names) < 2:
        return {"*": ("bits", _ENDS)}
    groups = {names[0]: ("bits/first", _ENDS), names[-1]: ("bits/last", _ENDS)}
    return {**groups, "*": ("bits/middle", _MIDDLE)} if len(names) > 2 else groups


def choose_bits(hp: Any, network: Any, bits: Any) -> dict[str, str]:
    """{pattern: "binary", "ternary" or "float"} of this trial."""
    if bits is None:
        groups = default_groups(network)
    elif isinstance(bits, Mapping):
        groups = {pattern: (f"bits/{pattern}", setting) for pattern, setting in bits.items()}
    else:
        groups = {"*": ("bits", bits)}
    return {pattern: choose(hp, name, setting) for pattern, (name, setting) in groups.items()}


def with_bits(network: Any, chosen: Mapping[str, str], options: Mapping[str, Any]) -> Any:
    """A copy of `network` with those bits; a float one if none is to be quantized.

    Raises:
        TypeError, ValueError: as `quantize_model`.
    """
    if all(name == FLOAT for name in chosen.values()):
        return wrap_layers(check_network(network, "tune"), lambda layer, name: None)
    weights = {pattern: None if name == FLOAT else name for pattern, name in chosen.items()}
    return quantize_model(network, weights, **options)
