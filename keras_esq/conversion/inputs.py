"""Checks at the door of `convert`: the model, the calibration data."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_esq._checks import check_images
from keras_esq._keras import keras
from keras_esq.quantize import strip

# Samples for the check of a float file when none are passed; its correctness does not depend on their statistics.
_DEFAULT_SAMPLES = 16


def plain_model(model: Any) -> Any:
    """A plain Keras model of one image input and one output, from a low-bit, training or plain model.

    Raises:
        TypeError: for anything but a built Sequential or functional tf-keras model.
        ValueError: for several inputs or outputs, sizes that are not fixed, or weights that are NaN or infinite.
    """
    network = strip(model)
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise ValueError(
            f"Expected a classifier of 1 input and 1 output. Received {network.name!r} with {len(network.inputs)} and "
            f"{len(network.outputs)}. Build a keras.Model of the part to convert."
        )
    if isinstance(network.input, dict | list) or isinstance(network.output, dict | list):
        network = keras.Model(network.inputs[0], network.outputs[0], name=network.name)
    if None in network.input_shape[1:]:
        raise ValueError(
            f"Expected a model of fixed input size. Received {network.name!r} with the input shape "
            f"{network.input_shape}. Rebuild it with keras.Input of the size that the device sees."
        )
    if network.inputs[0].dtype.name != "float32":
        raise ValueError(f"Expected a float32 input. Received {network.name!r}, input {network.inputs[0].dtype.name}.")
    for layer in network.layers:
        for variable, value in zip(layer.weights, layer.get_weights(), strict=True):
            bad = int(np.count_nonzero(~np.isfinite(value))) if value.dtype.kind == "f" else 0
            if bad:
                raise ValueError(
                    f"Expected finite weights. Received {bad} of {value.size} values that are NaN or infinite in "
                    f"{variable.name!r} of layer {layer.name!r}. Restore weights from before training diverged."
                )
    return network


def calibration_data(
    calibration: Any, input_shape: tuple[int, ...], required: bool, bounds: tuple[float, float] = (0.0, 1.0)
) -> np.ndarray:
    """The calibration samples as float32.

    Args:
        calibration: array or tensor `(n, *input_shape)`, n >= 1, or None.
        input_shape: shape of a sample.
        required: whether None is an error; else it gives random samples within the bounds.
        bounds: lowest and highest valid value of a pixel.

    Raises:
        TypeError: for a dataset or generator.
        ValueError: if it is missing, empty, of another shape, not numeric, holds NaN or infinity or leaves the bounds.
    """
    shape = f"(n, {', '.join(map(str, input_shape))})"
    if calibration is None:
        if not required:
            random = np.random.default_rng(0).uniform(*bounds, (_DEFAULT_SAMPLES, *input_shape))
            return random.astype(np.float32)
        raise ValueError(
            f"Expected calibration samples of shape {shape}, which set the int8 ranges of the activations. Received "
            "None. Pass some 100 to 500 training samples, such as calibration=x_train[:200], prepared as in training."
        )
    if not hasattr(calibration, "__array__") and not isinstance(calibration, (list, tuple)):
        raise TypeError(
            f"Expected calibration to be an array of shape {shape}. Received {type(calibration).__name__}. "
            "Collect samples first: np.stack([x for x, _ in dataset.unbatch().take(200)])."
        )
    try:
        samples = np.asarray(calibration)
    except (ValueError, TypeError) as error:
        raise ValueError(f"Expected calibration of shape {shape}. Received parts of unequal shape: {error}.") from error
    if samples.dtype.kind not in "fiub":
        raise ValueError(f"Expected calibration of real numbers. Received elements of type {samples.dtype}.")
    if samples.shape == input_shape:
        raise ValueError(f"Expected calibration of shape {shape}. Received one sample. Pass more, or sample[None].")
    if samples.ndim != len(input_shape) + 1 or samples.shape[1:] != input_shape:
        raise ValueError(f"Expected calibration of shape {shape}. Received the shape {samples.shape}.")
    if len(samples) == 0:
        raise ValueError(f"Expected calibration of shape {shape} with n of at least 1. Received no samples.")
    samples = samples.astype(np.float32)
    finite = np.isfinite(samples).reshape(len(samples), -1).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"Expected finite calibration samples. Received NaN or infinity in {int((~finite).sum())} of "
            f"{len(samples)}, the first of them sample {int(np.argmin(finite))}. Remove them."
        )
    return check_images(samples, bounds, name="calibration")


def with_bounds(samples: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """The samples and two copies of the first, one pixel of which is at the lower or the upper bound.

    The converter makes the input's scale out of the lowest and highest value that it sees. So it matches the bounds
    exactly (1/255 and -128 for (0, 1)), where an 8-bit image loses nothing, whatever the samples' own range. Where an
    operator gives the image another range, `keep_input_scale` takes it back.
    """
    corners = np.repeat(samples[:1], 2, axis=0)
    corners.reshape(2, -1)[:, 0] = bounds
    return np.concatenate([samples, corners])
