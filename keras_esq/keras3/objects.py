"""Keras 3 optimizers, learning-rate schedules, losses, metrics and functions in tf-keras."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

from keras_esq._keras import keras
from keras_esq.keras3.detect import is_keras3, is_keras3_own, keras3
from keras_esq.keras3.graph import flatten, map_nest
from keras_esq.keras3.models import to_tf_keras
from keras_esq.keras3.settings import Translator

EXAMPLE = "esq.from_keras3(obj, custom_objects={})"
# In Keras 3 both are the sum over the batch divided by its size.
_REDUCTIONS = {"mean": "sum_over_batch_size", None: "none"}


def translate_nest(nest: Any, custom_objects: Any = None) -> Any:
    """`nest` of lists, tuples and dicts with the Keras 3 objects in it translated; itself if there are none."""
    if keras3() is None or not any(is_keras3(leaf) for leaf in flatten(nest)):
        return nest
    return map_nest(lambda leaf: translate_object(leaf, custom_objects) if is_keras3(leaf) else leaf, nest)


def translate_object(obj: Any, custom_objects: Any = None) -> Any:
    """The tf-keras counterpart of a Keras 3 optimizer, schedule, loss or metric, by its config; of a function, by name.

    Raises:
        TypeError: for anything else.
        ValueError: for what tf-keras has no counterpart of, with what to do.
    """
    translator = to_tf_keras(custom_objects, EXAMPLE)
    name = getattr(obj, "__name__", type(obj).__name__)
    if isinstance(obj, FunctionType):
        return _function(obj, translator)
    room = next((room for room, cls in _rooms() if isinstance(obj, cls)), None)
    if room is None:
        raise TypeError(
            "Expected a Keras 3 model, optimizer, learning-rate schedule, loss, metric or callback. Received "
            f"{type(obj).__module__}.{name}. Make its tf-keras counterpart: `import tf_keras`."
        )
    if translator.has_custom(name):
        return translator.of_custom(name, obj.get_config())
    if not is_keras3_own(type(obj)):
        raise ValueError(
            f"Expected {room} of Keras 3 itself. Received {obj!r} of your own class {name}. Subclass "
            f"tf_keras.{room}.{type(obj).__mro__[1].__name__} instead. Or else: {translator.advice(name)}"
        )
    config = _whole_config(obj) if room in ("losses", "metrics") else obj.get_config()
    if name == "LossScaleOptimizer":
        return _loss_scale_optimizer(config, translator)
    if room == "losses":
        config["reduction"] = _REDUCTIONS.get(config.get("reduction"), config.get("reduction"))
    return translator.make(room, name, config)


def _whole_config(obj: Any) -> dict[str, Any]:
    """A config with the settings that some classes leave out of theirs, such as Huber's delta; their bases don't."""
    own = inspect.signature(type(obj).__init__).parameters
    inherited = super(type(obj), obj).get_config()
    return {**{key: value for key, value in inherited.items() if key in own}, **obj.get_config()}


def _rooms() -> list[tuple[str, type]]:
    library = keras3()
    return [
        ("optimizers", library.optimizers.Optimizer),
        ("optimizers.schedules", library.optimizers.schedules.LearningRateSchedule),
        ("losses", library.losses.Loss),
        ("metrics", library.metrics.Metric),
    ]


def _function(function: Any, translator: Translator) -> Any:
    name = function.__name__
    if translator.has_custom(name):
        return translator.custom[name]
    if name in translator.activations:
        return translator.activations[name]
    for room in (keras.losses, keras.metrics, keras.activations):
        if callable(getattr(room, name, None)):
            return getattr(room, name)
    raise ValueError(
        f"Expected a function that tf-keras has too. Received {function.__module__}.{name}. {translator.advice(name)}"
    )


def _loss_scale_optimizer(config: dict[str, Any], translator: Translator) -> Any:
    inner = translator.value(config["inner_optimizer"], "inner_optimizer", "LossScaleOptimizer")
    return keras.mixed_precision.LossScaleOptimizer(
        inner, initial_scale=config["initial_scale"], dynamic_growth_steps=config["dynamic_growth_steps"]
    )
