"""Arrays as batches: training images in an order that follows from the training's own random numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._datasets import AHEAD, untuned
from keras_esq._keras import keras

# Folded into the seed of a step, where 0 is the partition's and 1 the attack's.
_ORDER = 2
_KERAS_BATCH = 32

Check = Callable[[Any, Any], None]


def fit_batches(
    fit: Any, model: Any, x: Any, y: Any, args: tuple[Any, ...], kwargs: dict[str, Any], check: Check
) -> dict[str, Any]:
    """The arguments of Model.fit, with arrays replaced by the same batches, shuffled ones in a repeatable order.

    Keras shuffles arrays by a generator that starts anew with each process, so that a training which is continued sees
    another order than one that was never interrupted. Here the order of an epoch follows from `model.random_state`,
    which checkpoints keep. Everything but arrays on a single device is left to Keras.

    Args:
        fit: the method whose signature the arguments have.
        model: an ErrorSilencedModel.
        x, y, args, kwargs: as `fit` was called.
        check: called with the images and labels of validation arrays.

    Raises:
        ValueError: for a `validation_split` that is no share, for arrays of different lengths, and for class weights
            that lack a class.
    """
    given = _arguments(fit, x, y, args, kwargs)
    given |= _joined_weights(given)
    size = given["batch_size"]
    if not _is_distributed(model):
        given |= _training_batches(given, model.random_state)
        given |= _validation_batches(given, size, check)
    return given


def evaluate_batches(
    evaluate: Any, model: Any, x: Any, y: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of Model.evaluate, with arrays on a single device replaced by the same batches."""
    given = _arguments(evaluate, x, y, args, kwargs)
    parts = _arrays(x, y, given["sample_weight"])
    if given["steps"] is not None or not parts or _is_distributed(model):
        return given
    return {**given, "x": batches_of(parts, given["batch_size"]), "y": None, "sample_weight": None, "batch_size": None}


