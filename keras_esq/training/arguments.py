"""Checks of what an ErrorSilencedModel is made of."""

from __future__ import annotations

from typing import Any

from keras_esq._keras import keras
from keras_esq.attacks.base import Attack
from keras_esq.quantize.graph import unwrap


def check_model(model: Any) -> None:
    """Raise TypeError or ValueError for anything but a built network."""
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        raise TypeError(
            "Expected a tf_keras.Model, a low-bit one from esq.quantize_model or a float one, or a Keras 3 model. "
            f"Received {kind}."
        )
    if unwrap(model) is not model:
        raise TypeError(
            f"Expected a network. Received {model.name!r}, which is an ErrorSilencedModel already. Pass its `.network`."
        )
    if not model.built:
        raise ValueError(
            f"Expected a built model. Received {model.name!r}, whose input shape is not known yet. Start it with "
            "keras.Input(shape), or call model.build((None, height, width, channels)) first."
        )


def check_attacks(**attacks: Any) -> None:
    """Raise TypeError or ValueError for an attack, given by its argument's name, that is none or is targeted."""
    for name, value in attacks.items():
        if value is not None and not isinstance(value, Attack):
            raise TypeError(f"Expected {name} out of esq.attacks, such as esq.attacks.PGD(). Received {value!r}.")
        if value is not None and value.targeted:
            raise ValueError(
                f"Expected an untargeted {name}: targeted attacks in training are held to be why Adversarial "
                "Logit Pairing was broken [ESQ]. Received one with targeted=True."
            )


def check_pairing(pairing: Any, objective: Any, pairs: bool) -> None:
    """Raise ValueError for a pairing with an objective that does not pair."""
    if pairing is not None and not pairs:
        raise ValueError(
            f"Expected pairing=None with objective={objective!r}, which does not pair. Received {pairing!r}. Drop "
            "it, or use objective='pairing'."
        )
