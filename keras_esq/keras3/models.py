"""Keras 3 models in tf-keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.keras3 import operations, rules
from keras_esq.keras3.detect import keras3
from keras_esq.keras3.graph import Graph, is_sequential, read_keras3
from keras_esq.keras3.proof import prove
from keras_esq.keras3.settings import Translator
from keras_esq.keras3.work import Work

EXAMPLE = "esq.quantize_model(esq.from_keras3(model, custom_objects={}), ...)"


def to_tf_keras(custom_objects: Any = None, example: str = EXAMPLE) -> Translator:
    """The translator from Keras 3 to tf-keras."""
    return Translator(keras3(), keras, rules.TO_TF, rules.TO_TF_ACTIVATIONS, custom_objects, example)


def translate_model(model: Any, custom_objects: Any = None, example: str = EXAMPLE) -> Any:
    """The tf-keras model with the structure, names, settings and weights of a Keras 3 model, proven equal."""
    work = _FromKeras3(to_tf_keras(custom_objects, example), _read, rules.SPECIAL, rules.COMPOSED, ("keras",))
    target = work.model(model)
    work.finish()
    prove(model, target, read_keras3, work.counterpart, tf.convert_to_tensor, "tf-keras")
    return target


class _FromKeras3(Work):
    def is_trainable(self, source: Any) -> bool:
        """In Keras 3, unlike in tf-keras, layers that were unfrozen inside of a frozen model train."""
        inside = self._is_model(source) and source is not self.pairs[0][0]
        return super().is_trainable(source) or (inside and any(weight.trainable for weight in source.weights))

    def operation(self, operation: Any) -> Callable[..., Any] | None:
        """The counterpart of a keras.ops operation; None for layers."""
        if isinstance(operation, keras3().layers.Layer):
            return None
        function = operations.counterpart(operation)
        if function is None:
            name = type(operation).__name__
            raise ValueError(
                f"Expected operations that can be translated to tf-keras. Received {operation.name!r}, the keras.ops "
                f"operation {name}. Put it into a layer of your own, and name that layer's tf-keras counterpart in "
                f"custom_objects=. Known operations: {', '.join(sorted(operations.OPERATIONS))}."
            )
        return function


def _read(model: Any) -> Graph:
    """The graph of a Sequential or functional model that is built.

    Raises:
        TypeError: if its layers can't be read off.
        ValueError: if it is not built.
    """
    if getattr(model, "inputs", None):
        return read_keras3(model)
    if is_sequential(model):
        raise ValueError(
            f"Expected a built model. Received the Keras 3 model {model.name!r}, whose input shape is not known yet. "
            "Start it with keras.Input(shape), or call model.build((None, height, width, channels)) first."
        )
    name = type(model).__name__
    raise TypeError(
        f"Expected a Sequential or functional model. Received the Keras 3 model {model.name!r}, a subclassed one "
        f"({name}), whose layers can't be read off. Rebuild it as a functional model: x = keras.Input(shape); model = "
        "keras.Model(x, model.call(x)). Inside of another model, write its tf-keras counterpart and name it in "
        f"custom_objects=: {EXAMPLE.format(f'{{{name!r}: My{name}}}')}."
    )
