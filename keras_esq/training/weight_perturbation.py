"""Adversarial weight perturbation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_esq._checks import check_positive
from keras_esq._keras import keras
from keras_esq.quantize import held_weights, low_bit_weights


@keras.saving.register_keras_serializable(package="keras_esq")
class WeightPerturbation:
    """Each update takes the gradient at the weights' worst neighbours, so that the loss becomes flat around them.

        esq.ErrorSilencedModel(low_bit, objective="trades", weight_perturbation=esq.training.WeightPerturbation(0.005))

    Every kernel w is moved once by gamma * ||w|| along the gradient of the objective's loss on (x, x_adv), norms by
    kernel; the gradient there updates w itself. Of a low-bit kernel the values that the network multiplies with are
    moved, not the latent ones, which would have to change sign to be felt. A step costs one more pass and its
    gradient; that pass counts for BatchNormalization's moving statistics and the logged loss too.

    Args:
        gamma: size of the move, relative to the kernel's norm, > 0. Default 0.005, the paper's for TRADES; it has 0.01
            for adversarial training.

    Raises:
        TypeError, ValueError: for a gamma that is no positive number.

    Reference: Wu et al., "Adversarial Weight Perturbation Helps Robust Generalization", 2020 (arXiv:2004.05884).
    """

    def __init__(self, gamma: float = 0.005) -> None:
        self.gamma = check_positive("gamma", gamma)

    @contextlib.contextmanager
    def apply(self, network: Any, held: list[Any], loss: Callable[[], Any]) -> Iterator[None]:
        """Within the block, which must be traced within `held_weights`, the network computes with the worst neighbours.

        Args:
            network: what is trained.
            held: values of its low-bit weights.
            loss: the loss to climb.
        """
        weights = low_bit_weights(network)
        latent = [weight.latent for weight in weights]
        floats = float_kernels(network)
        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, [*latent, *floats], unconnected_gradients=tf.UnconnectedGradients.ZERO)
        moves = [self._move(w, g) for w, g in zip([*held, *floats], gradients, strict=True)]
        for variable, move in zip(floats, moves[len(held) :], strict=True):
            variable.assign_add(move)
        with held_weights(weights, [w + move for w, move in zip(held, moves, strict=False)]):
            yield
        for variable, move in zip(floats, moves[len(held) :], strict=True):
            variable.assign_sub(move)

    def _move(self, w: Any, gradient: Any) -> Any:
        gradient = tf.cast(gradient, tf.float32)
        length = tf.norm(tf.reshape(gradient, [-1]))
        size = self.gamma * tf.norm(tf.reshape(tf.cast(w, tf.float32), [-1]))
        return tf.stop_gradient(tf.cast(tf.math.divide_no_nan(size * gradient, length), w.dtype))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"gamma": self.gamma}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WeightPerturbation:
        """The object that `get_config` describes."""
        return cls(**config)


def float_kernels(network: Any) -> list[Any]:
    """The trainable weights of more than one axis that are not low-bit."""
    latent = {id(weight.latent) for weight in low_bit_weights(network)}
    return [w for w in network.trainable_variables if w.shape.rank > 1 and id(w) not in latent]


def check_weight_perturbation(perturbation: Any, objective: Any, network: Any) -> None:
    """Raise TypeError or ValueError for what can't be used with the objective and the network."""
    if perturbation is None:
        return
    if not isinstance(perturbation, WeightPerturbation):
        raise TypeError(
            f"Expected weight_perturbation as esq.training.WeightPerturbation(gamma=...). Received {perturbation!r}."
        )
    if not objective.perturbs_weights:
        raise ValueError(
            f"Expected no weight_perturbation with objective {objective!r}, which updates in its own way. Drop it, or "
            "use another objective."
        )
    if tf.distribute.get_strategy().num_replicas_in_sync > 1 and float_kernels(network):
        raise ValueError(
            "Expected weight_perturbation on one device, or a network whose kernels are all low-bit: replicas would "
            f"move float kernels apart. Received {network.name!r} with {len(float_kernels(network))} of them."
        )
