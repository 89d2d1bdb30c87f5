"""What the last layer of a network means for the loss and the metrics."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_esq._keras import keras
from keras_esq.attacks.logits import head_kind
from keras_esq.quantize.graph import all_calls

_LOSSES = {
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
}
_ACCURACIES = ("accuracy", "acc", "binary_accuracy")


def trace_head(network: Any) -> tuple[str, int]:
    """What the network ends in ("softmax", "sigmoid", "logits") and its number of output units.

    For a functional model only the last layer is traced: a large network takes seconds.
    """
    found: list[tuple[str, int]] = []

    def record(outputs: Any) -> Any:
        found.append((head_kind(outputs), int(outputs.shape[-1])))
        return outputs

    if not getattr(network, "outputs", None):
        specs = tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), network.save_spec()[0][0])
        tf.function(lambda x: record(network(x, training=False))).get_concrete_function(specs)
        return found[0]
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
        return record(layer(*args, **kwargs))

    specs = [tf.TensorSpec(arguments[i].shape, arguments[i].dtype) for i in tensors]
    tf.function(last).get_concrete_function(*specs)
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

    Raises:
        ValueError: for a loss object whose `from_logits` contradicts the network's last layer.
    """
    logits = head == "logits"
    if isinstance(loss, str) and loss in _LOSSES:
        return _LOSSES[loss](from_logits=logits)
    if isinstance(loss, keras.losses.Loss):
        from_logits = loss.get_config().get("from_logits")
        if from_logits is not None and bool(from_logits) != logits:
            ends = "logits" if logits else f"a {head}"
            raise ValueError(
                f"Expected a loss with from_logits={logits}, because the network ends in {ends}. Received "
                f"{type(loss).__name__}(from_logits={from_logits}). Change it, or pass the loss by its name."
            )
    return loss


def metrics_for_head(metrics: Any, head: str, units: int) -> Any:
    """Metrics, with the accuracy of a single logit at its threshold 0, where Keras would take 0.5."""
    if head != "logits" or units != 1 or not isinstance(metrics, (list, tuple)):
        return metrics
    return [
        keras.metrics.BinaryAccuracy("accuracy" if m == "acc" else m, threshold=0.0)
        if isinstance(m, str) and m in _ACCURACIES
        else m
        for m in metrics
    ]