def _arguments(method: Any, x: Any, y: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by their names, defaults included."""
    bound = inspect.signature(method).bind(x, y, *args, **kwargs)
    bound.apply_defaults()
    given = dict(bound.arguments)
    others = given.pop("kwargs", {})
    return {**given, **others}


def _joined_weights(given: dict[str, Any]) -> dict[str, Any]:
    """What changes in the arguments of `fit` if arrays have sample and class weights: these are multiplied into those.

    Keras does so batch by batch, and fails where the size of a batch is not known before, as in any dataset.
    """
    class_weight = given["class_weight"]
    parts = _arrays(given["x"], given["y"], given["sample_weight"])
    if class_weight is None or len(parts) != 3:
        return {}
    ids = sorted(class_weight)
    if ids != list(range(len(ids))):
        raise ValueError(f"Expected class_weight {{0: ..., 1: ...}}, one of every class. Received {class_weight}.")
    y, weight = (np.asarray(part) for part in parts[1:])
    # As Keras reads labels.
    y = y.argmax(axis=-1) if y.ndim > 1 and y.shape[-1] > 1 else np.round(y.reshape(-1)).astype(int)
    if len(y) != len(weight):
        return {}  # refused later, with what there is
    # Keras keeps class weights from the validation split, which is the end of the data.
    y = y[: math.floor(len(y) * (1 - _split(given)))]
    if y.size and (y.min() < 0 or y.max() >= len(ids)):
        raise ValueError(
            f"Expected class_weight with every class in y. Received {class_weight}, for classes to {y.max()}."
        )
    joined = weight.astype(keras.backend.floatx())
    factors = np.asarray([class_weight[i] for i in ids], joined.dtype)[y]
    joined[: len(y)] *= factors.reshape(-1, *[1] * (joined.ndim - 1))
    return {"sample_weight": joined, "class_weight": None}


def _split(given: dict[str, Any]) -> float:
    """The share of the data that is kept for validation, 0 if there are other data for it."""
    split = float(given["validation_split"] or 0)
    if not 0 <= split < 1:
        raise ValueError(f"Expected validation_split from 0 to below 1, a share of the data. Received: {split}.")
    return split if given["validation_data"] is None else 0.0


def _training_batches(given: dict[str, Any], random_state: tf.Variable) -> dict[str, Any]:
    """What changes in the arguments of `fit` if they are shuffled arrays."""
    parts = _arrays(given["x"], given["y"], given["sample_weight"])
    if given["steps_per_epoch"] is not None or given["shuffle"] is not True or not parts:
        return {}
    split = _split(given)
    changed: dict[str, Any] = {"y": None, "sample_weight": None, "batch_size": None, "validation_split": 0.0}
    if split:
        # As Keras does it: the last ones, before shuffling.
        at = math.floor(len(parts[0]) * (1 - split))
        changed["validation_data"] = tuple(part[at:] for part in parts)
        parts = [part[:at] for part in parts]
    return {**changed, "x": ordered_batches(parts, given["batch_size"], random_state)}


def _validation_batches(given: dict[str, Any], batch_size: int | None, check: Check) -> dict[str, Any]:
    """What changes in the arguments of `fit` if the validation data are arrays."""
    data = given["validation_data"]
    if given["validation_steps"] is not None or not isinstance(data, tuple | list) or not 2 <= len(data) <= 3:
        return {}
    parts = _arrays(*data)
    if not parts:
        return {}
    check(*parts[:2])
    size = given["validation_batch_size"] or batch_size
    return {"validation_data": batches_of(parts, size), "validation_batch_size": None}


def batches_of(parts: list[Any], batch_size: int | None) -> Any:
    """A tf.data.Dataset of batches of `parts`, arrays (n, ...) that belong together, as they stand."""
    return _gathered(tf.data.Dataset.range(len(parts[0])), parts, batch_size)


def _arrays(x: Any, y: Any, weight: Any = None) -> list[Any]:
    """Images, labels and, if there are any, weights, if they are arrays and not empty; else nothing."""
    if not all(isinstance(part, np.ndarray) or tf.is_tensor(part) for part in (x, y)) or not len(x):
        return []
    return [part if tf.is_tensor(part) else np.asarray(part) for part in (x, y, weight) if part is not None]


def _is_distributed(model: Any) -> bool:
    return isinstance(model.distribute_strategy, _DISTRIBUTED)


_DISTRIBUTED = (
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.OneDeviceStrategy,
    tf.distribute.TPUStrategy,
    tf.distribute.experimental.CentralStorageStrategy,
    tf.distribute.experimental.ParameterServerStrategy,
)


def ordered_batches(parts: list[Any], batch_size: int | None, random_state: tf.Variable) -> Any:
    """A tf.data.Dataset of one epoch: tuples of batches of `parts`, in an order drawn when the epoch begins.

    Args:
        parts: arrays (n, ...) that belong together; floating ones are cast to Keras' floatx.
        batch_size: samples a batch, None for Keras' 32; the last one has what is left.
        random_state: int32 (2,), seed and training steps so far.
    """
    n = len(parts[0])

    def order(_: Any) -> Any:
        seed = tf.random.experimental.stateless_fold_in(random_state.read_value(), _ORDER)
        return tf.argsort(tf.random.stateless_uniform([n], seed, None, None, tf.int32), stable=True)

    return _gathered(tf.data.Dataset.from_tensors(0).map(order).unbatch(), parts, batch_size)


def _gathered(indices: Any, parts: list[Any], batch_size: int | None) -> Any:
    """The samples of `parts` in the order of the dataset `indices`, which has each once, as batches."""
    size = batch_size or _KERAS_BATCH
    lengths = [len(part) for part in parts]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"Expected as many labels, and sample weights, as images. Received: {', '.join(map(str, lengths))}. "
            "Cut them to the same samples."
        )
    with tf.device("CPU"):  # all the data would not fit beside a network
        tensors = [tf.convert_to_tensor(part) for part in parts]
        tensors = [tf.cast(t, keras.backend.floatx()) if t.dtype.is_floating else t for t in tensors]
    batches = indices.batch(size).map(lambda chosen: tuple(tf.gather(t, chosen) for t in tensors))
    count = -(-lengths[0] // size)
    return untuned(batches.prefetch(AHEAD).apply(tf.data.experimental.assert_cardinality(count)))
