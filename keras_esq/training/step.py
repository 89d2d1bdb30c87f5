"""One training step in progress: what objectives see of the model, the batch and its random numbers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_esq.attacks.hidden import checked_logits
from keras_esq.attacks.logits import class_logits, head_kind, logits_fn, logits_of
from keras_esq.quantize import held_weights, low_bit_weights, renew_partition
from keras_esq.training.heads import apply_head


@dataclasses.dataclass(frozen=True)
class Forward:
    """One pass in training mode.

    Attributes:
        outputs: as the network returns them, (n, units).
        logits: behind them, (n, units), float32.
        taps: {layer name: activations} of the layers to pair.
    """

    outputs: Any
    logits: Any
    taps: dict[str, Any]

    @property
    def class_logits(self) -> Any:
        """One logit a class: (n, classes), also for a network with a single unit."""
        return class_logits(self.logits)


@dataclasses.dataclass(frozen=True)
class Result:
    """What an objective computed.

    Attributes:
        loss: scalar, to be minimized.
        x: the images that the compiled metrics are about, and
        outputs: the network's outputs for them.
        regularizer: scalar, logged as "pairing_loss"; None if there is none.
        adv_logits: logits of x_adv, for "adversarial_accuracy"; None if there are none.
    """

    loss: Any
    x: Any
    outputs: Any
    regularizer: Any = None
    adv_logits: Any = None


class Step:
    """A batch, and what an objective does with it; graph code.

    Attributes:
        x: images (n, ...), float32, checked.
        y: labels as given. labels: their class ids (n,), int32.
        sample_weight: (n,) or (n, 1), class weights included, or None.
        attack: the training attack of the model, or None.
    """

    def __init__(self, model: Any, x: Any, y: Any, labels: Any, sample_weight: Any, seed: Any) -> None:
        self.model = model
        self.x, self.y, self.labels, self.sample_weight = x, y, labels, sample_weight
        self.attack = model.attack
        self._seed = seed
        self._held: list[Any] = []  # the low-bit weights of this partition

    @contextlib.contextmanager
    def partition(self, replay: int = 0) -> Iterator[None]:
        """Draw the partition and hold the quantized weights in the block: attack and update can't see different ones.

        Args:
            replay: number of the update within this step, each of which draws anew.
        """
        weights = low_bit_weights(self.model.network)
        self._held = renew_partition(weights, self.seed(0, replay))
        with held_weights(weights, self._held):
            yield

    @contextlib.contextmanager
    def perturbed_weights(self, loss: Callable[[], Any]) -> Iterator[None]:
        """Within the block, in `partition`, the weights are as the model's `weight_perturbation` moves them, if any.

        Args:
            loss: what they climb.
        """
        perturbation = self.model.weight_perturbation
        if perturbation is None:
            yield
            return
        with perturbation.apply(self.model.network, self._held, loss):
            yield

    def seed(self, purpose: int, replay: int = 0) -> Any:
        """Random numbers of this step: 0 for the partition, 1 for the attack."""
        seed = fold(self._seed, purpose)
        return fold(seed, replay) if replay else seed

    def perturb(self, attack: Any = None) -> Any:
        """x_adv by `attack`; default: the training attack."""
        twin = self.model.attack_twin
        network = self.model.network if twin is None else twin.renewed()
        return perturb(network, attack or self.attack, self.x, self.labels, self.seed(1))

    def forward(self, x: Any) -> Forward:
        """A pass of `x` in training mode."""
        return forward(self.model, x)

    def forward_pair(self, x_adv: Any) -> tuple[Forward, Forward]:
        """A pass of x and x_adv together, so that BatchNormalization sees both, taken apart again."""
        both = self.forward(tf.concat([self.x, x_adv], axis=0))
        outputs, logits = tf.split(both.outputs, 2), tf.split(both.logits, 2)
        taps = [{name: tf.split(value, 2)[i] for name, value in both.taps.items()} for i in (0, 1)]
        return Forward(outputs[0], logits[0], taps[0]), Forward(outputs[1], logits[1], taps[1])

    def mean(self, values: Any) -> Any:
        """Mean of a value per sample (n,), weighted as in Keras' losses: by the batch size, not the sum of weights."""
        if self.sample_weight is not None:
            values *= tf.cast(tf.reshape(self.sample_weight, [-1]), values.dtype)
        return tf.reduce_mean(values)

    def weighted(self, factor: float) -> Any:
        """The sample weights times `factor`, (n,)."""
        if self.sample_weight is None:
            return tf.fill(tf.shape(self.x)[:1], tf.constant(factor, tf.float32))
        return factor * tf.cast(tf.reshape(self.sample_weight, [-1]), tf.float32)

    def ramped(self, regularizer: Any) -> Any:
        """`regularizer` times the factor that `WarmUp` sets, 1 without one."""
        return regularizer * self.model.regularizer_factor

    def compiled_loss(self, outputs: Any, *terms: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """The compiled loss of `outputs` plus `terms`, scalars.

        As regularization losses the terms are part of the logged loss and scaled for replicas.

        Args:
            outputs: (n, units).
            terms: what is added; `ramped` and `mean` make them.
            y, sample_weight: others than the batch's.
        """
        y = self.y if y is None else y
        weight = self.sample_weight if sample_weight is None else sample_weight
        losses = [*self.model.losses, *terms]
        return self.model.compiled_loss(y, outputs, weight, regularization_losses=losses)

    def update(self, loss: Any, tape: Any) -> None:
        """Minimize."""
        self.model._validate_target_and_loss(self.y, loss)
        self.model.optimizer.minimize(loss, self.model.trainable_variables, tape=tape)

    def update_with_gradient(self, loss: Any, tape: Any, x_adv: Any) -> Any:
        """Minimize, and return the gradient with respect to `x_adv` too, which the tape watches: one backward pass."""
        self.model._validate_target_and_loss(self.y, loss)
        variables, optimizer = self.model.trainable_variables, self.model.optimizer
        *gradients, gradient = _gradients(optimizer, loss, [*variables, x_adv], tape)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return gradient

    def logs(self, result: Result) -> dict[str, Any]:
        """Update the metrics and return the logs."""
        model, trackers = self.model, []
        if result.regularizer is not None:
            model.pairing_loss_tracker.update_state(result.regularizer, sample_weight=tf.shape(self.x)[0])
            trackers.append(model.pairing_loss_tracker)
        if result.adv_logits is not None:
            model.adversarial_accuracy_tracker.update_state(correct(result.adv_logits, self.labels))
            trackers.append(model.adversarial_accuracy_tracker)
        return logs(model, result.x, self.y, result.outputs, self.sample_weight, trackers)


def _gradients(optimizer: Any, loss: Any, sources: list[Any], tape: Any) -> list[Any]:
    """What `optimizer.minimize` applies, of any tensors."""
    if hasattr(optimizer, "compute_gradients"):
        return [gradient for gradient, _ in optimizer.compute_gradients(loss, sources, tape)]
    if not hasattr(optimizer, "get_scaled_loss"):  # a legacy one
        return tape.gradient(loss, sources)
    with tape:
        scaled = optimizer.get_scaled_loss(loss)
    return optimizer.get_unscaled_gradients(tape.gradient(scaled, sources))


def forward(model: Any, x: Any) -> Forward:
    """A pass of `x` through an ErrorSilencedModel's network in training mode, with the taps for its pairings."""

    def run(x: Any) -> tuple[Any, Any, dict[str, Any]]:
        names, tapped = model.taps
        outputs, taps, _ = tapped(x, training=True) if names else (model.network(x, training=True), [], [])
        logits = checked_logits(outputs, logits_of(outputs))
        # From the logits on, the loss does not have to go through saturated probabilities.
        return apply_head(head_kind(outputs), logits), logits, dict(zip(names, taps, strict=True))

    # run_eagerly: logits can be found in a graph only.
    return Forward(*(run(x) if tf.inside_function() else tf.function(run)(x)))


def perturb(network: Any, attack: Any, x: Any, labels: Any, seed: Any) -> Any:
    """x_adv against the network in inference mode, with its weights as they are held."""

    def run(x: Any, labels: Any, seed: Any) -> Any:
        return attack.perturb(logits_fn(network), x, labels, seed=seed)

    return (run if tf.inside_function() else tf.function(run))(x, labels, seed)


def logs(model: Any, x: Any, y: Any, outputs: Any, sample_weight: Any, trackers: Any) -> dict[str, Any]:
    """The compiled metrics, and of the model's own just those that this step updates."""
    own = (model.pairing_loss_tracker, model.adversarial_accuracy_tracker, model.ratio_tracker)
    unused = {tracker.name for tracker in own if all(tracker is not t for t in trackers)}
    values = model.compute_metrics(x, y, outputs, sample_weight)
    return {name: value for name, value in values.items() if name not in unused}


def correct(logits: Any, labels: Any) -> Any:
    """1.0 where the most likely class is the label, (n,)."""
    return tf.cast(tf.argmax(class_logits(logits), axis=1, output_type=tf.int32) == labels, tf.float32)


def fold(seed: Any, data: int) -> Any:
    """A stateless seed of its own for each `data`."""
    return tf.random.experimental.stateless_fold_in(seed, data)
