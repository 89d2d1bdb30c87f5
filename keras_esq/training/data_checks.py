"""Checks of the images and labels that a training is given: before it for arrays, in the graph for all others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._checks import BOUNDS_TOLERANCE, check_images, check_labels
from keras_esq._keras import keras
from keras_esq.attacks.hidden import check_unit
from keras_esq.attacks.logits import logits_fn

_CHUNK = 4096
# Images whose scores are looked at before a training.
_LOOKED_AT = 16


def label_kind(loss: Any) -> str | None:
    """The form of labels that a loss takes, "ids" or "one-hot"; None if it is not known."""
    if isinstance(loss, dict) and len(loss) == 1:  # {name of the output: loss}
        (loss,) = loss.values()
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return "ids"
    one_hot = (keras.losses.CategoricalCrossentropy, keras.losses.CategoricalFocalCrossentropy)
    return "one-hot" if isinstance(loss, one_hot) else None


def check_label_form(shape: Any, units: int, kind: str | None) -> None:
    """Raise ValueError if labels of `shape` are not in the form that the loss takes."""
    if len(shape) == 2 and shape[-1] is None:
        return  # of a generator: either form
    one_hot = len(shape) == 2 and shape[-1] != 1
    if kind == "ids" and one_hot:
        raise ValueError(
            f"Expected class ids of shape (n,) for the loss sparse_categorical_crossentropy. Received labels of shape "
            f"{tuple(shape)}, which look one-hot. Use loss='categorical_crossentropy', or y.argmax(axis=1)."
        )
    if kind == "one-hot" and (not one_hot or shape[-1] != units):
        raise ValueError(
            f"Expected one-hot labels of shape (n, {units}) for the loss categorical_crossentropy. Received labels of "
            f"shape {tuple(shape)}. Use loss='sparse_categorical_crossentropy' for class ids."
        )


def check_arrays(x: Any, y: Any, bounds: Any, input_shape: Any, units: int, kind: str | None) -> None:
    """Check the arrays given to `fit`, piece by piece to save memory; datasets and generators are left alone."""
    if not isinstance(x, (np.ndarray, tf.Tensor)):
        return
    if len(x.shape) == 0 or x.shape[0] == 0:
        check_images(x, bounds, input_shape)
    for start in range(0, x.shape[0], _CHUNK):
        check_images(x[start : start + _CHUNK], bounds, input_shape)
    if not isinstance(y, (np.ndarray, tf.Tensor)):
        return
    if y.shape[0] != x.shape[0]:
        raise ValueError(f"Expected one label per image, {x.shape[0]} in all. Received {y.shape[0]} labels in y.")
    check_label_form(y.shape, units, kind)
    if len(y.shape) < 2 or y.shape[-1] == 1:
        labels = np.asarray(y)
        if units == 1 and labels.dtype.kind == "f" and ((labels >= 0) & (labels <= 1)).all():
            return  # smoothed ones as well
        check_labels(y, max(units, 2))
    elif not np.isfinite(np.asarray(y, np.float32)).all():
        raise ValueError("Expected finite labels. Received NaN or infinity in y.")


def check_scores(network: Any, x: Any) -> None:
    """Raise ValueError if the one unit of a network hides its sigmoid; a hidden softmax shows in each training step.

    Args:
        network: the trained one.
        x: the images given to `fit`; of datasets and generators no image is drawn.
    """
    if isinstance(x, (np.ndarray, tf.Tensor)):
        some = np.asarray(x[:_LOOKED_AT], np.float32)
        check_unit(network, some, logits_fn(network)(tf.constant(some)).numpy())


def check_batch(
    x: Any, y: Any, bounds: Any, units: int, kind: str | None, input_shape: Callable[[], Any]
) -> tuple[Any, Any]:
    """Float images and class ids (n,), int32, of a batch; the checks become part of the graph.

    Labels given as rows are taken by their largest entry, and those of a network with one unit by the nearest class, so
    that smoothed and mixed ones can be trained on.

    Args:
        x, y, bounds, units, kind: as for `check_arrays`.
        input_shape: says what the network takes; asked for batches that don't tell their shape, as of generators.

    Raises:
        ValueError: for labels that are missing, or in the wrong form for the loss.
        tf.errors.InvalidArgumentError: when the graph runs, for images that are not finite or outside `bounds`, and
            for ids out of range.
    """
    if not tf.is_tensor(x):
        raise ValueError(
            f"Expected batches (x, y) with one image tensor x. Received x of type {type(x).__name__}. Train a model "
            "with a single input."
        )
    if y is None:
        raise ValueError("Expected batches (x, y). Received images without labels. Pass y, or a dataset of pairs.")
    if x.shape.rank is None or None in x.shape[1:]:
        x = _of_shape(x, [None, *input_shape()[1:]])
    x = tf.cast(x, tf.float32)
    finite = tf.reduce_all(tf.math.is_finite(x))
    checks = [tf.debugging.Assert(finite, ["Expected finite images. Received NaN or infinity. Clean the data."])]
    if bounds is not None:
        low, high = bounds
        room = BOUNDS_TOLERANCE * max(1.0, high - low)
        inside = (tf.reduce_min(x) >= low - room) & (tf.reduce_max(x) <= high + room)
        text = (
            f"Expected images inside the bounds ({low:g}, {high:g}) of the attack. Scale them, or set bounds=. "
            "Received values from, to:"
        )
        checks.append(tf.debugging.Assert(~finite | inside, [text, tf.reduce_min(x), tf.reduce_max(x)]))
    y = tf.convert_to_tensor(y)
    if y.shape.rank is not None:
        check_label_form(y.shape, units, kind)
    if y.shape.rank == 2 and y.shape[-1] not in (None, 1):
        ids = tf.argmax(y, axis=1, output_type=tf.int32)
    else:
        if y.shape.rank is None or (y.shape.rank == 2 and y.shape[-1] is None):
            values, right_form = _of_either_form(y, tf.shape(x)[0], units, kind)
            checks.append(right_form)
        else:
            values = tf.reshape(y, [-1])
        values = values if values.dtype.is_floating else tf.cast(values, tf.int32)
        nearest, last = tf.round(values), max(units, 2) - 1
        valid = (values >= 0) & (values <= last)  # not so for NaN
        text = f"Expected class ids from 0 to {last}. Received, lowest and highest:"
        if units > 1 and values.dtype.is_floating:
            valid &= values == nearest
            text = f"Expected class ids, whole numbers from 0 to {last}. Received, lowest and highest:"
        extremes = tf.reduce_min(values), tf.reduce_max(values)
        checks.append(tf.debugging.Assert(tf.reduce_all(valid), [text, *extremes]))
        ids = tf.cast(nearest, tf.int32)
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(x), ids


def _of_shape(x: Any, shape: list[int | None]) -> Any:
    """Images whose shape is known when the graph runs, checked and told that it is `shape`, which the network takes."""
    if not tf.TensorShape(shape).is_compatible_with(x.shape):
        return x  # the network says so itself
    wanted = tf.constant([-1 if size is None else size for size in shape])
    same = tf.raw_ops.Equal(x=tf.shape(x), y=wanted, incompatible_shape_error=False)  # False for another rank
    fits = tf.equal(tf.rank(x), len(shape)) & tf.reduce_all((wanted < 0) | same)
    text = f"Expected images of shape {('n', *shape[1:])}, as the network takes. Received shape:"
    check = tf.debugging.Assert(fits, [text, tf.shape(x)])
    with tf.control_dependencies([op for op in [check] if op is not None]):
        return tf.ensure_shape(tf.identity(x), shape)


def _of_either_form(y: Any, n: Any, units: int, kind: str | None) -> tuple[Any, Any]:
    """Of labels whose shape is known when the graph runs: the ids (n,), of the type of `y`, and a check of the form."""
    columns = tf.maximum(tf.size(y) // tf.maximum(n, 1), 1)  # a replica may get no sample
    rows = tf.reshape(y, [n, columns])
    ids = tf.cond(columns > 1, lambda: tf.cast(tf.argmax(rows, axis=1), rows.dtype), lambda: rows[:, 0])
    if kind is None:
        return ids, None
    loss, wanted = ("sparse_categorical_crossentropy", 1) if kind == "ids" else ("categorical_crossentropy", units)
    text = f"Expected labels of shape (n, {wanted}){' or (n,)' if kind == 'ids' else ''} for the loss {loss}. Received:"
    return ids, tf.debugging.Assert(tf.equal(n, 0) | tf.equal(columns, wanted), [text, tf.shape(y)])


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn a failed check of `check_batch` into a ValueError with its message alone."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        marker = "assertion failed: ["
        text = error.message
        if marker not in text or "Expected " not in text:
            raise
        message = text[text.index("Expected ") :].split("\n")[0]
        raise ValueError(message.replace("]", "", 1).replace(" [", " ")) from error
