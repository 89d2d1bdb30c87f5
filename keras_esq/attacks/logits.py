"""The logits of any classifier, whatever its last layer: attacks and pairing work on them.

Softmax and sigmoid saturate: where they round to 0 or 1 the gradient is exactly 0 and an attack through them fails
without the model being robust. So the path from the output tensor is followed back to their input. Op types exist
only in graphs, therefore everything here is traced.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.quantize.graph import unwrap

Head = Literal["softmax", "sigmoid", "logits"]
LogitsFn = Callable[[tf.Tensor], tf.Tensor]

_HEADS: dict[str, Head] = {"Softmax": "softmax", "Sigmoid": "sigmoid", "LogSoftmax": "logits"}
# Ops that hand on the values of their first input in the same order. A fake quantizer behind the softmax rounds the
# probabilities, not the logits.
_TRANSPARENT = frozenset(
    {
        *("Identity", "Cast", "Reshape", "Squeeze", "ExpandDims", "EnsureShape", "CheckNumerics", "Snapshot"),
        *("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVarsPerChannel"),
    }
)


def _check_output(outputs: Any) -> None:
    if not tf.is_tensor(outputs):
        raise ValueError(
            f"Expected a model with one output tensor of shape (n, classes). Received a {type(outputs).__name__} of "
            "outputs. Wrap the one to use: keras.Model(model.inputs, model.outputs[0])."
        )
    if outputs.shape.rank != 2 or outputs.shape[-1] is None:
        raise ValueError(
            f"Expected a model output of shape (n, classes). Received shape {tuple(outputs.shape)}. "
            "Only classifiers can be attacked: pool or flatten the output to one score per class."
        )


def _find_head(outputs: tf.Tensor) -> tuple[Head, tf.Tensor]:
    _check_output(outputs)
    if not hasattr(outputs, "graph"):
        raise ValueError(
            "Expected an output traced in a tf.function, where its operations can be seen. Received an eager tensor. "
            "Use logits_fn(model), or call this inside a tf.function."
        )
    tensor = outputs
    while tensor.op.type in _TRANSPARENT:
        tensor = tensor.op.inputs[0]
    head = _HEADS.get(tensor.op.type)
    # Softmax over another axis than the classes (maps, attention) is no head.
    if head is None or tensor.shape.rank is None or tensor.shape[-1] != outputs.shape[-1]:
        return "logits", outputs
    if head == "softmax" and outputs.shape[-1] == 1:
        raise ValueError(
            "Expected a softmax over two or more classes. Received a softmax over 1 unit, which is 1 for every input. "
            "Use one sigmoid unit or two softmax units for two classes."
        )
    logits = tensor.op.inputs[0]
    return head, logits if logits.shape.rank == 2 else tf.reshape(logits, (-1, outputs.shape[-1]))


def head_kind(outputs: tf.Tensor) -> Head:
    """What the model ends in: "softmax", "sigmoid" or "logits" (log-softmax counts as logits, which it is).

    Args:
        outputs: the model's output (n, classes), traced in a tf.function.

    Raises:
        ValueError: for several outputs, another rank than 2, an eager tensor, or a softmax over a single unit.
    """
    return _find_head(outputs)[0]


def logits_of(outputs: tf.Tensor) -> tf.Tensor:
    """The logits (n, classes), float32, behind a classifier's output.

    Follows `outputs` back over casts, reshapes and fake quantizers to a softmax or sigmoid and takes its input;
    without one the outputs are the logits. A softmax inside a called tf.function (a loaded SavedModel) is not seen.

    Args and Raises: as for `head_kind`.
    """
    return tf.cast(_find_head(outputs)[1], tf.float32)


def class_logits(logits: tf.Tensor) -> tf.Tensor:
    """One logit per class: the single logit z (n, 1) of a two-class model becomes [0, z]; others stay as they are."""
    if logits.shape[-1] == 1:
        return tf.concat([tf.zeros_like(logits), logits], axis=-1)
    return logits


class _Cache:
    """The entries of a model. tf.Module opens dicts and fails at such keys: `model.submodules`. Copies are empty."""

    def __init__(self) -> None:
        self.entries: dict[Hashable, Any] = {}

    def __reduce__(self) -> tuple[type[_Cache], tuple[()]]:
        return _Cache, ()  # for copy and pickle: what is compiled belongs to the one model


def cached_on(model: keras.Model, key: Hashable, build: Callable[[], Any]) -> Any:
    """What `build()` made for `key` and this model, made once and kept on the model, so that it dies with it.

    The entry goes through `vars`: Keras tracks and saves what is set as an attribute. A model whose layers were
    added or removed since gets a new entry.
    """
    cache = vars(model).setdefault("_keras_esq_cache", _Cache()).entries
    full_key = (key, tuple(id(layer) for layer in unwrap(model).layers))
    if full_key not in cache:
        cache[full_key] = build()
    return cache[full_key]


def logits_fn(model: keras.Model) -> LogitsFn:
    """A function x (n, ...) -> class logits (n, classes), float32, of `model` in inference mode.

    Inside a tf.function it is traced into it; called eagerly it runs compiled. Gradients pass through it.

    Args:
        model: any tf_keras.Model with one input and one output (n, classes): logits, softmax or sigmoid.

    Raises:
        TypeError: if `model` is not a tf_keras model.
        ValueError: at the call, if the output is not one tensor of shape (n, classes).
    """
    check_model(model)

    def traced(x: tf.Tensor) -> tf.Tensor:
        return class_logits(logits_of(model(x, training=False)))

    def call(x: tf.Tensor) -> tf.Tensor:
        if tf.inside_function():
            return traced(x)
        x = tf.convert_to_tensor(x)
        # A concrete function: TensorFlow warns of retracing where one tf.function after the other is only new.
        spec = tf.TensorSpec((None, *x.shape[1:]), x.dtype)
        build = tf.function(traced).get_concrete_function
        return cached_on(model, ("logits_fn", tuple(x.shape[1:]), x.dtype.name), lambda: build(spec))(x)

    return call


def has_bare_unit(model: keras.Model, x: np.ndarray) -> bool:
    """Whether `model` ends in a single unit that is taken for a logit, as no sigmoid is seen; `x` as of `logits_fn`."""
    spec = tf.TensorSpec((None, *x.shape[1:]), tf.float32)

    def build() -> bool:
        seen = []

        def traced(x: tf.Tensor) -> None:
            outputs = model(x, training=False)
            seen.append(head_kind(outputs) == "logits" and outputs.shape[-1] == 1)

        tf.function(traced).get_concrete_function(spec)
        return seen[0]

    return cached_on(model, ("has_bare_unit", tuple(x.shape[1:])), build)


def check_model(model: Any) -> keras.Model:
    """Return `model` if it is a tf_keras.Model, else raise a TypeError that says what is accepted."""
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        raise TypeError(
            f"Expected a tf_keras.Model (Keras 2: Sequential, functional, subclassed or ErrorSilencedModel). "
            f"Received: {kind}. Translate a Keras 3 model: esq.from_keras3(model)."
        )
    return model


def input_shape_of(model: keras.Model) -> tuple[int | None, ...] | None:
    """Shape of the model's input with the batch axis first; None if the model does not know it (subclassed, unbuilt).

    Raises:
        ValueError: if the model takes several inputs.
    """
    try:
        shape = unwrap(model).input_shape
    except (AttributeError, RuntimeError):  # Keras' way to say that there is none
        return None
    if not isinstance(shape, tuple) or (shape and isinstance(shape[0], tuple)):
        raise ValueError(f"Expected a model with one input. Received a model with inputs of shapes {shape}.")
    return shape
