"""Look-up tables within a budget of RAM: flash saved against memory spent."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from keras_esq.conversion.lookup import compress_kernels, compressible
from keras_esq.runtime.flatbuffer_format import parse
from keras_esq.runtime.micro import smallest_arena


def compress_within(
    content: bytes, layers: Sequence[str], output_layer: str, ram_budget: int | None, over_budget: str
) -> bytes:
    """An int8 file with look-up tables in as many layers as its arena allows.

    Args:
        content: the int8 file.
        layers: names of the Keras layers in order of execution.
        output_layer: name of the last of them.
        ram_budget: bytes of the arena, or None for no limit.
        over_budget: "int8" keeps the largest kernels in int8 until the arena fits; "error" does not.

    Raises:
        ValueError: if the arena does not fit, naming the largest layer and the figures.
    """
    compressed = compress_kernels(content, layers, output_layer)
    if ram_budget is None or (arena := smallest_arena(compressed)) <= ram_budget:
        return compressed
    plain_arena = smallest_arena(content)
    ordered = sorted(compressible(parse(content), layers, output_layer), key=lambda k: k.values.size, reverse=True)
    figures = f"{arena:,} bytes with look-up tables, {plain_arena:,} bytes with int8 weights"
    if over_budget == "error" or plain_arena > ram_budget:
        largest = (
            f" The largest decoded tensor is that of layer {ordered[0].layer!r}, {ordered[0].values.size:,} bytes."
        )
        advice = (
            "Use over_budget='int8', which keeps such layers in int8."
            if plain_arena <= ram_budget
            else "The activations alone need more: use a smaller network or input."
        )
        raise ValueError(
            f"Expected an arena within ram_budget={ram_budget:,} bytes. It needs {figures}."
            f"{largest if ordered else ''} {advice}"
        )
    plain: list[str] = []
    for kernel in ordered:
        plain.append(kernel.layer)
        smaller = compress_kernels(content, layers, output_layer, plain)
        if smallest_arena(smaller) <= ram_budget:
            break
    warnings.warn(
        f"keras_esq.convert: the arena needs {figures}; ram_budget is {ram_budget:,}. Stored in int8 to fit: "
        f"{', '.join(plain)}. The file has {len(smaller):,} bytes instead of {len(compressed):,}.",
        UserWarning,
        stacklevel=3,
    )
    return smaller
