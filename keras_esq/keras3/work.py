"""One translation of one model, in either direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_esq.keras3.graph import Call, Graph, flatten, is_sequential, map_nest, run
from keras_esq.keras3.settings import Translator
from keras_esq.keras3.weights import copy_weights


class Work:
    """What was made for which layer of a model, so that shared layers and models stay shared.

    Args:
        translator: makes layers out of configs.
        read: the graph of a model; raises for one that has none.
        special: {class name: function of the layer that returns its counterpart with its weights}.
        composed: {class name: function of the layer that returns a function of tensors over there}.
        packages: where the source's own classes come from, up to the first dot.
    """

    def __init__(
        self,
        translator: Translator,
        read: Callable[[Any], Graph],
        special: Mapping[str, Callable[[Any], Any]],
        composed: Mapping[str, Callable[[Any], Any]],
        packages: tuple[str, ...],
    ) -> None:
        self.translator, self.read = translator, read
        self.special, self.composed, self.packages = special, composed, packages
        self.model_class, self.target = translator.source.Model, translator.target
        self.made: dict[int, Any] = {}  # id of a layer, operation or model -> its counterpart
        self.pairs: list[tuple[Any, Any]] = []  # layers and models, outer ones before those inside
        self.custom: set[int] = set()
        self.special_made: set[int] = set()

    def model(self, model: Any) -> Any:
        """The counterpart of a model, without weights yet."""
        graph = self.read(model)
        self._check_layers(model)
        number = len(self.pairs)
        inputs = [
            self.target.Input(shape=s.shape[1:], batch_size=s.shape[0], dtype=s.dtype, name=s.name) for s in graph.specs
        ]
        parts = [self._of(call.operation) for call in graph.calls] if is_sequential(model) else []
        if is_sequential(model) and all(isinstance(part, self.target.layers.Layer) for part in parts):
            made = self.target.Sequential([*inputs, *parts], name=model.name)
        else:
            outputs = run(graph, inputs, self._apply)
            named = dict(zip(flatten(graph.inputs), inputs, strict=True))
            made = self.target.Model(map_nest(named.__getitem__, graph.inputs), outputs, name=model.name)
        self.pairs.insert(number, (model, made))
        return made

    def counterpart(self, operation: Any) -> Callable[..., Any] | None:
        """What was made for a layer or operation; None for a model, which is looked into."""
        return None if self._is_model(operation) else self.made[id(operation)]

    def finish(self) -> None:
        """Copy flags and weights."""
        for source, made in self.pairs:
            made.trainable = self.is_trainable(source)
        for source, made in self.pairs:
            if not self._is_model(source) and id(source) not in self.special_made:
                copy_weights(source, made, self.translator.there, named=id(source) not in self.custom)

    def is_trainable(self, source: Any) -> bool:
        """The flag of the counterpart of a layer or model."""
        return bool(source.trainable)

    def operation(self, operation: Any) -> Callable[..., Any] | None:
        """The counterpart of what is called but has no entry among the layers; None if there is none."""
        return None

    def _is_model(self, operation: Any) -> bool:
        return isinstance(operation, self.model_class) and id(operation) not in self.custom

    def _apply(self, call: Call, args: Any, kwargs: Any) -> Any:
        counterpart = self._of(call.operation)
        try:
            return counterpart(*args, **kwargs)
        except (TypeError, ValueError, AttributeError, NotImplementedError, tf.errors.OpError) as error:
            kind = type(call.operation).__name__
            reason = next(iter(str(error).strip().splitlines()), "")
            raise ValueError(
                f"Expected calls that {self.translator.there} can make too. That of {call.operation.name!r} ({kind}) "
                f"failed there: {type(error).__name__}: {reason} {self.translator.advice(kind)}"
            ) from error

    def _of(self, operation: Any) -> Any:
        if id(operation) not in self.made:
            self.made[id(operation)] = self._make(operation)
        return self.made[id(operation)]

    def _make(self, operation: Any) -> Any:
        name = type(operation).__name__
        if self.translator.has_custom(name):
            self.custom.add(id(operation))
            made = self.translator.of_custom(name, operation.get_config())
            self.pairs.append((operation, made))
            return made
        if isinstance(operation, self.model_class):
            return self.model(operation)
        function = self.composed[name](operation) if name in self.composed else self.operation(operation)
        if function is not None:
            return function
        if name in self.special:
            made = self.special[name](operation)
            self.special_made.add(id(operation))
        else:
            made = self.translator.make("layers", name, operation.get_config())
        self.pairs.append((operation, made))
        return made

    def _check_layers(self, model: Any) -> None:
        """All layers of a user's own, at once."""
        own = {
            type(layer).__name__: layer.name
            for layer in model.layers
            if type(layer).__module__.split(".")[0] not in self.packages
            and not isinstance(layer, self.model_class)
            and not self.translator.has_custom(type(layer).__name__)
        }
        if own:
            shown = ", ".join(f"{layer!r} ({cls})" for cls, layer in own.items())
            raise ValueError(
                f"Expected only layers of {self.translator.here} itself in {model.name!r}. Received layers of other "
                f"classes: {shown}. {self.translator.advice(next(iter(own)))}"
            )
