"""A model of either Keras as a list of calls, read through public API only."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.keras3.detect import keras3


@dataclass(frozen=True)
class Ref:
    """Stands, in the arguments of a call, for output number `index` of the call or input `source`."""

    source: Hashable
    index: int = 0


@dataclass(frozen=True)
class Call:
    """One call of a layer, a nested model or an operation; `args` and `kwargs` are nests with Refs."""

    source: Hashable
    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class InputSpec:
    """What a model takes at one of its inputs; shape with the batch axis first, None where any size will do."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Graph:
    """The calls of a model in an order in which they can run. `inputs` and `outputs` are nests of Refs."""

    specs: tuple[InputSpec, ...]
    inputs: Any
    calls: tuple[Call, ...]
    outputs: Any


def map_nest(function: Callable[[Any], Any], nest: Any) -> Any:
    """`nest` of lists, tuples and dicts with `function` applied to its leaves."""
    if isinstance(nest, (list, tuple)):
        leaves = [map_nest(function, value) for value in nest]
        return tuple(leaves) if isinstance(nest, tuple) else leaves
    if isinstance(nest, dict):
        return {key: map_nest(function, value) for key, value in nest.items()}
    return function(nest)


def flatten(nest: Any) -> list[Any]:
    """The leaves of `nest`; those of dicts in the order of their keys, as both Keras flatten them."""
    if isinstance(nest, (list, tuple)):
        return [leaf for value in nest for leaf in flatten(value)]
    if isinstance(nest, dict):
        return [leaf for key in sorted(nest) for leaf in flatten(nest[key])]
    return [nest]


def run(graph: Graph, inputs: list[Any], apply: Callable[[Call, Any, dict[str, Any]], Any]) -> Any:
    """The outputs of `graph`, a nest like `graph.outputs`.

    Args:
        graph: what to run.
        inputs: a tensor for each leaf of `graph.inputs`, in `flatten`'s order.
        apply: called as apply(call, args, kwargs) for each call, with tensors for the Refs; returns its outputs.
    """
    known = {ref: [value] for ref, value in zip((r.source for r in flatten(graph.inputs)), inputs, strict=True)}

    def filled(leaf: Any) -> Any:
        return known[leaf.source][leaf.index] if isinstance(leaf, Ref) else leaf

    for call in graph.calls:
        known[call.source] = flatten(apply(call, map_nest(filled, call.args), map_nest(filled, call.kwargs)))
    return map_nest(filled, graph.outputs)


def is_sequential(model: Any) -> bool:
    """Whether `model`, of either Keras, is a Sequential."""
    return isinstance(model, keras.Sequential) or (keras3() is not None and isinstance(model, keras3().Sequential))


# Keras 3: its configs are public, its nodes are not.


def read_keras3(model: Any) -> Graph:
    """The calls of a built Keras 3 Sequential or functional model; a nested model is one call.

    Raises:
        ValueError: if its config does not tell the whole graph.
    """
    if is_sequential(model):
        layers = [layer for layer in model.layers if not isinstance(layer, keras3().layers.InputLayer)]
        calls = tuple(Call(i + 1, layer, (Ref(i),), {}) for i, layer in enumerate(layers))
        return Graph(_specs(model, ["input_layer"]), Ref(0), calls, Ref(len(layers)))
    config = _functional_config(model)
    operations = {operation.name: operation for operation in model.operations}
    waiting = []
    for data in config["layers"]:
        operation = operations[data["name"]]
        for index, node in enumerate(data["inbound_nodes"]):
            kwargs = {key: value for key, value in decode(node["kwargs"]).items() if value is not None}
            # Defaults are recorded too, and the model's own `training` overrides it; in tf-keras it would stay.
            kwargs.pop("training", None)
            waiting.append(Call((data["name"], index), operation, _positional(operation, decode(node["args"])), kwargs))
    known: set[Hashable] = {(data["name"], 0) for data in config["layers"] if not data["inbound_nodes"]}

    def ref(history: tuple[str, int, int]) -> Ref:
        # Here, and not in the arguments of calls, a nested functional model counts its own inside as node 0.
        operation = operations[history[0]]
        nested = isinstance(operation, keras3().Model) and not is_sequential(operation)
        return Ref((history[0], history[1] - nested), history[2])

    inputs, outputs = (_map_histories(ref, config[key]) for key in ("input_layers", "output_layers"))
    specs = _specs(model, [leaf.source[0] for leaf in flatten(inputs)])
    return Graph(specs, inputs, _in_order(waiting, known, model.name), outputs)


