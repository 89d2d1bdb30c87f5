"""Batches of arrays that live in memory, as tf.data streams."""

from __future__ import annotations

from typing import Any

# Batches made ahead; gathering them takes far less time than a training step.
AHEAD = 2


def untuned(dataset: Any) -> Any:
    """`dataset` without tf.data's tuning of its buffers and threads, which has nothing to win here.

    The tuner's thread sleeps twice as long each time, up to a minute, and closing an iterator waits until it wakes
    (TensorFlow 2.21). Keras opens an iterator for each epoch: one of 25 seconds would be followed by 16 of idleness.
    """
    import tensorflow as tf  # loading data needs no TensorFlow

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
