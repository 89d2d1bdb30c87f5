"""Rebuild a Keras model layer by layer, with nested models made flat."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.quantize.pruning import unpruned

MakeLayer = Callable[[Any, str], Any]


def unwrap(model: Any) -> Any:
    """The network inside an ErrorSilencedModel; else the model itself.

    The class says of itself that it `is_its_network`. Other models that keep one in `network` may do more with their
    inputs, such as scaling them, which would be lost.
    """
    return model.network if getattr(model, "is_its_network", False) else model


def walk_layers(model: Any) -> Iterator[Any]:
    """All layers of `model`, those of nested models included, each once."""
    seen: set[int] = set()
    stack = [unwrap(model)]
    while stack:
        layer = stack.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if isinstance(layer, keras.Model):
            stack.extend(reversed(layer.layers))
        else:
            yield layer


def check_network(model: Any, verb: str) -> Any:
    """`model`, unwrapped, if it is a built Sequential or functional tf-keras model; without tfmot's pruning wrappers.

    Raises:
        TypeError: if it is anything else, with what to do.
        ValueError: if it is not built.
    """
    model = unwrap(model)
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        if kind.startswith("keras."):
            raise TypeError(
                f"Expected a tf-keras (Keras 2) model to {verb}. Received the Keras 3 model {kind}. "
                "Translate it: esq.from_keras3(model)."
            )
        raise TypeError(f"Expected a tf_keras.Model to {verb}. Received an object of type {kind}.")
    if getattr(model, "outputs", None):
        return unpruned(model)
    if isinstance(model, keras.Sequential):
        raise ValueError(
            f"Expected a built model to {verb}. Received {model.name!r}, whose input shape is not known yet. "
            "Start it with keras.Input(shape), or call model.build((None, height, width, channels)) first."
        )
    raise TypeError(
        f"Expected a Sequential or functional model to {verb}. Received {model.name!r}, a subclassed model "
        f"({type(model).__name__}), whose layers can't be read off. Rebuild it as a functional model: "
        "x = keras.Input(shape); model = keras.Model(x, model.call(x))."
    )


def ordered_nodes(model: Any) -> list[tuple[Any, Any]]:
    """The calls that lead from the inputs of a functional model to its outputs: (layer, node) in order of execution.

    A nested model is one call. Calls of the same layers that belong to other models are left out.
    """
    producer = {
        id(tensor): (layer, node)
        for layer in model.layers
        for node in layer.inbound_nodes
        for tensor in tf.nest.flatten(node.outputs)
    }
    known = set(map(id, model.inputs))
    ordered = []
    # An explicit stack: ResNet-152 is deeper than Python's recursion limit.
    stack = list(reversed(model.outputs))
    while stack:
        tensor = stack[-1]
        if id(tensor) in known:
            stack.pop()
            continue
        layer, node = producer[id(tensor)]
        arguments = tf.nest.flatten([node.call_args, node.call_kwargs])
        missing = [a for a in arguments if id(a) in producer and id(a) not in known]
        if missing:
            stack.extend(reversed(missing))
            continue
        ordered.append((layer, node))
        known.update(map(id, tf.nest.flatten(node.outputs)))
    return ordered


def all_calls(model: Any) -> Iterator[tuple[Any, Any]]:
    """`ordered_nodes`, with the calls inside nested models in place of the calls of these models."""
    for layer, node in ordered_nodes(model):
        if isinstance(layer, keras.Model):
            yield from all_calls(check_network(layer, "take apart"))
        else:
            yield layer, node


def rebuild(model: Any, make_layer: MakeLayer) -> Any:
    """A flat functional model with the structure of `model`, made of the layers that `make_layer` returns.

    Args:
        model: a built Sequential or functional model; nested models are dissolved into it.
        make_layer: called once for each layer with (layer, unique name); returns the new layer, not yet called. A
            layer that is used several times is made once and used as often.

    Returns:
        The new functional model. Weights are not copied.
    """
    inputs = [
        keras.Input(shape=t.shape[1:], batch_size=t.shape[0], dtype=t.dtype, name=name)
        for t, name in zip(model.inputs, model.input_names, strict=True)
    ]
    builder = _Builder(make_layer, taken={t.node.layer.name for t in inputs})
    outputs = builder.run(model, inputs, prefix="")
    # Inputs and outputs may be dicts or nested lists, which are part of what the model is.
    ends = (tf.nest.pack_sequence_as(old, new) for old, new in ((model.input, inputs), (model.output, outputs)))
    return keras.Model(*ends, name=model.name)


class _Builder:
    """Walks the nodes of a model and calls the new layers on the new tensors."""

    def __init__(self, make_layer: MakeLayer, taken: set[str]) -> None:
        self.make_layer = make_layer
        self.taken = taken
        self.made: dict[int, Any] = {}

    def run(self, model: Any, inputs: list[Any], prefix: str, training: Any = None) -> list[Any]:
        """The outputs of `model` on new symbolic `inputs`; `training` is the mode that it was called in, if any."""
        new = dict(zip(map(id, model.inputs), inputs, strict=True))
        for layer, node in ordered_nodes(model):
            args, kwargs = tf.nest.map_structure(lambda a: new.get(id(a), a), (node.call_args, node.call_kwargs))
            if training is not None and kwargs.get("training") is None and _takes_mode(layer, args):
                kwargs = {**kwargs, "training": training}
            outputs = self._call(layer, args, kwargs, prefix)
            new.update(zip(map(id, tf.nest.flatten(node.outputs)), outputs, strict=True))
        return [new[id(t)] for t in model.outputs]

    def _call(self, layer: Any, args: Any, kwargs: Any, prefix: str) -> list[Any]:
        if isinstance(layer, keras.Model):
            check_network(layer, "take apart")
            inputs, *positional = args
            training = positional[0] if positional else kwargs.get("training")
            return self.run(layer, tf.nest.flatten(inputs), f"{prefix}{layer.name}_", training)
        if id(layer) not in self.made:
            self.made[id(layer)] = self.make_layer(layer, self._unique(layer.name, prefix))
        return tf.nest.flatten(self.made[id(layer)](*args, **kwargs))

    def _unique(self, name: str, prefix: str) -> str:
        """`name`, or where another layer has it already, the name with that of its model before it."""
        candidate, number = name, 0
        while candidate in self.taken:
            candidate = f"{prefix}{name}" + (f"_{number}" if number else "")
            number += 1
        self.taken.add(candidate)
        return candidate


def freeze_alike(old: Any, new: Any) -> None:
    """Freeze the layers inside of the layer `new` that are frozen in `old`, whose copy it is.

    The config of a layer with layers inside may not tell of that, and the order of its weights depends on it.
    """
    if len(old.trainable_weights) != len(new.trainable_weights):
        inside = ([m for m in layer.submodules if isinstance(m, keras.layers.Layer)] for layer in (old, new))
        for original, copy in zip(*inside, strict=True):
            copy.trainable = original.trainable


def _takes_mode(layer: Any, args: Any) -> bool:
    """Whether `layer` can be told by keyword the mode of a call with `args`."""
    signature = inspect.signature(layer.call)
    return "training" in signature.parameters and "training" not in signature.bind_partial(*args).arguments


def clone_layer(layer: Any, name: str, **settings: Any) -> Any:
    """A new layer of the same class and settings, but for those given, without weights.

    Raises:
        ValueError: if its settings can't be read back, with what to do.
    """
    try:
        return type(layer).from_config({**layer.get_config(), "name": name, **settings})
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"Expected layers that can be rebuilt from get_config(). Layer {layer.name!r} ({type(layer).__name__}) "
            f"can't: {error} Give it a get_config() with all arguments of its constructor, and register other custom "
            "objects with keras.saving.register_keras_serializable()."
        ) from error