def _specs(model: Any, names: list[str]) -> tuple[InputSpec, ...]:
    return tuple(InputSpec(name, tuple(t.shape), str(t.dtype)) for t, name in zip(model.inputs, names, strict=True))


def _functional_config(model: Any) -> dict[str, Any]:
    try:
        config = model.get_config()
    except NotImplementedError:
        config = {}
    if "input_layers" not in config:
        # A subclass that hands inputs and outputs to Model's constructor; by itself it writes just its own arguments.
        config = keras3().Model(model.input, model.output, name=model.name).get_config()
    return config


def _positional(operation: Any, args: Any) -> tuple[Any, ...]:
    # Configs keep the index of x[:, 0] as a list, which would mean another thing.
    if type(operation).__name__ == "GetItem" and len(args) == 2 and isinstance(args[1], list):
        return (args[0], tuple(args[1]))
    return tuple(args)


def _in_order(waiting: list[Call], known: set[Hashable], name: str) -> tuple[Call, ...]:
    """The calls, each after those whose tensors it takes; a config has all calls of a shared layer in one place."""
    ordered: list[Call] = []
    while waiting:
        left = []
        for call in waiting:
            if all(leaf.source in known for leaf in flatten([call.args, call.kwargs]) if isinstance(leaf, Ref)):
                ordered.append(call)
                known.add(call.source)
            else:
                left.append(call)
        if len(left) == len(waiting):
            raise ValueError(
                f"Expected the config of the Keras 3 model {name!r} to tell its whole graph. The inputs of "
                f"{left[0].operation.name!r} are missing in it. Rebuild the model from keras.Input with layers and "
                "keras.ops only."
            )
        waiting = left
    return tuple(ordered)


def _map_histories(function: Callable[[Any], Any], nest: Any) -> Any:
    if isinstance(nest, (list, tuple)) and len(nest) == 3 and isinstance(nest[0], str):
        return function(tuple(nest))
    if isinstance(nest, dict):
        return {key: _map_histories(function, value) for key, value in nest.items()}
    return [_map_histories(function, value) for value in nest]


def decode(value: Any) -> Any:
    """Arguments of a call out of a Keras 3 config: Refs for tensors, arrays, slices, plain values."""
    if isinstance(value, (list, tuple)):
        return type(value)(decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind, config = value.get("class_name"), value.get("config", {})
    if kind == "__keras_tensor__":
        name, node, index = config["keras_history"]
        return Ref((name, node), index)
    if kind in ("__tensor__", "__numpy__"):
        return np.array(config["value"], "float32" if config["dtype"] == "bfloat16" else config["dtype"])
    if kind == "__slice__":
        return slice(*(decode(config[name]) for name in ("start", "stop", "step")))
    if kind == "__ellipsis__":
        return ...
    return {key: decode(item) for key, item in value.items()}


# tf-keras.


def read_tf_keras(model: Any) -> Graph:
    """The calls of a built tf-keras Sequential or functional model; a nested model is one call."""
    from keras_esq.quantize.graph import ordered_nodes  # quantize itself imports this package

    refs = {id(t): Ref(f"input {i}") for i, t in enumerate(model.inputs)}
    calls = []
    for number, (layer, node) in enumerate(ordered_nodes(model)):
        args, kwargs = tf.nest.map_structure(lambda a: refs.get(id(a), a), (node.call_args, node.call_kwargs))
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        calls.append(Call(number, layer, tuple(args), kwargs))
        refs.update({id(t): Ref(number, i) for i, t in enumerate(tf.nest.flatten(node.outputs))})
    specs = tuple(
        InputSpec(name, tuple(t.shape), t.dtype.name) for t, name in zip(model.inputs, model.input_names, strict=True)
    )
    inputs, outputs = tf.nest.map_structure(lambda t: refs[id(t)], (model.input, model.output))
    return Graph(specs, inputs, tuple(calls), outputs)
