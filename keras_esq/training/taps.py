"""The activations inside a network that are paired."""

from __future__ import annotations

from typing import Any

from keras_esq._checks import near_matches
from keras_esq._keras import keras
from keras_esq.quantize.graph import ordered_nodes
from keras_esq.training.pairing import LOGITS, AnyPairing


def tap(network: Any, pairings: tuple[AnyPairing, ...]) -> tuple[list[str], Any]:
    """Names of the layers to pair, and a model (output, [their outputs], [others]) that shares the network's layers."""
    names = list(dict.fromkeys(n for p in pairings for n in p.weights if n != LOGITS))
    if not names:
        return [], None
    if not getattr(network, "outputs", None):
        raise TypeError(
            f"Expected a Sequential or functional model for ActivationPairing. Received the subclassed model "
            f"{network.name!r}. Pair its logits, or rebuild it as keras.Model(inputs, outputs)."
        )
    nodes = ordered_nodes(network)
    outputs = {layer.name: node.outputs for layer, node in nodes}
    for name in names:
        if name not in outputs:
            raise ValueError(
                f"Expected the names of layers of {network.name!r} to pair. Received {name!r}. "
                + near_matches(name, [*outputs, LOGITS])
            )
        if isinstance(outputs[name], list | tuple | dict):
            raise ValueError(
                f"Expected layers with one output to pair. Received {name!r}, which has {len(outputs[name])}. Name the "
                "layer that takes the one to pair."
            )
    # What network.add_loss added leads to no output of the network. Left out, its value would be that of another pass.
    used = {id(layer) for layer, _ in nodes} | {id(tensor.node.layer) for tensor in network.inputs}
    beside = [node.outputs for layer in network.layers if id(layer) not in used for node in layer.inbound_nodes]
    return names, keras.Model(network.inputs, [network.outputs[0], [outputs[name] for name in names], beside])
