"""Tables of what is called otherwise in tf-keras than in Keras 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_esq._keras import keras
from keras_esq.keras3 import functions
from keras_esq.keras3.proof import as_arrays
from keras_esq.keras3.settings import Rule

# Keras 3's name -> tf-keras' function, where one is missing or another function has the name.
TO_TF_ACTIVATIONS: dict[str, Any] = {
    "silu": keras.activations.swish,
    "hard_sigmoid": functions.hard_sigmoid,
    "hard_silu": functions.hard_silu,
    "hard_swish": functions.hard_silu,
    "hard_tanh": functions.hard_tanh,
    "log_sigmoid": functions.log_sigmoid,
    "celu": functions.celu,
    "squareplus": functions.squareplus,
    "tanh_shrink": functions.tanh_shrink,
    "soft_shrink": functions.soft_shrink,
    "hard_shrink": functions.hard_shrink,
    "keras_esq>hard_sigmoid_of_keras_2": keras.activations.hard_sigmoid,  # as to_keras3 makes it
}

TO_TF: dict[str, Rule] = {
    "layers.LeakyReLU": Rule(rename={"negative_slope": "alpha"}),
    "layers.LayerScale": Rule(to=functions.LayerScale),
}


def normalization(layers: Any) -> Callable[[Any], Any]:
    """With mean and variance as settings: as weights, tf-keras does not see them when they are set."""

    def make(layer: Any) -> Any:
        config = layer.get_config()
        if config.get("mean") is None:
            shape = layer.get_weights()[0].shape
            # What the layer computes with; its weights are the same only after finalize_state().
            config["mean"], config["variance"] = (np.reshape(a, shape) for a in as_arrays([layer.mean, layer.variance]))
        settings = {key: config[key] for key in ("name", "mean", "variance", "invert")}
        axis = config["axis"]
        return layers.Normalization(axis=list(axis) if isinstance(axis, (list, tuple)) else axis, **settings)

    return make


def lambda_layer(layers: Any) -> Callable[[Any], Any]:
    """With the function itself, as configs hold byte code. Whether it does with other tensors is seen when called."""

    def make(layer: Any) -> Any:
        config = layer.get_config()
        return layers.Lambda(layer.function, arguments=config.get("arguments"), name=layer.name)

    return make


def _adaptive(pooling: Any) -> Callable[[Any], Callable[..., Any]]:
    """Adaptive pooling of sizes that the output's divide, as plain pooling."""

    def make(layer: Any) -> Callable[..., Any]:
        wanted = layer.get_config()["output_size"]
        rows, columns = (wanted, wanted) if isinstance(wanted, int) else wanted

        def call(x: Any) -> Any:
            _, height, width, _ = x.shape
            if None in (height, width) or height % rows or width % columns:
                raise ValueError(f"{height}x{width} can't be divided evenly into {rows}x{columns}.")
            return pooling((height // rows, width // columns), name=layer.name)(x)

        return call

    return make


def scaled_sum(layers: Any, layer: Any) -> Callable[..., Any]:
    """InceptionResNetV2's CustomScaleLayer: x + scale * y."""
    scale = layer.get_config()["scale"]

    def call(inputs: Any) -> Any:
        scaled = layers.Rescaling(scale, name=f"{layer.name}_scale")(inputs[1])
        return layers.Add(name=layer.name)([inputs[0], scaled])

    return call


# Class -> function of the layer that makes its counterpart from more than its settings.
SPECIAL: dict[str, Callable[[Any], Any]] = {
    "Normalization": normalization(keras.layers),
    "Lambda": lambda_layer(keras.layers),
}
# Class -> function of the layer that makes a function of tensors over there, from layers without weights.
COMPOSED: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "CustomScaleLayer": lambda layer: scaled_sum(keras.layers, layer),
    "AdaptiveAveragePooling2D": _adaptive(keras.layers.AveragePooling2D),
    "AdaptiveMaxPooling2D": _adaptive(keras.layers.MaxPooling2D),
}
