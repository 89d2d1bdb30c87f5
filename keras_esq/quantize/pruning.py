"""Pruned networks: the wrappers of tfmot's `prune_low_magnitude`, and zeros that stay zero while quantizing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_esq._keras import keras, tfmot_sparsity


def _pruning_wrapper() -> Any:
    # tfmot gives its wrapper's class to loaders only, through this scope.
    with tfmot_sparsity.prune_scope():
        return keras.saving.get_registered_object("PruneLowMagnitude")


PRUNING_WRAPPER = _pruning_wrapper()


def unpruned(model: Any) -> Any:
    """`model` without tfmot's pruning wrappers, layers and weights shared; `model` itself if it has none.

    Args:
        model: a built Sequential or functional model.
    """
    return tfmot_sparsity.strip_pruning(model) if _is_pruned(model) else model


def _is_pruned(model: Any) -> bool:
    return any(
        _is_pruned(layer) if isinstance(layer, keras.Model) else isinstance(layer, PRUNING_WRAPPER)
        for layer in model.layers
    )


@tf.autograph.experimental.do_not_convert
def hold_zeros(w: Any) -> tf.Tensor:
    """`w` itself, with a gradient of zero where it is exactly 0, so that training leaves it there.

    That is a mask without a variable of its own: SGD with momentum, Adam and weight decay all leave a weight at 0 whose
    gradient was always 0. In mixed precision that is where it rounds to 0 in half precision (below 6e-8).

    Args:
        w: weights of any shape, a floating tensor, variable or array.
    """

    @tf.custom_gradient
    def identity(w: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.identity(w), lambda upstream: tf.where(w == 0, tf.zeros_like(upstream), upstream)

    return identity(tf.convert_to_tensor(w))
