"""What the last layer of a network means for the loss and the metrics."""

from __future__ import annotations

import inspect
from typing import Any

import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.attacks.logits import head_kind, input_shape_of
from keras_esq.quantize.graph import all_calls

# What Keras' names of functions stand for; those of classes it resolves itself.
_LOSSES = {
    keras.losses.sparse_categorical_crossentropy: keras.losses.SparseCategoricalCrossentropy,
    keras.losses.categorical_crossentropy: keras.losses.CategoricalCrossentropy,
    keras.losses.categorical_focal_crossentropy: keras.losses.CategoricalFocalCrossentropy,
    keras.losses.binary_crossentropy: keras.losses.BinaryCrossentropy,
    keras.losses.binary_focal_crossentropy: keras.losses.BinaryFocalCrossentropy,
    keras.losses.kl_divergence: keras.losses.KLDivergence,
    keras.losses.poisson: keras.losses.Poisson,
}
# Losses of probabilities alone.
_OF_PROBABILITIES = (keras.losses.KLDivergence, keras.losses.Poisson)
_ACCURACIES = ("accuracy", "acc", "binary_accuracy")


def trace_head(network: Any) -> tuple[str, int]:
    """What the network ends in ("softmax", "sigmoid", "logits") and its number of output units.

    For a functional model only the last layer is traced, as a large network takes seconds, unless that layer only hands
    on what it gets: then the head is before it.
    """
    if not getattr(network, "outputs", None):
        return _traced(lambda x: network(x, training=False), input_spec(network))
    if len(network.outputs) != 1:
        raise ValueError(
            f"Expected a classifier with one output (n, classes). Received {network.name!r} with "
            f"{len(network.outputs)} outputs. Train keras.Model(model.inputs, model.outputs[i])."
        )
    calls = list(all_calls(network))
    if not calls:
        raise ValueError(f"Expected a network with at least one layer. Received {network.name!r}, which has none.")
    layer, node = calls[-1]
    arguments = tf.nest.flatten((node.call_args, node.call_kwargs))
    tensors = [i for i, a in enumerate(arguments) if tf.is_tensor(a) and keras.backend.is_keras_tensor(a)]

    def last(*inputs: Any) -> Any:
        filled = list(arguments)
        for i, value in zip(tensors, inputs, strict=True):
            filled[i] = value
        args, kwargs = tf.nest.pack_sequence_as((node.call_args, node.call_kwargs), filled)
        return layer(*args, **kwargs)

    specs = [tf.TensorSpec(arguments[i].shape, arguments[i].dtype) for i in tensors]
    head, units = _traced(last, *specs)
    if head == "logits" and all(spec.dtype.is_floating for spec in specs):
        # Reshape, Flatten, Dropout, a linear Activation, ...: behind it a sigmoid would still be seen.
        seen, _ = _traced(lambda *inputs: last(*map(tf.sigmoid, inputs)), *specs)
        if seen == "sigmoid":
            inputs = [tf.TensorSpec(t.shape, t.dtype) for t in network.inputs]
            return _traced(lambda *x: network(x[0] if len(x) == 1 else x, training=False), *inputs)
    return head, units


def input_spec(network: Any) -> Any:
    """What a network with one input takes, a tf.TensorSpec: as declared, or as it was called first, or built.

    Raises:
        ValueError: for several inputs, and for a subclassed model of which that is not known.
    """
    called, built = network.save_spec(), network.get_build_config()
    shape = input_shape_of(network) or (built or {}).get("input_shape")
    if called is not None:
        spec = called[0][0]
        if not isinstance(spec, tf.TensorSpec):
            raise ValueError(f"Expected a model with one input. Received {network.name!r}, called with {spec}.")
        return tf.TensorSpec(shape or spec.shape, spec.dtype)
    if not shape:
        raise ValueError(
            f"Expected a network whose input shape is known. Received {network.name!r}, a subclassed model that was "
            "never called. Call it once on data: model(x[:1])."
        )
    return tf.TensorSpec(shape, keras.backend.floatx())


def _traced(function: Any, *specs: Any) -> tuple[str, int]:
    """Kind and number of the outputs that `function` has for inputs of `specs`."""
    found: list[tuple[str, int]] = []

    def record(*inputs: Any) -> Any:
        outputs = function(*inputs)
        found.append((head_kind(outputs), int(outputs.shape[-1])))
        return outputs

    tf.function(record).get_concrete_function(*specs)
    return found[0]


def apply_head(head: str, logits: Any) -> Any:
    """The network's output again, from its logits; Keras' losses look behind it for the logits."""
    if head == "softmax":
        return keras.activations.softmax(logits)
    if head == "sigmoid":
        return keras.activations.sigmoid(logits)
    return logits


def loss_for_head(loss: Any, head: str) -> Any:
    """A loss named by a string, as an object that knows whether it gets logits; others are checked.

    Args:
        loss: as `compile` takes it: any of Keras' names, one of its functions or classes, an object, a function of
            your own; or a list of one, or a dict, of these.
        head: what the network ends in, as `trace_head` says.

    Raises:
        ValueError: for an unknown name, and for a loss object, or a function of your own, whose `from_logits`
            contradicts the network's last layer, or that takes probabilities only where it ends in logits.
    """
    if isinstance(loss, list | tuple) and len(loss) == 1:
        return loss_for_head(loss[0], head)
    if isinstance(loss, dict):
        return {name: loss_for_head(one, head) for name, one in loss.items()}
    logits = head == "logits"
    named = isinstance(loss, str)
    loss = keras.losses.get(loss) if named else loss
    if inspect.isfunction(loss) and loss in _LOSSES:
        loss = _LOSSES[loss]
    if isinstance(loss, type) and issubclass(loss, keras.losses.Loss):
        loss, named = loss(), True
    if logits and isinstance(loss, _OF_PROBABILITIES):
        raise ValueError(
            f"Expected a loss that takes logits, in which the network ends. Received {type(loss).__name__}, which "
            "takes probabilities only. End the network in a softmax, or use a cross-entropy."
        )
    if isinstance(loss, keras.losses.Loss):
        config = loss.get_config()
        from_logits = config.get("from_logits")
        if named and from_logits is not None:
            return type(loss).from_config({**config, "from_logits": logits})
        name = type(loss).__name__
    else:
        from_logits, name = _default_from_logits(loss), getattr(loss, "__name__", repr(loss))
    if from_logits is not None and bool(from_logits) != logits:
        ends = "logits" if logits else f"a {head}"
        raise ValueError(
            f"Expected a loss with from_logits={logits}, because the network ends in {ends}. Received "
            f"{name}(from_logits={from_logits}). Change it, or pass one of Keras' losses by its name."
        )
    return loss


def _default_from_logits(function: Any) -> Any:
    """The default of a function's argument `from_logits`; None without one."""
    if not inspect.isfunction(function):
        return None
    argument = inspect.signature(function).parameters.get("from_logits")
    return None if argument is None or argument.default is argument.empty else argument.default


def metrics_for_head(metrics: Any, head: str, units: int) -> Any:
    """Metrics, with the accuracy of a single logit at its threshold 0, where Keras would take 0.5."""
    if head != "logits" or units != 1:
        return metrics
    if isinstance(metrics, dict):  # {name of the output: metrics}
        return {name: metrics_for_head(some, head, units) for name, some in metrics.items()}
    if isinstance(metrics, list | tuple):
        return [metrics_for_head(one, head, units) for one in metrics]
    if isinstance(metrics, str) and metrics in _ACCURACIES:
        return keras.metrics.BinaryAccuracy("accuracy" if metrics == "acc" else metrics, threshold=0.0)
    return metrics
