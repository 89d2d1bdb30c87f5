"""Whether each stored weight and bias is the folded float one."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_esq.conversion.alignment import Pair, align, layer_name, quantization
from keras_esq.conversion.kernels import KERNELS, kernels
from keras_esq.quantize.functions import FULL_SCALE
from keras_esq.runtime.flatbuffer_format import op_name, parse

# A constant may be half a step off its float value. Over 40 random networks the largest was 0.51 for weights, where
# float32 rounding of the scale adds to it; biases of many steps have float32 rounding on top (see below).
CONSTANT_STEPS = 0.55

# Low-bit weights are exact: what is left is the float32 rounding of folding and of the scale, 1e-6 at most over 200
# random networks.
LOW_BIT_RELATIVE = 1e-5


# TensorFlow widens a range below 1e-6, that of a filter whose BatchNormalization has learned a gamma of almost 0, and
# so stores other small values. Outputs have one scale for all filters: what is so small beside them is 0 there.
NOTHING = 1e-6


class ConversionError(RuntimeError):
    """A converted file computes something else than its Keras model. No file was written."""


def check_constants(content: bytes, twin: bytes, network: Any) -> list[Pair]:
    """Hold the constants of a file to those of its float twin.

    Args:
        content: the file.
        twin: the float file of the same network.
        network: the Keras model.

    Returns:
        The operators of both files, paired.

    Raises:
        ConversionError: naming the first layer whose constants differ, or whose kernel has no counterpart.
    """
    names = [layer.name for layer in network.layers], network.output_names[0]
    pairs = align(content, twin, *names)
    paired = {pair.output[0] for pair in pairs if any(len(values.shape) > 1 for _, values, _, _ in pair.constants)}
    model = parse(content)
    owners = {int(kernel.operator.outputs[0]): kernel.layer for kernel in kernels(model, *names)}
    for operator in model.subgraphs[0].operators:
        if op_name(model, operator) in KERNELS and (output := int(operator.outputs[0])) not in paired:
            name = owners.get(output) or layer_name(model, operator, *names)
            raise ConversionError(
                f"Expected each kernel of the file in its float twin. {op_name(model, operator)} of layer {name!r} has "
                "none, so that its weights can't be checked. No file was written. Keep this layer float, or replace it."
            )
    for pair in pairs:
        # An operator is named after what was fused into it; its constants belong to the layer of its kernel.
        _check(pair, owners.get(pair.output[0], pair.layer))
    return pairs


def _check(pair: Pair, layer: str) -> None:
    if pair.op in ("MINIMUM", "MAXIMUM"):
        # A bound that no value reaches saturates with the range of its input; comparing layers shows if one does.
        return
    for tensor, stored, real, _ in pair.constants:
        off, limit, unit = _difference(tensor, stored, real)
        if not np.all(off <= limit):
            count = int(np.count_nonzero(~(off <= limit)))
            raise ConversionError(
                f"Expected the weights in the file to be the Keras weights after folding. Layer {layer!r} "
                f"({pair.op}) has {count} of {real.size} values of a constant that differ by more than {unit}; the "
                f"largest difference is {float(off.max()):.4g}. {_reason(tensor, stored, real)}No file was written."
            )


def _reason(tensor: Any, stored: np.ndarray, real: np.ndarray) -> str:
    """A sentence where the scale itself is too wide, which has a cause of its own; else empty."""
    scales = list(quantization(tensor))
    if stored.dtype != np.int8 or not scales or FULL_SCALE * float(np.max(scales[0])) < 2 * np.abs(real).max():
        return ""
    return (
        "Its scale is wider than its weights: TensorFlow makes it so for a layer whose inputs are 0 on all calibration "
        "data. Pass samples on which it is active, or remove it. "
    )


def _difference(tensor: Any, stored: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """(absolute difference, its limit, what the limit is in words)."""
    scales = list(quantization(tensor))
    if not scales:
        # Shapes and axes are integers in both files; float constants remain in neither int8 kernel.
        return np.abs(stored.astype(np.float64) - real), 1e-5 * np.abs(real), "float rounding"
    scale, zero_point = scales
    off = np.abs((stored.astype(np.float64) - zero_point) * scale - real)
    # A bias that cancels almost to 0 keeps the float32 rounding of its parts.
    limit = CONSTANT_STEPS * scale + 1e-6 * float(np.abs(real).max(initial=0.0))
    if stored.dtype != np.int8 or scale.ndim != real.ndim:
        return off, limit, f"{CONSTANT_STEPS} of int8 steps"
    inside = tuple(axis for axis in range(real.ndim) if scale.shape[axis] == 1)
    largest = np.abs(real).max(axis=inside, keepdims=True)
    two_valued = (np.abs(real) >= largest * (1 - LOW_BIT_RELATIVE)) | (np.abs(real) <= largest * LOW_BIT_RELATIVE)
    low_bit = two_valued.all(axis=inside, keepdims=True)
    limit = np.where(low_bit, LOW_BIT_RELATIVE * largest, limit)
    limit = np.maximum(limit, NOTHING * largest.max(initial=0.0))
    return off, limit, f"{LOW_BIT_RELATIVE:g} of their own (low-bit layers), {CONSTANT_STEPS} of int8 steps (others)"
