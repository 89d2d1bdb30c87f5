"""ErrorSilencedModel: the training step of [ESQ] behind Keras' own compile and fit."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_esq._checks import check_count, near_matches
from keras_esq._keras import describe, from_description, keras
from keras_esq.attacks import PGD
from keras_esq.attacks.base import Attack
from keras_esq.attacks.logits import class_logits, head_kind, logits_fn, logits_of
from keras_esq.keras3 import fit_arguments, from_keras3, is_keras3_model, translate_nest
from keras_esq.quantize import frozen_weights, held_weights, low_bit_weights, renew_partition
from keras_esq.training import data_checks
from keras_esq.training.heads import apply_head, loss_for_head, metrics_for_head, trace_head
from keras_esq.training.order import repeatable
from keras_esq.training.pairing import LOGITS, LogitPairing, Pairing, as_pairings, pairing_distance
from keras_esq.training.taps import tap

OBJECTIVES = ("natural", "adversarial", "pairing")


@keras.saving.register_keras_serializable(package="keras_esq")
class ErrorSilencedModel(keras.Model):
    """Trains a network so that adversarial noise is not amplified; compile, fit, evaluate, predict, save as in Keras.

    One training step: draw the stochastic partition of the low-bit weights; make x_adv against the network as it is
    partitioned; run x and x_adv through it together, so that BatchNormalization sees both; update the latent weights
    by the gradient of the objective. Everything runs in one tf.function.

    Besides the compiled loss and metrics, the logs have `pairing_loss` and `adversarial_accuracy` (accuracy on x_adv,
    in training mode), `ratio` for low-bit networks, and with a `validation_attack` also `val_adversarial_accuracy`.
    With objective "adversarial" there is no clean forward pass: loss and metrics of the training logs are those on
    x_adv. `evaluate` and validation are always on clean images, with every filter quantized.

    Args:
        model: the network: a low-bit model from `quantize_model`, or a plain float one (Sequential, functional, or
            a built subclassed model). It is trained in place, not copied. Its output has shape (n, classes), logits,
            softmax or sigmoid. A Keras 3 model is translated first (`esq.from_keras3`): its copy in `network` is
            trained, it isn't.
        attack: makes x_adv in training. Default: [ESQ]'s PGD(eps=8/255, step_size=2/255, steps=10). Its `bounds` are
            the range that the data must keep to. Not used with objective "natural".
        pairing: `LogitPairing`, `ActivationPairing` or a list of them; default LogitPairing(). Only for objective
            "pairing".
        objective: "natural": the compiled loss on x (vanilla training). "adversarial": the compiled loss on x_adv.
            "pairing": the compiled loss on x plus the pairing distances between x and x_adv [ESQ].
        validation_attack: attack for `evaluate` and the validation of `fit`, None for none. The attack of a training
            plus some steps is a good choice.
        seed: for partition and attack; None draws it from TensorFlow's global generator, so that
            tf_keras.utils.set_random_seed makes trainings repeatable.
        custom_objects: for a Keras 3 model, and Keras 3 losses and the like in `compile`: {class or its name:
            tf-keras class} for those of your own, as `esq.from_keras3` takes it.

    Raises:
        TypeError: for a model, attack or pairing of a wrong type.
        ValueError: for an unknown objective, a pairing with an objective other than "pairing", or a layer name that
            the network does not have.

    Reference: [ESQ] Tang, Dong, Su, "Error-Silenced Quantization: Bridging Robustness and Compactness", 2020.
    """

    def __init__(
        self,
        model: Any,
        *,
        attack: Attack | None = None,
        pairing: Any = None,
        objective: str = "pairing",
        validation_attack: Attack | None = None,
        seed: int | None = None,
        custom_objects: dict[Any, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if is_keras3_model(model):
            model = from_keras3(model, custom_objects=custom_objects)
        _check_model(model)
        if objective not in OBJECTIVES:
            raise ValueError(f"Expected an objective out of {list(OBJECTIVES)}. {near_matches(objective, OBJECTIVES)}")
        if pairing is not None and objective != "pairing":
            raise ValueError(
                f"Expected pairing=None with objective={objective!r}, which does not pair. Received {pairing!r}. Drop "
                "it, or use objective='pairing'."
            )
        for name, value in (("attack", attack), ("validation_attack", validation_attack)):
            if value is not None and not isinstance(value, Attack):
                raise TypeError(f"Expected {name} out of esq.attacks, such as esq.attacks.PGD(). Received {value!r}.")
            if value is not None and value.targeted:
                raise ValueError(
                    f"Expected an untargeted {name}: targeted attacks in training are held to be why Adversarial "
                    "Logit Pairing was broken [ESQ]. Received one with targeted=True."
                )
        super().__init__(**{"name": f"{model.name}_esq", **kwargs})
        self.network = model
        self.attack = PGD() if attack is None and objective != "natural" else attack
        self.objective = objective
        self.validation_attack = validation_attack
        self.seed = None if seed is None else check_count("seed", seed, minimum=0)
        # Settings, not layers: past Keras' attribute tracking.
        self.__dict__["_custom_objects"] = custom_objects
        pairings: tuple[Pairing, ...] = ()
        if objective == "pairing":
            pairings = as_pairings(LogitPairing() if pairing is None else pairing)
        self.__dict__["pairing"] = pairings
        self.__dict__["_taps"], self.__dict__["_tapped"] = tap(model, pairings)
        first = self.seed if self.seed is not None else int(tf.random.uniform((), maxval=2**31 - 1, dtype=tf.int32))
        # [seed, training steps so far]: a weight, so that checkpoints continue with the same random numbers.
        self.random_state = self.add_weight(
            name="random_state",
            shape=[2],
            dtype=tf.int32,
            initializer=lambda shape, dtype=None, **_: tf.constant([first, 0], dtype),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.pairing_loss_tracker = keras.metrics.Mean(name="pairing_loss")
        self.adversarial_accuracy_tracker = keras.metrics.Mean(name="adversarial_accuracy")
        self.ratio_tracker = keras.metrics.Mean(name="ratio")
        self.built = True

    # What Keras asks of a model.

    def build(self, input_shape: Any = None) -> None:
        """Nothing to build: the network is."""
        self.built = True

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """The network's own outputs."""
        return self.network(inputs, training=training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The network's."""
        return self.network.compute_output_shape(input_shape)

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        """As Model.compile. A loss given by name fits the network's last layer, logits or probabilities.

        Keras 3 optimizers, schedules, losses and metrics are translated (`esq.from_keras3`).

        Raises:
            ValueError: for a loss object whose `from_logits` contradicts the last layer.
        """
        given = (optimizer, loss, metrics, kwargs)
        optimizer, loss, metrics, kwargs = (translate_nest(part, self._custom_objects) for part in given)
        head, units = trace_head(self.network)
        loss = loss_for_head(loss, head)
        super().compile(optimizer, loss, metrics_for_head(metrics, head, units), **kwargs)
        self.__dict__["_label_kind"] = data_checks.label_kind(loss)

    def make_train_function(self, force: bool = False) -> Any:
        """As Model.make_train_function, with the optimizer's variables made first: made inside, they cost a trace."""
        self._build_optimizer()
        return super().make_train_function(force)

    def _build_optimizer(self) -> None:
        if hasattr(self.optimizer, "build"):  # not the legacy ones
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As Model.fit. Arrays are checked before the first step, everything else batch by batch.

        The order of shuffled arrays follows from `random_state`, as the partitions and attacks do: with
        keras.callbacks.BackupAndRestore a training that was killed goes on from its last epoch to the same weights as
        one that never stopped. (Not for what has random numbers or a state of its own: Dropout, ReduceLROnPlateau.)

        Keras 3 callbacks and PyDatasets are translated; the former see this model as theirs.

        Raises:
            ValueError: for images that are empty, of a wrong shape, NaN or outside the attack's `bounds`, and for
                labels out of range or in the wrong form for the loss.
        """
        with fit_arguments(x, args, kwargs) as (x, args, kwargs):
            self._check_arrays(x, y)
            arguments = repeatable(super().fit, self, x, y, args, kwargs)
            with data_checks.explained():
                return super().fit(**arguments)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As Model.evaluate, with `adversarial_accuracy` if there is a `validation_attack`. Raises as `fit` does."""
        with fit_arguments(x, args, kwargs) as (x, args, kwargs):
            self._check_arrays(x, y)
            with data_checks.explained():
                return super().evaluate(x, y, *args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as a saved model was; Keras leaves that to models with a `compile` of their own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self._build_optimizer()

    def save(self, *args: Any, **kwargs: Any) -> None:
        """As Model.save, before the first call too."""
        if self.save_spec() is None:
            self(keras.Input(self.network.input_shape[1:]))  # tells Keras the input's shape
        super().save(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "name": self.name,
            "model": self.network.to_json(),
            "attack": describe(self.attack),
            "pairing": [describe(p) for p in self.pairing],
            "objective": self.objective,
            "validation_attack": describe(self.validation_attack),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ErrorSilencedModel:
        """The model that `get_config` describes, with new weights."""
        parts = dict(config)
        network = keras.models.model_from_json(parts.pop("model"), custom_objects=custom_objects)
        for name in ("attack", "validation_attack"):
            parts[name] = from_description(parts[name])
        parts["pairing"] = [from_description(p) for p in parts["pairing"]] or None
        return cls(network, **parts)

    # The training step.

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of the objective; called by `fit`."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x, labels = self._prepared(x, y)
        seed = tf.identity(self.random_state)
        # Not before the batch is there: the first of an epoch is drawn by what the state was.
        with tf.control_dependencies([x]):
            self.random_state.assign_add(tf.constant([0, 1]))
        weights = low_bit_weights(self.network)
        # One quantization for the draw, the attack and the update: they can't see different networks.
        with held_weights(weights, renew_partition(weights, _fold(seed, 0))):
            if self.objective == "natural":
                logs = self._natural_step(x, y, sample_weight)
            else:
                x_adv = self._perturb(self.attack, x, labels, _fold(seed, 1))
                if self.objective == "adversarial":
                    logs = self._adversarial_step(x_adv, y, labels, sample_weight)
                else:
                    logs = self._pairing_step(x, x_adv, y, labels, sample_weight)
        if weights:
            self.ratio_tracker.update_state(weights[0].ratio)
            logs["ratio"] = self.ratio_tracker.result()
        return logs

    def _natural_step(self, x: Any, y: Any, sample_weight: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            outputs, _, _ = self._forward(x)
            loss = self.compute_loss(x, y, outputs, sample_weight)
        self._update(y, loss, tape)
        return self._logs(x, y, outputs, sample_weight, ())

    def _adversarial_step(self, x_adv: Any, y: Any, labels: Any, sample_weight: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            outputs, logits, _ = self._forward(x_adv)
            loss = self.compute_loss(x_adv, y, outputs, sample_weight)
        self._update(y, loss, tape)
        self.adversarial_accuracy_tracker.update_state(_correct(logits, labels))
        return self._logs(x_adv, y, outputs, sample_weight, (self.adversarial_accuracy_tracker,))

    def _pairing_step(self, x: Any, x_adv: Any, y: Any, labels: Any, sample_weight: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            outputs, logits, taps = self._forward(tf.concat([x, x_adv], axis=0))
            clean, _ = tf.split(outputs, 2)
            pairing = self._pairing_loss({**taps, LOGITS: logits}, sample_weight)
            # As one more regularization loss, the pairing is part of the logged loss and scaled for replicas.
            loss = self.compiled_loss(y, clean, sample_weight, regularization_losses=[*self.losses, pairing])
        self._update(y, loss, tape)
        self.pairing_loss_tracker.update_state(pairing, sample_weight=tf.shape(x)[0])
        self.adversarial_accuracy_tracker.update_state(_correct(tf.split(logits, 2)[1], labels))
        trackers = (self.pairing_loss_tracker, self.adversarial_accuracy_tracker)
        return self._logs(x, y, clean, sample_weight, trackers)

    def test_step(self, data: Any) -> dict[str, Any]:
        """One batch of `evaluate`: clean, and under the validation attack if there is one."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x, labels = self._prepared(x, y)
        outputs = self(x, training=False)
        self.compute_loss(x, y, outputs, sample_weight)
        if self.validation_attack is None:
            return self._logs(x, y, outputs, sample_weight, ())
        # The same random numbers each time, so that epochs can be compared.
        with frozen_weights(self.network):
            x_adv = self._perturb(self.validation_attack, x, labels, tf.constant([0, 0]))
        self.adversarial_accuracy_tracker.update_state(_correct(logits_fn(self.network)(x_adv), labels))
        return self._logs(x, y, outputs, sample_weight, (self.adversarial_accuracy_tracker,))

    # Its parts.

    def _forward(self, x: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Outputs, logits and tapped activations of the network in training mode."""
        if not tf.inside_function():  # run_eagerly: logits can be found in a graph only
            return tf.function(self._forward)(x)
        outputs, taps = self._tapped(x, training=True) if self._taps else (self.network(x, training=True), [])
        logits = logits_of(outputs)
        # From the logits on, the loss does not have to go through saturated probabilities.
        return apply_head(head_kind(outputs), logits), logits, dict(zip(self._taps, taps, strict=True))

    def _perturb(self, attack: Any, x: Any, labels: Any, seed: Any) -> Any:
        """x_adv against the network in inference mode, with its weights as they are held."""
        if not tf.inside_function():
            return tf.function(self._perturb)(attack, x, labels, seed)
        return attack.perturb(logits_fn(self.network), x, labels, seed=seed)

    def _pairing_loss(self, activations: dict[str, Any], sample_weight: Any) -> Any:
        """Sum over pairings and layers of lambda * mean distance, samples weighted as in Keras' losses."""
        total = tf.constant(0.0)
        for pairing in self.pairing:
            for name, weight in pairing.weights.items():
                clean, adv = tf.split(activations[name], 2)
                distance = pairing_distance(clean, adv, pairing.distance)
                if sample_weight is not None:
                    distance *= tf.cast(tf.reshape(sample_weight, [-1]), distance.dtype)
                total += weight * tf.reduce_mean(distance)
        return total

    def _update(self, y: Any, loss: Any, tape: Any) -> None:
        self._validate_target_and_loss(y, loss)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)

    def _logs(self, x: Any, y: Any, outputs: Any, sample_weight: Any, trackers: tuple[Any, ...]) -> dict[str, Any]:
        """The compiled metrics, and of this model's own just those that this step updates."""
        own = (self.pairing_loss_tracker, self.adversarial_accuracy_tracker, self.ratio_tracker)
        unused = {tracker.name for tracker in own if all(tracker is not t for t in trackers)}
        logs = self.compute_metrics(x, y, outputs, sample_weight)
        return {name: value for name, value in logs.items() if name not in unused}

    def _prepared(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Float images and class ids of a batch, checked."""
        attacks = [a for a in (self.attack, self.validation_attack) if a is not None]
        bounds = attacks[0].bounds if attacks else None
        units = self.network.output_shape[-1]
        return data_checks.check_batch(x, y, bounds, units, self.__dict__.get("_label_kind"))

    def _check_arrays(self, x: Any, y: Any) -> None:
        attacks = [a for a in (self.attack, self.validation_attack) if a is not None]
        bounds = attacks[0].bounds if attacks else None
        units = self.network.output_shape[-1]
        shape = self.network.input_shape
        data_checks.check_arrays(x, y, bounds, shape, units, self.__dict__.get("_label_kind"))


def _fold(seed: Any, data: Any) -> Any:
    return tf.random.experimental.stateless_fold_in(seed, data)


def _correct(logits: Any, labels: Any) -> Any:
    return tf.cast(tf.argmax(class_logits(logits), axis=1, output_type=tf.int32) == labels, tf.float32)


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        raise TypeError(
            "Expected a tf_keras.Model, a low-bit one from esq.quantize_model or a float one, or a Keras 3 model. "
            f"Received {kind}."
        )
    if isinstance(model, ErrorSilencedModel):
        raise TypeError(
            f"Expected a network. Received {model.name!r}, which is an ErrorSilencedModel already. Pass its `.network`."
        )
    if not model.built:
        raise ValueError(
            f"Expected a built model. Received {model.name!r}, whose input shape is not known yet. Start it with "
            "keras.Input(shape), or call model.build((None, height, width, channels)) first."
        )
