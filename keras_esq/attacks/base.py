"""The template of every attack: what `attack(model, x, y)` does around the one method that differs."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import tensorflow as tf

from keras_esq._checks import check_bounds, check_count, check_images, check_labels, check_positive, check_seed
from keras_esq._keras import keras
from keras_esq.attacks.hidden import HIDDEN_SOFTMAX, check_unit, looks_like_probabilities
from keras_esq.attacks.logits import LogitsFn, cached_on, check_model, input_shape_of, logits_fn
from keras_esq.attacks.result import AttackResult
from keras_esq.quantize import frozen_weights

# float, or a scalar tensor or variable: a curriculum changes it between steps without a new trace.
Scalar = Any
SelfAttack = TypeVar("SelfAttack", bound="Attack")
# Images whose scores are looked at before an attack.
_LOOKED_AT = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Attack(abc.ABC):
    """Settings of an attack, called as `attack(model, x, y) -> x_adv`.

    A new attack is a `@dataclass(frozen=True, kw_only=True, eq=False)` with its settings as fields, their checks in
    `__post_init__` and its algorithm in `generate`. Attacks with equal settings are equal and hash alike; tensors
    among the settings count by identity.

    Args:
        bounds: lowest and highest valid value of x. Default (0, 1), the paper's.
        targeted: reach the class `y_target` instead of leaving `y`. Default False, as the paper insists: targeted
            attacks in training are held to be why Adversarial Logit Pairing was broken.
        seed: int in [0, 2**31) for the same result at each call; None follows `tf.random.set_seed`.
    """

    bounds: tuple[float, float] = (0.0, 1.0)
    targeted: bool = False
    seed: int | None = None

    # Scalars handed to the compiled function as tensors, so that another value needs no new trace.
    traced_fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # A model saved with an attack, the user's own included, must find its class again.
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(package=cls.__module__.split(".")[0])(cls)

    def __post_init__(self) -> None:
        """Check the settings; subclasses call this and check theirs."""
        self._set("bounds", check_bounds(self.bounds))
        if not isinstance(self.targeted, bool):
            raise TypeError(f"Expected targeted to be True or False. Received: {self.targeted!r}.")
        if self.seed is not None:
            self._set("seed", check_seed("seed", self.seed))
        for name in self._traced():
            self._set(name, _check_scalar(name, getattr(self, name)))

    @abc.abstractmethod
    def generate(self, model_fn: LogitsFn, x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """One batch of adversarial images; graph code.

        Args:
            model_fn: x (n, ...) -> class logits (n, k), both float32.
            x: images (n, ...), float32.
            labels: class ids (n,), int32: the true classes, or the targets if `self.targeted`.
            seed: stateless seed, int32 (2,).

        Returns:
            x_adv of the shape of `x`; `perturb` clips it to `bounds`.
        """

    def view(self, model_fn: LogitsFn, x: tf.Tensor) -> LogitsFn:
        """What `generate` sees of the network; success is judged by `model_fn` itself. Default: all as it is."""
        return model_fn

    def perturb(
        self, model_fn: LogitsFn, x: tf.Tensor, y: tf.Tensor, *, seed: tf.Tensor, y_target: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The attack as a pure function for use inside a tf.function, such as a training step.

        Nothing is checked and no state is read or written besides what `model_fn` does; all randomness comes from
        `seed`. No gradient flows back through the result.

        Args:
            model_fn: x (n, ...) -> class logits (n, k), as `logits_fn(model)` makes it.
            x: images (n, ...) in `bounds`; cast to float32.
            y: class ids (n,).
            seed: stateless seed, int32 (2,).
            y_target: class ids (n,) to reach; needed if `targeted`.

        Returns:
            x_adv, float32, of the shape of `x`: inside the box and, for attacks with an `eps`, its ball around `x`.
        """
        if self.targeted and y_target is None:
            raise ValueError(f"Expected y_target for the targeted attack {type(self).__name__}. Received: None.")
        x = tf.stop_gradient(tf.cast(x, tf.float32))
        labels = tf.cast(y_target if self.targeted else y, tf.int32)
        x_adv = self.generate(self.view(model_fn, x), x, labels, seed)
        return tf.stop_gradient(tf.clip_by_value(x_adv, *self.bounds))

    def __call__(self, model: Any, x: Any, y: Any, *, y_target: Any = None, batch_size: int = 128) -> Any:
        """Attack `model` at the images `x`: `run`, and of its result the images.

        Args and Raises: as for `run`.

        Returns:
            x_adv, float32, of the shape of `x`: a tensor if `x` is one, else an array.
        """
        x_adv = self.run(model, x, y, y_target=y_target, batch_size=batch_size).x_adv
        return tf.constant(x_adv) if tf.is_tensor(x) else x_adv

    def run(self, model: Any, x: Any, y: Any, *, y_target: Any = None, batch_size: int = 128) -> AttackResult:
        """Attack `model` at the images `x` and say where it worked.

        Args:
            model: a tf_keras classifier: float, quantized or ErrorSilencedModel; logits, softmax or sigmoid. Attacks
                without gradients take any classifier, see `BlackBoxAttack`.
            x: images (n, ...) inside `bounds`, array or eager tensor.
            y: true class ids (n,) or (n, 1), or one-hot rows (n, k).
            y_target: the same for the classes to reach; needed if `targeted`.
            batch_size: images attacked at once: memory against speed.

        Raises:
            TypeError: if `model` is not a tf_keras model, or `x` or `y` does not hold numbers.
            ValueError: if `x` or `y` is empty, of a wrong shape or length, holds NaN or leaves its range; if targets
                are missing or not wanted; if the model returns NaN or hides its softmax or sigmoid.
        """
        check_model(model)
        check_count("batch_size", batch_size)
        images = check_images(x, self.bounds, input_shape_of(model))
        # Several images: one alone would tell little about what the scores are.
        some = images[: min(batch_size, _LOOKED_AT)]
        logits = logits_fn(model)(tf.constant(some)).numpy()
        labels = self._labels(y, y_target, logits.shape[1], len(images))
        check_unit(model, some, logits)
        seed = self._call_seed()
        run = self._compiled(model, images.shape[1:])
        scalars = [self._value(name) for name in self._traced()]
        result, success = np.empty_like(images), np.empty(len(images), bool)
        for number, start in enumerate(range(0, len(images), batch_size)):
            batch = slice(start, start + batch_size)
            x_adv, fooled, finite, probabilities = run(
                tf.constant(images[batch]), tf.constant(labels[batch]), tf.constant([seed, number]), *scalars
            )
            if not finite:
                raise ValueError(
                    f"Expected finite logits and gradients. The model returned NaN or infinity for some of the images "
                    f"{start} to {start + len(x_adv) - 1}, as given or attacked. Check its weights, or train it again "
                    "with a lower learning rate."
                )
            if probabilities:
                raise ValueError(HIDDEN_SOFTMAX)
            result[batch], success[batch] = x_adv.numpy(), fooled.numpy()
        return AttackResult(x_adv=result, success=success)

    def fooled(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Where the attack has what it wants, (n,) bool: another class than the true one, or the target."""
        predicted = tf.argmax(logits, axis=1, output_type=labels.dtype)
        return tf.equal(predicted, labels) if self.targeted else tf.not_equal(predicted, labels)

    def _labels(self, y: Any, y_target: Any, num_classes: int, n: int) -> np.ndarray:
        """What `generate` is given, (n,): the true classes or the targets, checked."""
        labels = check_labels(y, num_classes, n)
        if self.targeted != (y_target is not None):
            wanted = "y_target, the classes to reach" if self.targeted else "no y_target, as the attack is untargeted"
            raise ValueError(
                f"Expected {wanted}. Received: {y_target!r}. Set targeted={not self.targeted} or change it."
            )
        return labels if y_target is None else check_labels(y_target, num_classes, n, name="y_target")

    def _call_seed(self) -> int:
        return _next_seed() if self.seed is None else self.seed

    def _compiled(self, model: keras.Model, shape: tuple[int, ...]) -> Any:
        """The attack on batches of images of `shape`, traced once per model and settings for any batch size."""

        def run(x: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *scalars: tf.Tensor) -> tuple[tf.Tensor, ...]:
            attack = dataclasses.replace(self, **dict(zip(self._traced(), scalars, strict=True)))
            model_fn = logits_fn(model)
            with frozen_weights(model):
                x_adv = attack.perturb(model_fn, x, labels, seed=seed, y_target=labels)
                # One forward more: a ReLU's gradient turns NaN into 0, so a broken model can look unattackable.
                logits = model_fn(x_adv)
            finite = tf.reduce_all(tf.math.is_finite(logits)) & tf.reduce_all(tf.math.is_finite(x_adv))
            return x_adv, self.fooled(labels, logits), finite, looks_like_probabilities(logits)

        signature = [
            tf.TensorSpec((None, *shape), tf.float32),
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((2,), tf.int32),
            *(tf.TensorSpec((), tf.float32) for _ in self._traced()),
        ]
        return cached_on(
            model,
            (self._key(skip=("seed", *self._traced())), shape),
            # The concrete function, as in `logits_fn`.
            tf.function(run, input_signature=signature).get_concrete_function,
        )

    def get_config(self) -> dict[str, Any]:
        """The settings, for saving; a tensor among them by its present value."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: float(value) if _is_tensor(value) else value for name, value in values.items()}

    @classmethod
    def from_config(cls: type[SelfAttack], config: dict[str, Any]) -> SelfAttack:
        """The attack that `get_config` describes."""
        return cls(**config)

    def _traced(self) -> tuple[str, ...]:
        # An optional scalar that is not set (None) is no tensor.
        return tuple(name for name in self.traced_fields if getattr(self, name) is not None)

    def _value(self, name: str) -> tf.Tensor:
        value = tf.cast(tf.convert_to_tensor(getattr(self, name)), tf.float32)
        if not np.isfinite(value) or value < 0:
            raise ValueError(f"Expected {name} to be finite and >= 0. Received a tensor of value {float(value):g}.")
        return value

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen; this is for __post_init__

    def _key(self, skip: tuple[str, ...] = ()) -> Hashable:
        names = [field.name for field in dataclasses.fields(self) if field.name not in skip]
        values = (getattr(self, name) for name in names)
        return type(self), tuple(("tensor", id(value)) if _is_tensor(value) else value for value in values)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Attack) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())


def _is_tensor(value: Any) -> bool:
    return isinstance(value, tf.Variable) or tf.is_tensor(value)


def _check_scalar(name: str, value: Scalar) -> Scalar:
    if not _is_tensor(value):
        return check_positive(name, value)
    if value.shape.rank != 0 or not value.dtype.is_floating:
        raise TypeError(
            f"Expected {name} to be a number > 0 or a scalar tensor of floats. "
            f"Received a tensor of shape {value.shape} and {value.dtype}."
        )
    return value


def _next_seed() -> int:
    # Eager, and drawn from the global generator: reproducible after tf.random.set_seed.
    return int(tf.random.uniform((), maxval=2**31 - 1, dtype=tf.int32))
