"""Target "mcu": low-bit kernels as look-up tables, which TFLM decodes when the graph runs."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from keras_esq.conversion.alignment import quantization
from keras_esq.conversion.constants import stored_constants
from keras_esq.conversion.kernels import Kernel, is_low_bit, kernels
from keras_esq.conversion.slimming import drop_bias_scales
from keras_esq.conversion.writing import add_constant, add_tensor, operator_code, serialize
from keras_esq.quantize.functions import FULL_SCALE
from keras_esq.runtime.flatbuffer_format import FlatbufferError, _schema, items, op_name, parse
from keras_esq.runtime.lookup_format import TABLE_HEADER_BYTES
from keras_esq.runtime.support import DECODE

# What decoding adds to a file beside the packed values: an operator, two tensors and their names.
_OVERHEAD_BYTES = 400


def compress_kernels(content: bytes, layers: Sequence[str], output_layer: str, plain: Collection[str] = ()) -> bytes:
    """A full int8 file with its low-bit kernels as indices into one table a channel: 1 bit if binary, 2 if ternary.

    TFLM's operator TFLM_DECODE, put before each reader, expands them into the arena. Kernels too small to gain stay
    int8.

    Args:
        content: the int8 file.
        layers: names of the Keras layers in order of execution.
        output_layer: name of the last of them.
        plain: names of layers that stay int8.

    Returns:
        The new file, or `content` itself if no kernel gains.
    """
    model = parse(content)
    chosen = {k.tensor: k for k in compressible(model, layers, output_layer) if k.layer not in plain}
    if not chosen:
        return content
    graph, stored, tables = model.subgraphs[0], {}, _shared_tables(chosen.values())
    code = operator_code(model, "CUSTOM", 1, DECODE)
    operators = []
    for operator in graph.operators:
        inputs = items(operator.inputs)
        for position, index in enumerate(inputs):
            if index in chosen:
                if index not in stored:
                    stored[index] = _encode(model, chosen[index], tables)
                # What TFLM decodes lives until the next operator, so each reader has a DECODE of its own.
                inputs[position] = add_tensor(model, copy.copy(graph.tensors[index]), buffer=0)
                operators.append(
                    _schema().OperatorT(
                        opcodeIndex=code,
                        inputs=np.array(stored[index], np.int32),
                        outputs=np.array([inputs[position]], np.int32),
                    )
                )
        operator.inputs = np.array(inputs, np.int32)
        operators.append(operator)
    graph.operators = operators
    drop_bias_scales(model)
    return serialize(model)


def _shared_tables(chosen: Iterable[Kernel]) -> dict[bytes, np.ndarray]:
    """{header: table}, each long enough for the kernel that has most channels.

    TFLM reads as many entries as a kernel has channels, so that all kernels of equal axis and bits share one table.
    """
    longest: dict[bytes, np.ndarray] = {}
    for kernel in chosen:
        header, levels = _header(kernel)
        if len(kernel.channels) * len(levels) > len(longest.get(header, b"")):
            longest[header] = np.tile(levels, len(kernel.channels))
    return longest


def _header(kernel: Kernel) -> tuple[bytes, np.ndarray]:
    """The header of a kernel's table, and the values of one channel."""
    bits = index_bits(kernel)
    levels = np.array([-FULL_SCALE, FULL_SCALE] if bits == 1 else [-FULL_SCALE, 0, FULL_SCALE], np.int8)
    # Kind (0, look-up table), version of the header, two of padding, version of the table, axis and bits, values a
    # channel; zeros. One table for a whole tensor exists too, and is silently wrong for per-channel weights.
    header = np.zeros(TABLE_HEADER_BYTES, np.uint8)
    header[[1, 4, 5, 6]] = 1, 1, kernel.axis << 4 | bits, len(levels)
    return header.tobytes(), levels


def _encode(model: Any, kernel: Kernel, tables: dict[bytes, np.ndarray]) -> tuple[int, int]:
    """Add (packed indices, table) as tensors and return their numbers."""
    bits, (header, levels) = index_bits(kernel), _header(kernel)
    table, silent = tables[header], ~kernel.channels.any(axis=1)
    if bits == 1 and silent.any():
        # Channels of zeros, which ternary indices express by themselves, need a table of their own.
        table = np.where(silent[:, None], 0, levels).astype(np.int8).reshape(-1)
    indices = np.searchsorted(levels, kernel.values).astype(np.uint8).reshape(-1, 1)
    packed = np.packbits(indices >> np.arange(bits - 1, -1, -1, dtype=np.uint8) & 1)
    like = copy.copy(model.subgraphs[0].tensors[kernel.tensor])
    like.quantization = None
    numbers = [
        add_constant(model, like, "UINT8", data, shape=np.array([len(data)], np.int32))
        for data in (packed, np.concatenate([np.frombuffer(header, np.uint8), table.view(np.uint8)]))
    ]
    return numbers[0], numbers[1]


def compressible(model: Any, layers: Sequence[str], output_layer: str) -> list[Kernel]:
    """The low-bit kernels of an int8 graph that look-up tables make smaller, once each."""
    found = {}
    for kernel in kernels(model, layers, output_layer):
        if is_low_bit(kernel.values):
            packed = kernel.values.size * index_bits(kernel) // 8 + 3 * len(kernel.channels)
            if packed + _OVERHEAD_BYTES < kernel.values.size:
                found[kernel.tensor] = kernel
    return list(found.values())


def index_bits(kernel: Kernel) -> int:
    """Bits of an index: 1 if no channel holds zeros beside other values, else 2."""
    zero = kernel.channels == 0
    return 1 if (zero.all(axis=1) | ~zero.any(axis=1)).all() else 2


def uses_tables(model: Any) -> bool:
    """Whether a graph has look-up tables."""
    return any(op_name(model, operator) == DECODE for operator in model.subgraphs[0].operators)


def same_constants(content: bytes, original: bytes) -> bool:
    """Whether a compressed file decodes to the constants of its int8 file, operator by operator."""
    model, plain = parse(content), parse(original)
    try:
        found, expected = stored_constants(model), stored_constants(plain)
    except FlatbufferError:
        return False
    operators = [o for o in model.subgraphs[0].operators if op_name(model, o) != DECODE]
    others = plain.subgraphs[0].operators
    if [op_name(model, o) for o in operators] != [op_name(plain, o) for o in others]:
        return False
    for operator, other in zip(operators, others, strict=True):
        for index, other_index in zip(items(operator.inputs), items(other.inputs), strict=True):
            left, right = found.get(index), expected.get(other_index)
            if left is not None and right is not None:
                scales = [list(quantization(side.quantized)) for side in (left, right)]
                same = all(np.array_equal(*pair) for pair in zip(*scales, strict=True)) if scales[0] else True
                if not same or not np.array_equal(left.values, right.values):
                    return False
            elif left is not right:
                return False
    return True
