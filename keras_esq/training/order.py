"""The order of the training images, as a function of the training's own random numbers."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._keras import keras

# Folded into the seed of a step, where 0 is the partition's and 1 the attack's.
_ORDER = 2


def repeatable(fit: Any, model: Any, x: Any, y: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of Model.fit, with shuffled arrays replaced by the same batches in a repeatable order.

    Keras shuffles arrays by a generator that starts anew with each process, so that a training which is continued sees
    another order than one that was never interrupted. Here the order of an epoch follows from `model.random_state`,
    which checkpoints keep. Everything but shuffled arrays on a single device is left to Keras.

    Args:
        fit: the method whose signature the arguments have.
        model: an ErrorSilencedModel.
        x, y, args, kwargs: as `fit` was called.

    Raises:
        ValueError: for a `validation_split` that is no share.
    """
    bound = inspect.signature(fit).bind(x, y, *args, **kwargs)
    bound.apply_defaults()
    given = dict(bound.arguments)
    arrays = all(isinstance(part, np.ndarray) or tf.is_tensor(part) for part in (x, y))
    alone = not isinstance(model.distribute_strategy, _DISTRIBUTED) and given["steps_per_epoch"] is None
    if not arrays or not alone or given["shuffle"] is not True or not len(x):
        return given
    weight = given["sample_weight"]
    parts = [part if tf.is_tensor(part) else np.asarray(part) for part in (x, y, weight) if part is not None]
    split = float(given["validation_split"] or 0)
    if not 0 <= split < 1:
        raise ValueError(f"Expected validation_split from 0 to below 1, a share of the data. Received: {split}.")
    if split and given["validation_data"] is None:
        # As Keras does it: the last ones, before shuffling.
        at = math.floor(len(x) * (1 - split))
        given["validation_data"] = tuple(part[at:] for part in parts)
        parts = [part[:at] for part in parts]
    batches = ordered_batches(parts, given["batch_size"] or 32, model.random_state)
    return {**given, "x": batches, "y": None, "sample_weight": None, "batch_size": None, "validation_split": 0.0}


_DISTRIBUTED = (
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.OneDeviceStrategy,
    tf.distribute.TPUStrategy,
    tf.distribute.experimental.CentralStorageStrategy,
    tf.distribute.experimental.ParameterServerStrategy,
)


def ordered_batches(parts: list[Any], batch_size: int, random_state: tf.Variable) -> Any:
    """A tf.data.Dataset of one epoch: tuples of batches of `parts`, in an order drawn when the epoch begins.

    Args:
        parts: arrays (n, ...) that belong together; floating ones are cast to Keras' floatx.
        batch_size: samples a batch; the last one has what is left.
        random_state: int32 (2,), seed and training steps so far.
    """
    n = len(parts[0])
    with tf.device("CPU"):  # all the data would not fit beside a network
        tensors = [tf.convert_to_tensor(part) for part in parts]
        tensors = [tf.cast(t, keras.backend.floatx()) if t.dtype.is_floating else t for t in tensors]

    def order(_: Any) -> Any:
        seed = tf.random.experimental.stateless_fold_in(random_state.read_value(), _ORDER)
        return tf.argsort(tf.random.stateless_uniform([n], seed, None, None, tf.int32), stable=True)

    indices = tf.data.Dataset.from_tensors(0).map(order).unbatch().batch(batch_size)
    batches = indices.map(lambda chosen: tuple(tf.gather(t, chosen) for t in tensors))
    return batches.prefetch(tf.data.AUTOTUNE).apply(tf.data.experimental.assert_cardinality(-(-n // batch_size)))
