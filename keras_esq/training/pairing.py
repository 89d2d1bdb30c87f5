"""Pairing losses: how far the adversarial image's logits or activations are from the clean one's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_esq._checks import check_nonnegative, near_matches
from keras_esq._keras import keras

# Below any real distance; keeps the gradient of a root, and of a quotient, finite where two activations are equal.
TINY = 1e-12

# In place of a layer name: the logits, wherever they are.
LOGITS = "logits"


def _sum(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(x, axis=1)


def _root(x: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.maximum(x, TINY))


# Per sample, of two (n, d) tensors: clean and adversarial.
DISTANCES: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "l2": lambda clean, adv: _root(_sum(tf.square(clean - adv))),
    "squared_l2": lambda clean, adv: _sum(tf.square(clean - adv)),
    "l1": lambda clean, adv: _sum(tf.abs(clean - adv)),
    "relative_l2": lambda clean, adv: _root(_sum(tf.square(clean - adv))) / _root(_sum(tf.square(clean))),
    "relative_l1": lambda clean, adv: _sum(tf.abs(clean - adv)) / tf.maximum(_sum(tf.abs(clean)), TINY),
}


def pairing_distance(clean: tf.Tensor, adv: tf.Tensor, distance: str) -> tf.Tensor:
    """Distance of two batches of activations, sample by sample.

    With z and z' the flattened activations of one sample: "l2" ||z - z'||_2, "squared_l2" ||z - z'||_2^2,
    "l1" ||z - z'||_1, "relative_l2" ||z - z'||_2 / ||z||_2 (the error amplification D_l of [ESQ]), "relative_l1"
    ||z - z'||_1 / ||z||_1. Sums run over all elements, so they grow with the size of a layer; the relative ones don't.
    The gradient runs through both branches, and is 0 where they are equal.

    Args:
        clean: (n, ...), activations of the clean images.
        adv: (n, ...), those of the adversarial images.
        distance: one of the names above.

    Returns:
        float32 of shape (n,).
    """
    check_distance(distance)
    clean, adv = (tf.cast(tf.convert_to_tensor(t), tf.float32) for t in (clean, adv))
    pair = (tf.reshape(t, [tf.shape(t)[0], -1]) for t in (clean, adv))
    return DISTANCES[distance](*pair)


def check_distance(distance: Any) -> str:
    """`distance` if it is a known name, else ValueError."""
    if distance not in DISTANCES:
        raise ValueError(
            f"Expected distance out of {list(DISTANCES)}. Received {distance!r}. "
            + near_matches(str(distance), DISTANCES)
        )
    return distance


@keras.saving.register_keras_serializable(package="keras_esq")
@dataclasses.dataclass(frozen=True)
class LogitPairing:
    """Pair the logits: adds weight * mean distance(f(x), f(x_adv)) to the loss, the default of [ESQ].

    The default was found by benchmarks/pairing_default.py on validation images (accuracy in the worst case of PGD-40 on
    two losses; digits: mean of 3 seeds, MNIST: one; binary and ternary networks). The mean over the four is 70.5 % for
    0.3 x squared L2 and for 0.5 x L2, and 69.9 % for 0.1 x squared L2, which is better on the digits (by 1 and 4
    points) and worse on MNIST (by 5 and 3): they are equal, and 1.0 of either is too strong (64 to 68 %). Adversarial
    cross-entropy in place of pairing, one seed, has 72.2 %. Tune it on validation data of your own.

    Args:
        weight: factor lambda of the distance, >= 0.
        distance: see `pairing_distance`. With the square, images on which the network is fooled most count most.

    Raises:
        TypeError, ValueError: for a weight that is no number or negative, or an unknown distance.
    """

    weight: float = 0.3
    distance: str = "squared_l2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", check_nonnegative("weight", self.weight))
        check_distance(self.distance)

    @property
    def weights(self) -> dict[str, float]:
        """{layer name: lambda}; the logits go by the name `LOGITS`."""
        return {LOGITS: self.weight}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"weight": self.weight, "distance": self.distance}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LogitPairing:
        """The object that `get_config` describes."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_esq")
@dataclasses.dataclass(frozen=True)
class ActivationPairing:
    """Pair the outputs of named layers: adds the sum over layers l of lambda_l * mean D_l(x, x_adv) to the loss [ESQ].

    Args:
        weights: {layer name: lambda_l >= 0}; "logits" stands for the logits. Names as in `model.layers`.
        distance: see `pairing_distance`; the default is [ESQ]'s normalized distance, which makes layers of different
            size and scale comparable.

    Raises:
        TypeError, ValueError: for anything but such a dict, an empty one, or an unknown distance.
    """

    weights: Mapping[str, float]
    distance: str = "relative_l2"

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise TypeError(
                f"Expected a dict {{layer name: weight}} with at least one layer. Received {self.weights!r}."
            )
        checked = {str(name): check_nonnegative(f"weight of {name!r}", w) for name, w in self.weights.items()}
        object.__setattr__(self, "weights", checked)
        check_distance(self.distance)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"weights": dict(self.weights), "distance": self.distance}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ActivationPairing:
        """The object that `get_config` describes."""
        return cls(**config)


AnyPairing = LogitPairing | ActivationPairing


def as_pairings(pairing: Any) -> tuple[AnyPairing, ...]:
    """One pairing, or a list of them, as a tuple.

    Raises:
        TypeError: for anything else.
    """
    pairings = tuple(pairing) if isinstance(pairing, (list, tuple)) else (pairing,)
    for item in pairings:
        if not isinstance(item, AnyPairing):
            raise TypeError(
                f"Expected pairing as esq.LogitPairing(...), esq.ActivationPairing({{layer: weight}}) or a list of "
                f"them. Received {item!r}."
            )
    if not pairings:
        raise TypeError("Expected at least one pairing. Received an empty list. For none use objective='adversarial'.")
    return pairings
