"""The settings of a layer, loss or optimizer of one Keras, in the words of the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_esq._keras import keras
from keras_esq.keras3.graph import decode

_LAYER_SETTINGS = frozenset({"name", "dtype", "activity_regularizer"})
# Don't change what is computed; `trainable` is copied afterwards.
_IDLE = frozenset(
    {
        "trainable",
        *("seed", "use_cudnn", "flash_attention", "synchronized", "implementation", "time_major", "batch_input_shape"),
        *("vectorized", "autocast", "jit_compile", "is_legacy_optimizer", "optional", "rng_type"),
        "auto_vectorize",
    }
)
# Values of settings that the other Keras has not, which stand for what it does anyway.
_AS_USUAL: dict[str, tuple[Any, ...]] = {
    "data_format": ("channels_last", None),
    "lora_rank": (None,),
    "rms_scaling": (False,),
    "decay": (0.0, None),
    "dtype": (None, "float32"),
}


@dataclass(frozen=True)
class Rule:
    """How a class is called over there, which of its settings are called otherwise, and which don't matter."""

    to: str | type | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: frozenset[str] = frozenset()
    change: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)


class Translator:
    """Makes objects of one Keras out of configs of the other.

    Args:
        source, target: the modules `keras` and `tf_keras`, or the other way round.
        rules: {"layers.LeakyReLU": Rule(...)} for what differs between the two.
        activations: {name here: function or name there} for activation functions that differ.
        custom_objects: {class here, or its name: class or function there}.
        example: the call that an error shows, with `{}` for the custom_objects.

    Raises:
        TypeError: if `custom_objects` is not such a dict.
    """

    def __init__(
        self,
        source: Any,
        target: Any,
        rules: Mapping[str, Rule],
        activations: Mapping[str, Any],
        custom_objects: Any,
        example: str,
    ) -> None:
        self.source, self.target = source, target
        self.rules, self.activations = rules, activations
        self.here, self.there = (_library_name(module) for module in (source, target))
        self.example = example
        self.custom = self._check_custom_objects(custom_objects)

    def _check_custom_objects(self, custom_objects: Any) -> dict[str, Any]:
        if custom_objects is None:
            return {}
        wanted = f"a dict {{{self.here} class or its name: {self.there} class or function}}"
        if not isinstance(custom_objects, Mapping):
            raise TypeError(f"Expected custom_objects to be {wanted}. Received: {custom_objects!r}.")
        for key, value in custom_objects.items():
            if not isinstance(key, (str, type)) or not callable(value):
                raise TypeError(f"Expected custom_objects to be {wanted}. Received the entry {key!r}: {value!r}.")
        names = [(key if isinstance(key, str) else key.__name__, value) for key, value in custom_objects.items()]
        return {name.split(">")[-1]: value for name, value in names}  # "package>Name" where it is registered

    def advice(self, name: str) -> str:
        """How to translate the class or function `name` by hand."""
        return (
            f"Write its counterpart for {self.there} and name it in custom_objects=: "
            f"{self.example.format('{' + repr(name) + ': My' + name.lstrip('_') + '}')}."
        )

    def has_custom(self, name: str) -> bool:
        """Whether custom_objects has an entry for the class of this name."""
        return name in self.custom

    def of_custom(self, name: str, config: Any) -> Any:
        """The counterpart, by custom_objects, of an object of the class `name` with this config."""
        return self._from_custom(self.custom[name], config, name)

    def _from_custom(self, counterpart: Any, config: Any, name: str) -> Any:
        is_class = isinstance(counterpart, type)
        settings = {key: self.value(value, key, name) for key, value in config.items()}
        try:
            return counterpart.from_config(settings) if is_class else counterpart(**settings)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"Expected custom_objects[{name!r}] to take the config of {name}, {settings}. {counterpart.__name__} "
                f"failed: {type(error).__name__}: {error}. Give it a from_config(config) that does."
            ) from error

    def make(self, room: str, name: str, config: Mapping[str, Any], owner: str = "") -> Any:
        """The counterpart of `keras.<room>.<name>` with this config.

        Raises:
            ValueError: if there is none over there, or it lacks one of the settings.
        """
        rule = self.rules.get(f"{room}.{name}", Rule())
        target = rule.to if isinstance(rule.to, type) else _resolve(self.target, f"{room}.{rule.to or name}")
        owner = owner or (f"{name} {config['name']!r}" if "name" in config else name)
        if not isinstance(target, type):
            raise ValueError(
                f"Expected classes that {self.there} has too. Received {owner}: {self.there} has no {room}.{name}. "
                f"{self.advice(name)}"
            )
        source = _resolve(self.source, f"{room}.{name}")
        accepted = accepted_settings(target) | (_LAYER_SETTINGS if room == "layers" else frozenset())
        if issubclass(target, keras.layers.RNN):
            accepted |= {"zero_output_for_mask"}  # which it takes out of its **kwargs; Bidirectional sets it
        settings = {}
        for key, value in config.items():
            new_key = rule.rename.get(key, key)
            if key in rule.drop:
                continue
            if new_key in accepted:
                translated = self.value(value, key, owner)
                settings[new_key] = rule.change[key](translated) if key in rule.change else translated
            elif key not in _IDLE and not _is_usual(source, key, value):
                raise ValueError(
                    f"Expected settings that {self.there}'s {target.__name__} has too. Received {owner} with "
                    f"{key}={value!r}. Leave it at its default. Or else: {self.advice(name)}"
                )
        try:
            return target(**settings)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Expected settings that {self.there}'s {target.__name__} takes. Received {owner}: {error} "
                f"{self.advice(name)}"
            ) from error

    def value(self, value: Any, key: str, owner: str) -> Any:
        """One setting, with the objects in it translated."""
        if isinstance(value, str):
            return self.activations.get(value, value) if "activation" in key else value
        if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0:
            return float(str(value)) if value.dtype.kind == "f" else value.item()  # 0.1, not 0.10000000149011612
        if isinstance(value, (list, tuple)):  # ListWrappers too
            return [self.value(item, key, owner) for item in value]
        if not isinstance(value, dict):
            return value
        name = value.get("class_name")
        if "activation" in key and name is None:  # byte code of a lambda
            name, value = "__lambda__", {"config": ""}
        if name is None or "config" not in value:
            return {k: self.value(v, key, owner) for k, v in value.items()}
        if name in ("DTypePolicy", "Policy"):
            return value["config"]["name"]
        if name == "SeedGenerator":
            return value["config"].get("seed")
        if name in ("__tensor__", "__numpy__"):
            return decode(value)
        return self._object(value, name, key, owner)

    def _object(self, data: dict[str, Any], name: str, key: str, owner: str) -> Any:
        module = data.get("module") or ""
        if name in ("function", "__lambda__") or isinstance(data["config"], str):
            function = str(data["config"]) if name == "function" else name
            short = function.split(">")[-1]
            if short in self.custom:
                return self.custom[short]
            if ">" in function and function in self.activations:  # of this package; without one it is a user's own
                return self.activations[function]
            shown = "a lambda" if name == "__lambda__" else f"the function {short!r}"
            raise ValueError(
                f"Expected functions that {self.there} has too. Received {owner} with {shown} as {key}. "
                f"{self.advice(short) if name == 'function' else 'Make it a named function first.'}"
            )
        if name in self.custom:
            return self._from_custom(self.custom[name], data["config"], name)
        if module.split(".")[0] != "keras":
            raise ValueError(
                f"Expected only classes of {self.here} itself. Received {owner}, whose {key} is a {name} of your own. "
                f"{self.advice(name)}"
            )
        room = module.partition(".")[2]
        if not room:  # keras.Sequential, keras.Model
            raise ValueError(
                f"Expected models that are called in the model themselves. Received {owner}, whose {key} is a model, "
                f"{data['config'].get('name')!r}. Put its layers there one by one. Or else: "
                f"{self.advice(owner.split()[0])}"
            )
        return self.make(room, name, data["config"])


def accepted_settings(cls: type) -> frozenset[str]:
    """The names that the constructor of `cls` takes, those that it hands on to its base classes included."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in base.__dict__:
            continue
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        names.update(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return frozenset(names - {"self"})


def _is_usual(source: Any, key: str, value: Any) -> bool:
    """Whether `value` is what `source` does when nobody says otherwise, which is what the other Keras does."""
    value = list(value) if isinstance(value, tuple) else value
    if value in _AS_USUAL.get(key, ()):
        return True
    for base in getattr(source, "__mro__", ()):
        if "__init__" in base.__dict__ and key in (parameters := inspect.signature(base.__init__).parameters):
            default = parameters[key].default
            return bool(value == (list(default) if isinstance(default, tuple) else default))
    return False


def _library_name(module: Any) -> str:
    return "tf-keras" if module is keras else "Keras 3"


def _resolve(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module
