"""Target "phone": the low-bit kernels of a full int8 file in 2 or 4 bits, its activations as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_esq.conversion.kernels import Kernel, is_low_bit, kernels, pack
from keras_esq.conversion.writing import add_constant, operator_code
from keras_esq.quantize.functions import FULL_SCALE
from keras_esq.runtime.flatbuffer_format import _schema, constant, items, type_name

# What `weights` may be, besides "auto".
WIDTHS = {"int8": 8, "int4": 4, "int2": 2}

# The largest value that is stored: -1, 0, 1 in 2 bits. In 4 bits -7, 0, 7 rather than -1, 0, 1, which keeps the bias,
# whose unit is the weights', seven times finer.
_LARGEST = {2: 1, 4: 7}

# Kernels of these widths exist beside int8 activations. INT2 convolutions compute garbage or are refused everywhere.
_WIDTHS_OF = {"FULLY_CONNECTED": (2, 4), "CONV_2D": (4,), "DEPTHWISE_CONV_2D": (4,)}

# Weights of -1, 0 and 1 make the unit in which a kernel adds up 127 times coarser. Kernels that round twice, to a power
# of two and to the output's step, are biased where this unit is no small part of a step: layers of a few inputs, which
# have few bytes to gain. The mean over an image then adds up to 4 steps (seed 139 of the random networks).
_COARSEST_UNIT = 0.25

# A dense layer over the last axis of an image; older versions flatten the image.
_KEEP_DIMS_VERSION = 5


def pack_kernels(model: Any, weights: str, layers: Sequence[str], output_layer: str) -> None:
    """Store the low-bit kernels of a full int8 graph in fewer bits, in place.

    "auto" is the smallest type of each kernel that does not slow a network down, by benchmarks/phone_latency.py (LiteRT
    with XNNPACK, time of one layer relative to int8):

    | layer | INT4 | INT2 | "auto" |
    |---|---|---|---|
    | dense | 0.5 to 0.9 | 0.9 to 1.5 | INT2: most of the bytes, little of the time |
    | 1x1 convolution, written as the dense layer that it is | 1.1 | 1.9 to 2.3 | INT4 |
    | other convolutions | 2.9 to 3.5 | none | INT8 |
    | depthwise convolution | 5.2 to 5.5 | none | INT8 |

    Layers of a few inputs stay int8 in "auto", for the sake of accuracy.

    Args:
        model: the `ModelT`.
        weights: "auto", "int8", "int4" or "int2". A width that is asked for by name is met for every low-bit kernel.
        layers: names of the Keras layers in order of execution.
        output_layer: name of the last of them.

    Raises:
        ValueError: naming the first low-bit layer that can't hold the width that was asked for.
    """
    if weights == "int8":
        return
    stored: dict[tuple[int, int, int], int] = {}
    for kernel in list(kernels(model, layers, output_layer)):
        if not is_low_bit(kernel.values):
            continue
        dense = kernel.op == "FULLY_CONNECTED" or _is_pointwise(model, kernel)
        bits = WIDTHS.get(weights, 2 if kernel.op == "FULLY_CONNECTED" else 4)
        # XNNPACK refuses a packed dense layer of a single output.
        single = kernel.op == "FULLY_CONNECTED" and kernel.values.shape[0] == 1
        if weights == "auto" and (not dense or single or _unit(model, kernel, bits) > _COARSEST_UNIT):
            continue
        if single or bits not in _WIDTHS_OF.get("FULLY_CONNECTED" if dense else kernel.op, ()):
            raise ValueError(
                f"Expected low-bit layers that can hold {weights} beside int8 activations. Layer {kernel.layer!r} "
                f"({kernel.op}, kernel {kernel.values.shape}) can't: {_advice(bits, single)}"
            )
        if dense and kernel.op != "FULLY_CONNECTED":
            _make_dense(model, kernel)
        _store(model, kernel, bits, dense, stored)


def _advice(bits: int, single: bool) -> str:
    if single:
        return "XNNPACK refuses it for a single output. Use weights='auto' or 'int8', or target='phone-small'."
    if bits == 2:
        return (
            "no runtime has such a kernel. Use weights='auto', which stores it in int8, weights='int4', or "
            "target='phone-small', whose float activations take 2 bits in every layer."
        )
    return "no runtime has such a kernel. Use weights='auto' or 'int8', or target='phone-small'."


def _is_pointwise(model: Any, kernel: Kernel) -> bool:
    """Whether a dense layer of several outputs does the same; in groups, each sees a part of the channels."""
    options, shape = kernel.operator.builtinOptions, kernel.values.shape
    if kernel.op != "CONV_2D" or shape[1:3] != (1, 1) or (options.strideH, options.strideW) != (1, 1):
        return False
    image = model.subgraphs[0].tensors[items(kernel.operator.inputs)[0]]
    return shape[0] > 1 and items(image.shape)[-1] == shape[3]


def _unit(model: Any, kernel: Kernel, bits: int) -> float:
    """What adding 1 in the packed kernel's accumulator is worth, in output steps; the largest of its channels."""
    tensors = model.subgraphs[0].tensors
    indices = items(kernel.operator.inputs)[0], items(kernel.operator.outputs)[0]
    before, after = (float(tensors[index].quantization.scale[0]) for index in indices)
    largest = float(np.max(tensors[kernel.tensor].quantization.scale))
    return largest * FULL_SCALE / _LARGEST[bits] * before / after


def _make_dense(model: Any, kernel: Kernel) -> None:
    schema, operator = _schema(), kernel.operator
    operator.opcodeIndex = operator_code(model, "FULLY_CONNECTED", _KEEP_DIMS_VERSION)
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT(
        fusedActivationFunction=operator.builtinOptions.fusedActivationFunction, keepNumDims=True
    )


def _store(model: Any, kernel: Kernel, bits: int, dense: bool, stored: dict[tuple[int, int, int], int]) -> None:
    """Put the kernel and its bias into new tensors, since other operators may read the old ones."""
    tensors, inputs = model.subgraphs[0].tensors, items(kernel.operator.inputs)
    ratio = FULL_SCALE / _LARGEST[bits]
    key = (kernel.tensor, bits, int(dense))
    if key not in stored:
        old = tensors[kernel.tensor]
        shape = (kernel.values.shape[0], kernel.values[0].size) if dense else kernel.values.shape
        data = pack(np.sign(kernel.values) * _LARGEST[bits], bits)
        stored[key] = add_constant(model, old, f"INT{bits}", data, shape=np.array(shape, np.int32))
        _rescale(tensors[stored[key]], ratio)
    inputs[kernel.position] = stored[key]
    bias = kernel.position + 1
    if bias < len(inputs) and inputs[bias] >= 0:
        old = tensors[inputs[bias]]
        values = np.asarray(constant(model, old))
        rescaled = np.rint(values / ratio).astype(values.dtype)
        inputs[bias] = add_constant(model, old, type_name(old), rescaled.view(np.uint8))
        _rescale(tensors[inputs[bias]], ratio)
    kernel.operator.inputs = np.array(inputs, np.int32)


def _rescale(tensor: Any, ratio: float) -> None:
    tensor.quantization.scale = (np.asarray(tensor.quantization.scale, np.float64) * ratio).astype(np.float32)
