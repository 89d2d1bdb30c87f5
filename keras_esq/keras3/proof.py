"""Proof that a model and its translation compute the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_esq.keras3.detect import is_keras3, keras3
from keras_esq.keras3.graph import Call, Graph, InputSpec, flatten, map_nest, run

# By the narrowest type that the model computes in. Half precision can't do better than a few of its own steps a layer.
TOLERANCES = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}


def random_inputs(specs: tuple[InputSpec, ...]) -> list[np.ndarray]:
    """One batch for each input: numbers in [0, 1), in the second sample in [0, 255); 0 and 1 where it takes integers.

    A batch axis of None becomes 2, a None in an image 96 (most networks shrink it by 32), in a sequence 8.

    Raises:
        ValueError: for an input that takes no numbers.
    """
    rng = np.random.default_rng(0)
    inputs = []
    for spec in specs:
        any_size = 96 if len(spec.shape) > 3 else 8
        shape = tuple((2 if i == 0 else any_size) if size is None else size for i, size in enumerate(spec.shape))
        if spec.dtype.startswith(("int", "uint", "bool")):
            inputs.append(rng.integers(0, 2, shape).astype(spec.dtype))
        elif spec.dtype.startswith(("float", "bfloat")):
            x = rng.random(shape, dtype=np.float32)
            x[1:] *= 255.0
            inputs.append(x)
        else:
            raise ValueError(
                f"Expected inputs of numbers. Received a model whose input {spec.name!r} is of {spec.dtype}. Translate "
                "the part behind it, and prepare its input in the data pipeline."
            )
    return inputs


def as_arrays(nest: Any) -> list[np.ndarray]:
    """The tensors in `nest`, of whatever library, as arrays; half precision as float32."""
    arrays = []
    for leaf in flatten(nest):
        array = leaf.numpy() if tf.is_tensor(leaf) else keras3().ops.convert_to_numpy(leaf)
        arrays.append(np.asarray(array, np.float32) if array.dtype.kind not in "iub" else array)
    return arrays


def difference(expected: Any, received: Any, floor: float = 1e-30) -> float:
    """The largest difference, as a share of the largest |expected| of the same sample; inf for other shapes or NaN.

    Args:
        expected, received: nests of tensors of either Keras.
        floor: a scale that is smaller counts as this.
    """
    expected, received = as_arrays(expected), as_arrays(received)
    if len(expected) != len(received):
        return np.inf
    worst = 0.0
    for a, b in zip(expected, received, strict=True):
        if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return np.inf
        if a.size == 0:
            continue
        rows = (len(a), -1) if a.ndim else (1, 1)
        a, b = (np.nan_to_num(np.reshape(array, rows).astype(np.float64)) for array in (a, b))
        error, scale = np.abs(a - b).max(axis=1), np.abs(a).max(axis=1)
        worst = max(worst, float(np.max(error / np.maximum(scale, floor))))
    return worst


def prove(
    source: Any,
    target: Any,
    graph_of: Callable[[Any], Graph],
    counterpart_of: Callable[[Any], Callable[..., Any] | None],
    tensor: Callable[[Any], Any],
    there: str,
) -> None:
    """Raise unless `source` and its translation `target` agree, layer by layer and as a whole.

    Layer by layer: each layer of `source` and its counterpart get the same input, what comes out of the layers of
    `source` before it. So the first one that differs is the one that is wrong, and a branch whose weights are so small
    that it hardly reaches the output is looked at too. As a whole: to the same share of the largest output, or of 1
    where that is smaller, as rounding adds up over the layers; or, where `source` amplifies rounding errors to more
    than that, to what it makes of a change of its inputs by 1e-5 of the largest.

    Args:
        source, target: the model and its translation.
        graph_of: reads a source model.
        counterpart_of: the layer or function over there that was made for an operation; None for a nested model.
        tensor: makes a tensor of the target's library from an array.
        there: the name of that library.

    Raises:
        ValueError: naming the first layer that differs.
    """
    graph = graph_of(source)
    inputs = random_inputs(graph.specs)
    precision = _narrowest(source)
    tolerance = TOLERANCES[precision]
    promise = (
        f"Expected the translation to {there} to compute what {source.name!r} does, to {tolerance:g} of the largest "
        f"output ({precision})."
    )

    def moved(leaf: Any) -> Any:
        if tf.is_tensor(leaf):
            return tensor(leaf.numpy())
        return tensor(np.asarray(keras3().ops.convert_to_numpy(leaf))) if keras3().ops.is_tensor(leaf) else leaf

    def step(call: Call, args: Any, kwargs: Any, path: str) -> Any:
        counterpart, name = counterpart_of(call.operation), f"{path}{call.operation.name}"
        if counterpart is None:
            inner = graph_of(call.operation)
            return run(inner, flatten(args), lambda c, a, k: step(c, a, k, f"{name}/"))
        expected = call.operation(*args, **_inference(call.operation, kwargs))
        kwargs = _inference(counterpart, map_nest(moved, kwargs))
        off = difference(expected, counterpart(*map_nest(moved, args), **kwargs))
        if not off <= tolerance:
            raise ValueError(
                f"{promise} The first layer that differs is {name!r} ({type(call.operation).__name__}), by {off:.2g}. "
                "Replace it in the model, or translate it yourself: custom_objects="
                f"{{{type(call.operation).__name__!r}: YourCounterpart}}."
            )
        return expected

    run(graph, [_of_source(source, x) for x in inputs], lambda c, a, k: step(c, a, k, ""))
    expected = _answer(source, graph, inputs)
    off = difference(expected, _answer(target, graph, inputs), floor=1.0)
    if not off <= tolerance and not off <= _amplification(source, graph, inputs, expected):
        raise ValueError(
            f"{promise} Every layer does, but the models as a whole differ by {off:.2g}, more than {source.name!r} "
            "itself makes of rounding errors: it has a call() of its own. Make it a functional model: "
            "keras.Model(model.inputs, model.outputs)."
        )


def _amplification(source: Any, graph: Graph, inputs: list[np.ndarray], expected: Any) -> float:
    """How much the outputs of `source` change if its inputs do by 1e-5 of the largest.

    Rounding enters at each layer. Deep networks with random weights and normalization that does nothing yet amplify
    it: the logits of EfficientNetV2L reach 2e7, and one rounding step in an image changes its class.
    """
    rng = np.random.default_rng(1)
    moved = []
    for x in inputs:
        step = 1e-5 * np.abs(x).max() * rng.choice([-1, 1], x.shape) if x.dtype.kind == "f" else 0
        moved.append((x + step).astype(x.dtype))
    return difference(expected, _answer(source, graph, moved), floor=1.0)


def _inference(layer: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """`kwargs` with training=False where the layer cares and the call does not say: augmentation trains by default."""
    call = getattr(layer, "call", None)
    if "training" in kwargs or call is None or "training" not in inspect.signature(call).parameters:
        return kwargs
    return {**kwargs, "training": False}


def _of_source(source: Any, array: np.ndarray) -> Any:
    return keras3().ops.convert_to_tensor(array) if is_keras3(source) else tf.convert_to_tensor(array)


def _answer(model: Any, graph: Graph, inputs: list[np.ndarray]) -> Any:
    arrays = {ref: _of_source(model, x) for ref, x in zip(flatten(graph.inputs), inputs, strict=True)}
    return model(map_nest(arrays.__getitem__, graph.inputs), training=False)


def _narrowest(model: Any) -> str:
    """The narrowest type in which a layer of `model` computes."""
    types = {"float32"}
    stack = [model]
    while stack:
        layer = stack.pop()
        stack.extend(getattr(layer, "layers", ()))
        types.add(str(getattr(layer, "compute_dtype", None) or "float32"))
    return max(types & TOLERANCES.keys(), key=TOLERANCES.__getitem__)
