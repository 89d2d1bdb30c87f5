"""Error amplification: how an adversarial difference grows from layer to layer [ESQ]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq._checks import check_count, check_images, near_matches
from keras_esq._keras import keras
from keras_esq._text import aligned
from keras_esq.attacks.logits import check_model, input_shape_of, logits_of
from keras_esq.quantize.graph import ordered_nodes, unwrap

LOGITS = "logits"
# Keras' names of TensorFlow functions that are called on its tensors.
_SUMS = frozenset(("__operators__.add", "math.add", "math.add_n"))
_NONLINEAR = frozenset(
    {
        *("nn.relu", "nn.relu6", "nn.crelu", "nn.leaky_relu", "nn.elu", "nn.selu", "nn.gelu", "nn.silu", "nn.swish"),
        *("nn.softplus", "math.softplus", "nn.softsign", "math.tanh", "nn.tanh", "math.sigmoid", "nn.sigmoid"),
    }
)


@dataclass(frozen=True, kw_only=True, eq=False)
class AmplificationProfile(Mapping[str, float]):
    """D_l per layer, first to last; as a mapping it gives the mean: `profile["conv1"]`.

    Args:
        mean: {layer name: mean of D_l over the samples}; "logits" is the last one.
        std: {layer name: standard deviation over the samples}.
        undefined: {layer name: samples left out, as their clean activation is all zero and the attacked one is not,
            which is no finite ratio}. If all are left out, mean and std are NaN.
        n: number of samples.
    """

    mean: dict[str, float]
    std: dict[str, float]
    undefined: dict[str, int]
    n: int

    def __getitem__(self, layer: str) -> float:
        if layer not in self.mean:
            raise KeyError(f"Expected a layer of this profile. Received: {layer!r}. {near_matches(layer, self.mean)}")
        return self.mean[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.mean)

    def __len__(self) -> int:
        return len(self.mean)

    def table(self) -> str:
        """The profile as aligned text for a terminal."""
        rows = [(name, f"{self.mean[name]:.4f}", f"{self.std[name]:.4f}", self.undefined[name]) for name in self.mean]
        return aligned([("layer", "mean D_l", "std", "undefined"), *rows])


def error_amplification(
    model: keras.Model, x: Any, x_adv: Any, layers: str | Sequence[str] = "auto", batch_size: int = 128
) -> AmplificationProfile:
    """Measure D_l = ||F_l(x) - F_l(x')||_2 / ||F_l(x)||_2 after layers of a network in inference mode.

    Where both F_l(x) and the difference are zero, D_l is 0.

    Args:
        model: a Sequential or functional tf_keras model, float or quantized, or an ErrorSilencedModel around one.
        x: images (n, ...).
        x_adv: the same images attacked, (n, ...).
        layers: layer names, or "auto": every layer that ends in a nonlinear activation, every residual Add and nested
            model, and the logits; `x + y` and tf.nn.relu(x) between layers count too. A wrapped layer goes by its own
            name or its wrapper's. "logits" is the logits of the model unless a layer is called so. A layer used several
            times has the rows "name", "name:1", ...
        batch_size: images run at once.

    Raises:
        TypeError: if `model` is no tf_keras model, or x or x_adv does not hold numbers.
        ValueError: for a subclassed or unbuilt model, an unknown layer, x and x_adv of different shapes, NaN in them or
            in an activation.

    Reference: [ESQ] Tang et al., "Error-Silenced Quantization: Bridging Robustness and Compactness", 2020.
    """
    network = unwrap(check_model(model))
    check_count("batch_size", batch_size)
    if not getattr(network, "outputs", None):
        raise ValueError(
            f"Expected a built Sequential or functional model, whose layers are known. Received {network.name!r} "
            f"({type(network).__name__}). Build it, or rebuild it with keras.Model(inputs, outputs)."
        )
    clean = check_images(x, None, input_shape_of(network))
    attacked = check_images(x_adv, None, clean.shape, name="x_adv")
    if len(attacked) != len(clean):
        raise ValueError(f"Expected as many x_adv as x, {len(clean)}. Received {len(attacked)}.")
    tensors = _select(network, layers)
    features = keras.Model(network.inputs, [*tensors.values(), network.outputs[0]])

    @tf.function
    def traced(a: tf.Tensor, b: tf.Tensor) -> list[tf.Tensor]:
        pairs = zip(_activations(features, a, tensors), _activations(features, b, tensors), strict=True)
        return [_relative_distance(one, other) for one, other in pairs]

    # The concrete function: TensorFlow warns of retracing where one tf.function after the other is only new.
    spec = tf.TensorSpec((None, *clean.shape[1:]), tf.float32)
    ratios = traced.get_concrete_function(spec, spec)
    parts = [
        [
            ratio.numpy()
            for ratio in ratios(tf.constant(clean[i : i + batch_size]), tf.constant(attacked[i : i + batch_size]))
        ]
        for i in range(0, len(clean), batch_size)
    ]
    values = {name: np.concatenate(part) for name, part in zip(tensors, zip(*parts, strict=True), strict=True)}
    for name, value in values.items():
        if np.isnan(value).any():
            raise ValueError(
                f"Expected finite activations. Layer {name!r} returned NaN or infinity. Check the weights."
            )
    finite = {name: value[np.isfinite(value)] for name, value in values.items()}
    return AmplificationProfile(
        mean={name: float(value.mean()) if len(value) else float("nan") for name, value in finite.items()},
        std={name: float(value.std()) if len(value) else float("nan") for name, value in finite.items()},
        undefined={name: len(values[name]) - len(value) for name, value in finite.items()},
        n=len(clean),
    )


def _activations(features: keras.Model, x: tf.Tensor, tensors: dict[str, Any]) -> list[tf.Tensor]:
    *chosen, outputs = features(x, training=False)
    return [logits_of(outputs) if tensors[name] is features.outputs[-1] else one
            for name, one in zip(tensors, chosen, strict=True)]  # fmt: skip


def _relative_distance(clean: tf.Tensor, attacked: tf.Tensor) -> tf.Tensor:
    """D_l of each sample (n,), float64; infinity where only the clean activation is zero."""
    axes = list(range(1, clean.shape.rank))
    # float64: a sum of squares over a large map loses digits in float32.
    clean, attacked = tf.cast(clean, tf.float64), tf.cast(attacked, tf.float64)
    difference = tf.sqrt(tf.reduce_sum(tf.square(clean - attacked), axes))
    length = tf.sqrt(tf.reduce_sum(tf.square(clean), axes))
    return tf.where((difference == 0) & (length == 0), tf.zeros_like(length), difference / length)


def _select(network: keras.Model, layers: str | Sequence[str]) -> dict[str, Any]:
    """{row name: symbolic tensor} of the chosen layers. The network's own output stands for its logits."""
    output = network.outputs[0]
    selected: dict[str, Any] = {}
    if layers == "auto":
        nodes = {id(layer): node for layer, node in ordered_nodes(network)}
        for layer in network.layers:
            if _is_stage(layer) or _is_operator_stage(layer, nodes.get(id(layer))):
                selected |= {name: one for name, one in _outputs(network, layer).items() if one is not output}
        return {name: one for name, one in selected.items() if name != LOGITS} | {LOGITS: output}
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names:
        raise ValueError("Expected 'auto' or at least one layer name. Received none.")
    known = {layer.name: layer for layer in network.layers}
    by_name = {_inner(layer).name: layer for layer in network.layers} | known
    for name in names:
        if name == LOGITS and name not in by_name:
            selected[LOGITS] = output
        elif name not in by_name:
            raise ValueError(
                f"Expected the name of a layer of {network.name!r}. Received: {name!r}. {near_matches(name, by_name)}"
            )
        else:
            selected |= _outputs(network, by_name[name], name)
    return selected


def _inner(layer: Any) -> Any:
    """The layer inside a wrapper of tfmot, whose name models share whether quantized or not."""
    inner = getattr(layer, "layer", None)
    return inner if isinstance(inner, keras.layers.Layer) else layer


def _is_stage(layer: Any) -> bool:
    inner = _inner(layer)
    if isinstance(inner, keras.Model | keras.layers.Add):
        return True
    kinds = ("ReLU", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU")
    if isinstance(inner, tuple(getattr(keras.layers, kind) for kind in kinds)):
        return True
    activation = getattr(inner, "activation", None)
    activation = getattr(activation, "activation", activation)  # tfmot wraps activations as well
    return (
        callable(activation)
        and activation is not keras.activations.linear
        and type(activation).__name__ != "NoOpActivation"
    )


def _is_operator_stage(layer: Any, node: Any) -> bool:
    """The same for a TensorFlow function that was called on Keras' tensors, such as `x + y`."""
    function = layer.get_config().get("function") if type(layer).__name__ == "TFOpLambda" else None
    if function in _SUMS:  # of two tensors: a constant that is added is no residual
        arguments = tf.nest.flatten((node.call_args, node.call_kwargs))
        return sum(tf.is_tensor(one) and keras.backend.is_keras_tensor(one) for one in arguments) > 1
    return function in _NONLINEAR


def _outputs(network: keras.Model, layer: Any, name: str | None = None) -> dict[str, Any]:
    """{row name: tensor} of a layer's uses in this network; it may be used in other networks too."""
    name = name or _inner(layer).name
    found: list[Any] = []
    node = 0
    while True:
        try:
            tensor = layer.get_output_at(node)
        except (ValueError, RuntimeError):  # Keras' way to say that there are no more uses
            break
        node += 1
        if isinstance(tensor, list | tuple | dict):
            raise ValueError(f"Expected layers with one output. {name!r} has {len(tensor)}: name another layer.")
        if _belongs(network, tensor):
            found.append(tensor)
    return {name if not i else f"{name}:{i}": tensor for i, tensor in enumerate(found)}


def _belongs(network: keras.Model, tensor: Any) -> bool:
    try:
        keras.Model(network.inputs, tensor)
    except ValueError:  # the tensor does not follow from these inputs
        return False
    return True
