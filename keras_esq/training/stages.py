"""A learning rate that starts anew whenever more filters are quantized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_esq._checks import check_count, check_positive
from keras_esq._keras import keras
from keras_esq.quantize import get_schedule


@keras.saving.register_keras_serializable(package="keras_esq")
class CosineStages(keras.optimizers.schedules.LearningRateSchedule):
    """Half a cosine from `learning_rate` to 0 in each stage, so that every ratio gets a whole training's decay.

        ratio = {0: 0.5, 10: 0.75, 20: 1.0}
        rate = esq.training.CosineStages.of_ratio(0.1, ratio, epochs=40, steps_per_epoch=len(x) // 128)
        model.compile(keras.optimizers.SGD(rate), ...)
        model.fit(..., epochs=40, callbacks=[esq.QuantizationRatio(ratio)])

    Args:
        learning_rate: highest, at the beginning of each stage.
        stages: steps at which they end, rising; the last is the end of the training.

    Raises:
        TypeError, ValueError: for a rate or stages out of range.

    Reference: [SQ]'s own code restarts the learning rate with each ratio.
    """

    def __init__(self, learning_rate: float, stages: Sequence[int]) -> None:
        self.learning_rate = check_positive("learning_rate", learning_rate)
        self.stages = [check_count("stages", stage) for stage in stages]
        if not self.stages or any(b <= a for a, b in zip(self.stages, self.stages[1:], strict=False)):
            raise ValueError(f"Expected stages as rising numbers of steps. Received {list(stages)!r}.")

    @classmethod
    def of_ratio(cls, learning_rate: float, ratio: Any, epochs: int, steps_per_epoch: int) -> CosineStages:
        """Stages that end where a schedule's ratio changes.

        Args:
            learning_rate: see the class.
            ratio: as `QuantizationRatio` takes it.
            epochs, steps_per_epoch: of the training.
        """
        check_count("epochs", epochs)
        check_count("steps_per_epoch", steps_per_epoch)
        schedule = get_schedule(ratio)
        ratios = [schedule(epoch, epochs) for epoch in range(epochs)]
        ends = [epoch for epoch in range(1, epochs) if ratios[epoch] != ratios[epoch - 1]]
        return cls(learning_rate, [end * steps_per_epoch for end in [*ends, epochs]])

    def __call__(self, step: Any) -> Any:
        """The rate of that step; 0 after the last stage."""
        step = tf.cast(step, tf.float32)
        ends = tf.constant(self.stages, tf.float32)
        starts = tf.concat([[0.0], ends[:-1]], axis=0)
        stage = tf.minimum(tf.reduce_sum(tf.cast(step >= ends, tf.int32)), len(self.stages) - 1)
        start, end = tf.gather(starts, stage), tf.gather(ends, stage)
        done = tf.minimum((step - start) / (end - start), 1.0)
        return self.learning_rate * 0.5 * (1.0 + tf.cos(math.pi * done))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"learning_rate": self.learning_rate, "stages": self.stages}
