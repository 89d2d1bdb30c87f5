"""A plain Keras model to the bytes of a .tflite file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf


def lower(model: Any, calibration: np.ndarray | None = None, io: str = "float32") -> bytes:
    """Convert with TensorFlow's converter: BatchNormalization folded, batch 1, static shapes.

    Args:
        model: a stripped Keras model of one input and one output.
        calibration: `(n, *input_shape)` float32; every sample sets the activation ranges of a full int8 file with
            per-channel weights. None gives a float file.
        io: type of the input and output tensor: "int8", "uint8" or "float32".

    Returns:
        The file.

    Raises:
        ValueError: if the converter refuses the model, such as for an operator without int8 kernel.
    """
    # The converter knows models of one Keras, that of `tf.keras`; a function belongs to none. A batch of 1 keeps shape
    # arithmetic out of the graph, which microcontrollers and NPUs can't run.
    spec = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name="input")
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    # The converter saves the object that it is given; the model itself would be saved with all functions of all layers,
    # which takes two thirds of the whole conversion.
    variables = tf.Module()
    variables.variables_of_model = model.variables
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], variables)
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: _samples(calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(io)
    try:
        return bytes(converter.convert())
    except Exception as error:
        # The converter raises bare Exceptions, RuntimeErrors and its own class alike; all are about the model.
        kind = "float" if calibration is None else "int8"
        hint = "" if calibration is None else ", or use target='float'"
        raise ValueError(
            f"Expected a model that TensorFlow's converter can write as a {kind} .tflite. It answered: {error} "
            f"Replace the layer that it names{hint}."
        ) from error


def _samples(calibration: np.ndarray) -> Iterator[list[np.ndarray]]:
    for sample in calibration:
        yield [sample[None]]
