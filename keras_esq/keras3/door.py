"""`from_keras3`, and what `quantize_model` and `ErrorSilencedModel` do at their doors."""

from __future__ import annotations

from typing import Any

from keras_esq.keras3.callbacks import translate_callback
from keras_esq.keras3.detect import is_keras3, is_keras3_model, keras3
from keras_esq.keras3.models import translate_model
from keras_esq.keras3.objects import translate_object


def from_keras3(obj: Any, *, custom_objects: dict[Any, Any] | None = None) -> Any:
    """The tf-keras counterpart of a Keras 3 model, optimizer, learning-rate schedule, loss, metric or callback.

    A model is translated layer by layer, with names, settings, flags, dtype policies and weights; nested models and
    shared layers stay that; operations (`x + y`, `keras.ops.mean(x)`) become layers. Weights go through arrays, so
    any backend of Keras 3 will do. Afterwards both models are run on random inputs, layer by layer and as a whole,
    and must agree to 1e-5 of the largest output (as a whole, 1e-5 where that is below 1); in mixed precision to 2e-2
    (float16) or 1e-1 (bfloat16). A model that amplifies rounding errors beyond that, as very deep ones with random
    weights do, may as a whole differ by what a change of its inputs by 1e-5 of the largest makes.

    That is the proof for inference. In training tf-keras differs in details, such as the moving variance of
    BatchNormalization, which is the unbiased one: n / (n - 1) larger.

    `quantize_model` and `ErrorSilencedModel` call this themselves.

    Args:
        obj: a built Sequential or functional Keras 3 model, or one of the other objects. Not changed. Of an optimizer
            the settings are taken, not the state.
        custom_objects: {Keras 3 class, or its name: tf-keras class} for layers, models, losses, ... of your own. Their
            counterparts are made by from_config and get the weights, in the same order and shapes. Functions, such
            as activations, by their names. To save such a model, register them with
            tf_keras.saving.register_keras_serializable().

    Returns:
        A tf_keras.Model, not compiled, or the other object's counterpart.

    Raises:
        TypeError: for an object not of Keras 3, a subclassed model, or `custom_objects` that is no such dict.
        ValueError: for an unbuilt model, for what has no counterpart (named, with the custom_objects to write), or if
            the models don't agree; names the first layer that differs.

    Example:
        >>> low_bit = esq.quantize_model(esq.from_keras3(model, custom_objects={"MyLayer": MyTfKerasLayer}), "ternary")
    """
    if not is_keras3(obj) or isinstance(obj, type):
        raise TypeError(
            "Expected a Keras 3 model, optimizer, learning-rate schedule, loss, metric or callback. Received "
            f"{type(obj).__module__}.{type(obj).__name__}. tf-keras objects need no translation."
        )
    if is_keras3_model(obj):
        return translate_model(obj, custom_objects)
    if isinstance(obj, keras3().callbacks.Callback):
        return translate_callback(obj)
    return translate_object(obj, custom_objects)


def model_at_the_door(model: Any, custom_objects: dict[Any, Any] | None = None) -> Any:
    """A Keras 3 model in tf-keras; anything else as it is.

    Raises:
        ValueError: for `custom_objects` with anything else.
    """
    if is_keras3_model(model):
        return translate_model(model, custom_objects)
    if custom_objects is not None:
        raise ValueError(
            f"Expected custom_objects=None with a model that is not of Keras 3. Received {custom_objects!r} with "
            f"{type(model).__module__}.{type(model).__name__}. Drop it: only translations need it."
        )
    return model
