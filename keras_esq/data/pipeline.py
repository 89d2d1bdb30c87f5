"""`pipeline`: training images as a tf.data stream, shuffled and augmented by a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_esq._checks import as_float_array, check_count, check_seed
from keras_esq._datasets import AHEAD, untuned
from keras_esq.data.augment import AUGMENTATIONS, Augmentation, augmented, get_augmentation


def pipeline(
    x: Any,
    y: Any,
    batch_size: int = 128,
    *,
    augment: str | Augmentation = "none",
    seed: int = 0,
    first_epoch: int = 0,
) -> Any:
    """Training images as an endless stream of shuffled, augmented batches, epoch after epoch.

        d = esq.data.load("cifar10")
        batches = esq.data.pipeline(d.x_train, d.y_train, augment=d.augment, seed=0)
        robust.fit(batches, steps_per_epoch=esq.data.steps_per_epoch(len(d.x_train)), epochs=120, ...)

    The order and the augmentation of an epoch depend on `seed` and the number of the epoch alone. To continue a
    training, give that number to both: `pipeline(..., first_epoch=40)` and `fit(..., initial_epoch=40)`. The stream is
    endless because Keras opens a finite one anew for each epoch, and does not say for which. The last batch of an epoch
    has what is left of the images.

    Args:
        x: images (n, height, width, channels), array; with "none", any shape (n, ...). Their values are not scaled.
        y: labels, class ids (n,) or one row per image.
        batch_size: images a batch; the papers' 128.
        augment: "none", "crop" or "crop_flip" (the papers' choice for CIFAR: pad 4, crop, mirror), or an
            `Augmentation`. `Dataset.augment` has the choice for a data set.
        seed: in [0, 2**31).
        first_epoch: number of the epoch to begin with, from 0.

    Returns:
        A tf.data.Dataset of (images (b, height, width, channels) float32, labels (b, ...)).

    Raises:
        TypeError: for an argument of a wrong type.
        ValueError: for no images, another number of labels than of images, a shape that can't be augmented, or a
            number out of range.
    """
    import tensorflow as tf  # loading data needs no TensorFlow

    images, labels = _check_pairs(x, y)
    augmentation = get_augmentation(augment)
    n, batch_size, seed = len(images), check_count("batch_size", batch_size), check_seed("seed", seed)
    first_epoch = check_count("first_epoch", first_epoch, minimum=0)
    active = augmentation != AUGMENTATIONS["none"]
    if active and images.ndim != 4:
        raise ValueError(f"Expected images (n, height, width, channels) to augment. Received shape {images.shape}.")
    with tf.device("CPU"):  # the whole data set would not fit beside a network
        images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)

    def epoch(number: Any) -> Any:
        key = tf.random.fold_in(tf.stack([0, seed]), tf.cast(number, tf.int32))
        order = tf.argsort(tf.random.stateless_uniform([n], key, None, None, tf.int32), stable=True)
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size)
        return batches.enumerate(1).map(
            lambda step, indices: (tf.random.fold_in(key, tf.cast(step, tf.int32)), indices)
        )

    def batch(key: Any, indices: Any) -> tuple[Any, Any]:
        chosen = tf.gather(images, indices)
        return augmented(chosen, augmentation, key) if active else chosen, tf.gather(labels, indices)

    epochs = tf.data.Dataset.counter(first_epoch).flat_map(epoch)
    endless = epochs.map(batch, num_parallel_calls=AHEAD, deterministic=True).prefetch(AHEAD)
    return untuned(endless.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)))


def steps_per_epoch(n: int, batch_size: int = 128) -> int:
    """Batches in an epoch of `n` images, for `fit`.

    Raises:
        TypeError, ValueError: for a number that is not whole, or below 1.
    """
    return -(-check_count("n", n) // check_count("batch_size", batch_size))


def _check_pairs(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    images, labels = as_float_array(x), np.asarray(y)
    if images.ndim < 2 or not images.size:
        raise ValueError(f"Expected images (n, ...), n >= 1. Received shape {images.shape}.")
    if labels.ndim < 1 or len(labels) != len(images):
        raise ValueError(f"Expected one label per image, {len(images)} in all. Received labels of {labels.shape}.")
    if labels.dtype.kind not in "uif":
        raise TypeError(f"Expected labels to be numbers. Received elements of type {labels.dtype}.")
    return images, labels
