"""ErrorSilencedModel: the training step of [ESQ] behind Keras' own compile and fit."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_esq._checks import check_count
from keras_esq._keras import describe, from_description, keras
from keras_esq.attacks import PGD
from keras_esq.attacks.base import Attack
from keras_esq.attacks.logits import input_shape_of, logits_fn
from keras_esq.keras3 import fit_arguments, from_keras3, is_keras3_model, translate_nest
from keras_esq.quantize import frozen_weights, low_bit_weights
from keras_esq.training import data_checks
from keras_esq.training.arguments import check_attacks, check_model, check_pairing
from keras_esq.training.attack_twin import make_twin
from keras_esq.training.heads import input_spec, loss_for_head, metrics_for_head, trace_head
from keras_esq.training.lipschitz import Orthogonality, check_regularizer
from keras_esq.training.objectives import Objective, as_objective
from keras_esq.training.order import evaluate_batches, fit_batches
from keras_esq.training.pairing import as_pairings
from keras_esq.training.step import Step, correct, logs, perturb
from keras_esq.training.taps import tap
from keras_esq.training.weight_perturbation import WeightPerturbation, check_weight_perturbation


@keras.saving.register_keras_serializable(package="keras_esq")
class ErrorSilencedModel(keras.Model):
    """Trains a network so that adversarial noise is not amplified; compile, fit, evaluate, predict, save as in Keras.

    One training step: draw the stochastic partition of the low-bit weights; make x_adv against the network as it is
    partitioned; run x and x_adv through it together, so that BatchNormalization sees both; update the latent weights
    by the gradient of the objective. Everything runs in one tf.function.

    Besides the compiled loss and metrics, the logs have `pairing_loss` (the regularizer's value, that of TRADES and the
    like included) and `adversarial_accuracy` (accuracy on x_adv, in training mode), `ratio` for low-bit networks, and
    with a `validation_attack` also `val_adversarial_accuracy`.
    With objective "adversarial" there is no clean forward pass: loss and metrics of the training logs are those on
    x_adv. `evaluate` and validation are always on clean images, with every filter quantized.

    Args:
        model: the network: a low-bit model from `quantize_model`, or a plain float one (Sequential, functional, or
            a subclassed model that was called on data, or built). It is trained in place, not copied. Its output has
            shape (n, classes), logits, softmax or sigmoid. A Keras 3 model is translated first (`esq.from_keras3`):
            its copy in `network` is trained, it isn't.
        attack: makes x_adv in training. Default: [ESQ]'s PGD(eps=8/255, step_size=2/255, steps=10). Its `bounds` are
            the range that the data must keep to. Not used with objective "natural".
        pairing: `LogitPairing`, `ActivationPairing` or a list of them, for objectives that pair; default: 0.3 x squared
            L2 of the logits for "pairing", 0.1 x for "adversarial_pairing".
        objective: a name, or an instance with settings such as esq.training.Trades(beta=3.0). "natural": the compiled
            loss on x (vanilla training). "adversarial": the compiled loss on x_adv. "pairing": the compiled loss on x
            plus the pairing distances between x and x_adv [ESQ]. "adversarial_pairing": the same with the loss
            on x_adv, more robust in our comparison (benchmarks/results.md). "trades", "mart", and
            RobustDistillation(teacher=...): see esq.training. Default: "pairing" if a pairing is given, so that it is
            [ESQ]'s, else "adversarial_pairing". The attributes `objective`, `attack` and `validation_attack` may be
            set to other ones, by a callback too.
        validation_attack: attack for `evaluate` and the validation of `fit`, None for none. The attack of a training
            plus some steps is a good choice.
        regularizer: esq.training.Orthogonality(beta=...) on the low-bit weights, None for none.
        weight_perturbation: esq.training.WeightPerturbation(gamma=...): each update takes its gradient at the weights'
            worst neighbours; None for none.
        attack_dtype: "bfloat16" makes the training attack against a copy of the network in mixed precision, faster on
            processors with instructions for it (AVX512-BF16, AMX); the update and the validation attack are not
            changed. Default None: the network itself. Objective "free" makes its own attack.
        attack_statistics: of BatchNormalization under the training attack. "moving" (default): as in inference.
            "batch": those of the attacked batch, as in the update, for networks whose moving statistics lag behind
            weights that change sign. The attack is then stronger; the trained networks were equally robust within the
            interval where we compared them, so it is off.
        seed: for partition and attack; None draws it from TensorFlow's global generator, so that
            tf_keras.utils.set_random_seed makes trainings repeatable.
        custom_objects: for a Keras 3 model, and Keras 3 losses and the like in `compile`: {class or its name:
            tf-keras class} for those of your own, as `esq.from_keras3` takes it.

    Raises:
        TypeError: for a model, attack, pairing or objective of a wrong type.
        ValueError: for an unknown objective, a pairing with an objective other than "pairing", or a layer name that
            the network does not have.

    Reference: [ESQ] Tang, Dong, Su, "Error-Silenced Quantization: Bridging Robustness and Compactness", 2020.
    """

    is_its_network = True  # for `unwrap`: its outputs are those of `network`

    def __init__(
        self,
        model: Any,
        *,
        attack: Attack | None = None,
        pairing: Any = None,
        objective: str | Objective | type[Objective] | None = None,
        validation_attack: Attack | None = None,
        regularizer: Orthogonality | None = None,
        weight_perturbation: WeightPerturbation | None = None,
        attack_dtype: str | None = None,
        attack_statistics: str = "moving",
        seed: int | None = None,
        custom_objects: dict[Any, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if is_keras3_model(model):
            model = from_keras3(model, custom_objects=custom_objects)
        check_model(model)
        if objective is None:
            objective = "adversarial_pairing" if pairing is None else "pairing"
        rule = as_objective(objective)
        objective = rule if isinstance(objective, type) else objective
        check_pairing(pairing, objective, rule.pairs)
        check_attacks(attack=attack, validation_attack=validation_attack)
        check_regularizer(regularizer, model)
        check_weight_perturbation(weight_perturbation, rule, model)
        super().__init__(**{"name": f"{model.name}_esq", **kwargs})
        self.network = model
        attack = PGD() if attack is None and rule.attacks else attack
        self.regularizer, self.weight_perturbation = regularizer, weight_perturbation
        if regularizer is not None:
            self.add_loss(lambda: regularizer.of_network(model))
        self.seed = None if seed is None else check_count("seed", seed, minimum=0)
        # Settings, not layers: past Keras' attribute tracking, which would save a teacher.
        self.__dict__.update(_custom_objects=custom_objects, _objective=objective, _rule=rule, _head=None)
        self.__dict__.update(_attack=attack, _validation_attack=validation_attack, _fitting=False)
        pairings = as_pairings(rule.default_pairing if pairing is None else pairing) if rule.pairs else ()
        self.__dict__["pairing"] = pairings
        self.__dict__["taps"] = tap(model, pairings)
        self.attack_dtype, self.attack_statistics = attack_dtype, attack_statistics
        self.__dict__["attack_twin"] = make_twin(model, attack_dtype, attack_statistics)
        # Derived from the epoch by WarmUp, so no part of a checkpoint.
        self.__dict__["regularizer_factor"] = tf.Variable(
            1.0, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )
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
        # Past Keras' attribute tracking: what was counted is no weight of the model.
        self.__dict__.update(
            pairing_loss_tracker=keras.metrics.Mean(name="pairing_loss"),
            adversarial_accuracy_tracker=keras.metrics.Mean(name="adversarial_accuracy"),
            ratio_tracker=keras.metrics.Mean(name="ratio"),
        )
        self.built = True

    @property
    def metrics(self) -> list[Any]:
        """The compiled ones, then those of the objective."""
        return [*super().metrics, self.pairing_loss_tracker, self.adversarial_accuracy_tracker, self.ratio_tracker]

    @property
    def objective(self) -> Any:
        """What is minimized, as it was given: a name or an `Objective`."""
        return self._objective

    @objective.setter
    def objective(self, objective: Any) -> None:
        rule = as_objective(objective)
        objective = rule if isinstance(objective, type) else objective
        if rule.pairs and not self.pairing:
            raise ValueError(
                f"Expected an objective without pairing. Received {objective!r}, for which the model has no pairing. "
                "Make a new one: esq.ErrorSilencedModel(model.network, pairing=esq.LogitPairing())."
            )
        check_weight_perturbation(self.weight_perturbation, rule, self.network)
        if self._head is not None:
            rule.check(self.network, *self._head)
        self.__dict__.update(_objective=objective, _rule=rule)
        if rule.attacks and self.attack is None:
            self.attack = PGD()
        self._forget_traces()

    @property
    def attack(self) -> Attack | None:
        """Of the training; None with an objective that makes none."""
        return self._attack

    @attack.setter
    def attack(self, attack: Attack | None) -> None:
        check_attacks(attack=attack)
        self.__dict__["_attack"] = PGD() if attack is None and self._rule.attacks else attack
        self._forget_traces()

    @property
    def validation_attack(self) -> Attack | None:
        """Of `evaluate` and the validation of `fit`; None for none."""
        return self._validation_attack

    @validation_attack.setter
    def validation_attack(self, attack: Attack | None) -> None:
        check_attacks(validation_attack=attack)
        self.__dict__["_validation_attack"] = attack
        self._forget_traces()

    def _forget_traces(self) -> None:
        """Of both steps: either checks the images by the `bounds` of the attack that there is."""
        self.train_function = self.test_function = None
        if self._fitting:  # Keras makes it just before the first epoch
            self.make_train_function()

    @property
    def regularizes(self) -> bool:
        """Whether the objective has a regularizer."""
        return self._rule.regularizes

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
        self._rule.check(self.network, head, units)
        self.__dict__["_head"] = head, units
        loss = loss_for_head(loss, head)
        if "weighted_metrics" in kwargs:
            kwargs = {**kwargs, "weighted_metrics": metrics_for_head(kwargs["weighted_metrics"], head, units)}
        super().compile(optimizer, loss, metrics_for_head(metrics, head, units), **kwargs)
        self.__dict__["_label_kind"] = data_checks.label_kind(loss)

    def make_train_function(self, force: bool = False) -> Any:
        """As Model.make_train_function, with the optimizer's variables made first: made inside, they cost a trace."""
        self._rule.ready(self.attack)
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
                labels out of range or in the wrong form for the loss; for probabilities whose softmax or sigmoid
                is out of sight, which would pass for logits.
        """
        with fit_arguments(x, args, kwargs) as (x, args, kwargs):
            self._check_arrays(x, y)
            if self._limits()[1] == 1:
                data_checks.check_scores(self.network, x)
            arguments = fit_batches(super().fit, self, x, y, args, kwargs, self._check_arrays)
            self.regularizer_factor.assign(1.0)  # an interrupted WarmUp left another
            self.__dict__["_fitting"] = True
            try:
                with data_checks.explained():
                    return super().fit(**arguments)
            finally:
                self.__dict__["_fitting"] = False

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As Model.evaluate, with `adversarial_accuracy` if there is a `validation_attack`. Raises as `fit` does."""
        with fit_arguments(x, args, kwargs) as (x, args, kwargs):
            self._check_arrays(x, y)
            arguments = evaluate_batches(super().evaluate, self, x, y, args, kwargs)
            with data_checks.explained():
                return super().evaluate(**arguments)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as a saved model was; Keras leaves that to models with a `compile` of their own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self._build_optimizer()

    def save(self, *args: Any, **kwargs: Any) -> None:
        """As Model.save, before the first call too."""
        if self.save_spec() is None:
            self(keras.Input(input_spec(self.network).shape[1:]))  # tells Keras the input's shape
        super().save(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "name": self.name,
            "model": self.network.to_json(),
            # A subclassed one has to be told what it was built for.
            "build": None if getattr(self.network, "outputs", None) else self.network.get_build_config(),
            "attack": describe(self.attack),
            "pairing": [describe(p) for p in self.pairing],
            "objective": describe(self.objective) if isinstance(self.objective, Objective) else self.objective,
            "validation_attack": describe(self.validation_attack),
            "regularizer": describe(self.regularizer),
            "weight_perturbation": describe(self.weight_perturbation),
            "attack_dtype": self.attack_dtype,
            "attack_statistics": self.attack_statistics,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ErrorSilencedModel:
        """The model that `get_config` describes, with new weights."""
        parts = dict(config)
        network = keras.models.model_from_json(parts.pop("model"), custom_objects=custom_objects)
        build = parts.pop("build", None)  # older files lack it
        if build and not network.built:
            network.build_from_config(build)
        for name in ("attack", "validation_attack"):
            parts[name] = from_description(parts[name])
        # Older files lack some, or name the objective.
        for name in ("objective", "regularizer", "weight_perturbation"):
            if isinstance(parts.get(name), dict):
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
        values = self._rule.train(Step(self, x, y, labels, sample_weight, seed))
        weights = low_bit_weights(self.network)
        if weights:
            self.ratio_tracker.update_state(weights[0].ratio)
            values["ratio"] = self.ratio_tracker.result()
        return values

    def test_step(self, data: Any) -> dict[str, Any]:
        """One batch of `evaluate`: clean, and under the validation attack if there is one."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x, labels = self._prepared(x, y)
        outputs = self(x, training=False)
        self.compute_loss(x, y, outputs, sample_weight)
        if self.validation_attack is None:
            return logs(self, x, y, outputs, sample_weight, ())
        # The same random numbers each time, so that epochs can be compared.
        with frozen_weights(self.network):
            x_adv = perturb(self.network, self.validation_attack, x, labels, tf.constant([0, 0]))
        self.adversarial_accuracy_tracker.update_state(correct(logits_fn(self.network)(x_adv), labels))
        return logs(self, x, y, outputs, sample_weight, (self.adversarial_accuracy_tracker,))

    def passes_of_step(self, x: Any, y: Any, seed: Any) -> None:
        """The passes in training mode that a step makes, with every filter quantized and no update; graph code.

        They move what such passes move: the statistics of BatchNormalization.

        Args:
            x, y: a batch, as for `train_step`.
            seed: of the attack, int32 (2,).
        """
        x, labels = self._prepared(x, y)
        step = Step(self, x, y, labels, None, seed)
        with frozen_weights(self.network):
            self._rule.loss(step, self._rule.perturb(step) if self._rule.attacks else None)

    def _prepared(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Float images and class ids of a batch, checked."""
        bounds, units, kind = self._limits()
        return data_checks.check_batch(x, y, bounds, units, kind, lambda: input_spec(self.network).shape)

    def _check_arrays(self, x: Any, y: Any) -> None:
        bounds, units, kind = self._limits()
        data_checks.check_arrays(x, y, bounds, input_shape_of(self.network), units, kind)

    def _limits(self) -> tuple[Any, int, Any]:
        """What data must keep to: bounds of the images, number of outputs, kind of labels."""
        attack = self.attack or self.validation_attack
        _, units = self._head or trace_head(self.network)  # before compile too; a subclassed model has no output_shape
        return attack and attack.bounds, units, self.__dict__.get("_label_kind")
