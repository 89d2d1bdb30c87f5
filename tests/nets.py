"""Networks that the tests share."""

from __future__ import annotations

import numpy as np

from keras_esq._keras import keras

layers = keras.layers


def tiny(head: str | None = None, classes: int = 3):
    """The smallest classifier with everything: convolution, BatchNormalization, ReLU, pooling, Dense."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="relu"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(classes, activation=head, name="head"),
        ]
    )


def zoo():
    """Every kind of kernel, BatchNormalization first, nested and shared models, an operator, a regularizer."""

    def block(name):
        x = keras.Input((6, 6, 4))
        y = layers.Conv2D(4, 3, padding="same", name="conv")(x)
        y = layers.BatchNormalization(name="bn")(y)
        return keras.Model(x, layers.ReLU(name="act")(y) + x, name=name)

    shared, other = block("shared"), block("other")
    x = inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="first_bn")(x)
    x = layers.Conv2D(4, 3, kernel_regularizer="l2", name="stem")(x)
    x = shared(other(shared(x)))
    x = layers.SeparableConv2D(6, 3, name="separable")(x)
    x = layers.Conv2DTranspose(5, 3, name="transposed")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.Flatten()(x)
    model = keras.Model(inputs, keras.Sequential([layers.Dense(3, activation="softmax", name="head")])(x), name="zoo")
    randomize(model)
    return model


def randomize(model, seed: int = 0) -> None:
    """Weights as after a training: positive variances, gammas of both signs, biases that are not zero."""
    rng = np.random.default_rng(seed)
    for w in model.weights:
        value = rng.normal(size=w.shape) * (0.3 if len(w.shape) > 1 else 0.5)
        w.assign(np.abs(value) + 0.5 if "variance" in w.name else value)
