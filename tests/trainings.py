"""Small networks and trainings that the tests of objectives and training options share."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from nets import layers, randomize

import keras_esq as esq
from keras_esq._keras import keras
from keras_esq.attacks.base import Attack

Y = np.arange(12) % 3
PGD = esq.attacks.PGD(eps=0.1, step_size=0.05, steps=2)
N = 96


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Brighter(Attack):
    """A fixed change of every image, so that losses can be computed by hand."""

    by: float = 0.3

    def generate(self, model_fn, x, labels, seed):
        return x + self.by


def net(head=None, units=3, seed=0):
    """Without BatchNormalization, so that training mode computes what inference does."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(units, activation=head, name="head"),
        ]
    )
    randomize(model, seed)
    return model


def compiled(network, objective, lr=0.0, attack=None, loss="sparse_categorical_crossentropy", **kwargs):
    model = esq.ErrorSilencedModel(network, attack=attack or Brighter(), objective=objective, **kwargs)
    model.compile(keras.optimizers.SGD(lr), loss, metrics=["accuracy"])
    return model


def ce_tf(z, y):
    """Mean cross-entropy of logits and one-hot rows."""
    return -tf.reduce_mean(tf.math.log(tf.reduce_sum(tf.nn.softmax(z) * y, 1)))


def small(width, seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(width, 3, 2, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10, name="head"),
        ]
    )


def low_bit_training(objective):
    low_bit = esq.quantize_model(small(3, seed=3), "ternary")
    attack = esq.attacks.PGD(eps=0.15, step_size=0.05, steps=1)
    model = esq.ErrorSilencedModel(low_bit, attack=attack, objective=objective, seed=7)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit(model, digits, epochs, *callbacks, initial_epoch=0):
    callbacks = [esq.QuantizationRatio({0: 0.5, 1: 1.0}), *callbacks]
    options = {"batch_size": 48, "initial_epoch": initial_epoch, "verbose": 0}
    return model.fit(digits.x_train[:N], digits.y_train[:N], epochs=epochs, callbacks=callbacks, **options).history


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))
