"""`summary`: what each layer of a model weighs, in bits and in bytes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from keras_esq._keras import keras, tfmot_quantization
from keras_esq._text import aligned
from keras_esq.quantize.configs import low_bit_kernels
from keras_esq.quantize.graph import all_calls, check_network, walk_layers
from keras_esq.quantize.wrapper import wrapper_low_bit_weights

layers = keras.layers
_SCALE_BYTES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSummary:
    """One layer.

    Attributes:
        name: its name.
        kind: class of the layer, without its wrapper.
        quantizer: "binary", "ternary", "int8" or "float".
        bits: bits a kernel weight: 1, 2, 8 or 32 (16 for half-precision variables); 0 for a layer without weights.
        weights: number of weights in kernels that are, or could be, low-bit.
        other_weights: number of all other weights (biases, BatchNormalization), which stay float.
        float_bytes: bytes of all weights at 32 bits.
        low_bit_bytes: bytes with kernels packed at `bits` and a float32 scale a filter, the rest at 32 bits.
        zeros: share of quantized kernel weights that are exactly 0, 0.0 to 1.0.
        macs: multiply-accumulates for one input sample; 0 for layers without a kernel.
    """

    name: str
    kind: str
    quantizer: str
    bits: int
    weights: int
    other_weights: int
    float_bytes: int
    low_bit_bytes: int
    zeros: float
    macs: int


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """Rows, one a layer with weights or MACs, and their totals. `str()` of it is the table."""

    name: str
    rows: tuple[LayerSummary, ...]

    @property
    def totals(self) -> LayerSummary:
        """The sums over all rows; `bits` is the mean over kernel weights, rounded, and `zeros` is weighted by them."""
        weights = sum(r.weights for r in self.rows)
        return LayerSummary(
            name="total",
            kind="",
            quantizer="",
            bits=round(self.bits_per_weight),
            weights=weights,
            other_weights=sum(r.other_weights for r in self.rows),
            float_bytes=sum(r.float_bytes for r in self.rows),
            low_bit_bytes=sum(r.low_bit_bytes for r in self.rows),
            zeros=sum(r.zeros * r.weights for r in self.rows) / max(weights, 1),
            macs=sum(r.macs for r in self.rows),
        )

    @property
    def bits_per_weight(self) -> float:
        """Mean bits of a kernel weight, scales not counted; 0 if there are no kernels."""
        weights = sum(r.weights for r in self.rows)
        return sum(r.bits * r.weights for r in self.rows) / max(weights, 1)

    @property
    def compression(self) -> float:
        """float_bytes / low_bit_bytes over the whole model."""
        totals = self.totals
        return totals.float_bytes / max(totals.low_bit_bytes, 1)

    def table(self) -> str:
        """An aligned text table."""
        head = ["layer", "type", "weights", "bits", "kernel weights", "other", "float bytes", "bytes", "zeros", "MACs"]
        body = [_cells(row, f"{row.bits}") for row in self.rows]
        total = _cells(self.totals, f"{self.bits_per_weight:.2f}")
        return f"{aligned([head, *body, total], left=3)}\n{self.name}: {self.compression:.1f}x smaller than float32"

    def __str__(self) -> str:
        return self.table()


def summary(model: Any) -> ModelSummary:
    """Bits, weights, bytes, zeros and MACs of each layer of `model`, and their totals.

    Args:
        model: a low-bit model, an ErrorSilencedModel, or a plain float model. Built.

    Returns:
        A `ModelSummary`; print it, or read its `rows` and `totals`.

    Raises:
        TypeError, ValueError: as `quantize_model` does, for models whose layers can't be read off.
    """
    network = check_network(model, "summarize")
    calls: dict[int, list[Any]] = {}
    for layer, node in all_calls(network):
        calls.setdefault(id(layer), []).append(node)
    rows = [_row(layer, calls.get(id(layer), [])) for layer in walk_layers(network)]
    return ModelSummary(network.name, tuple(r for r in rows if r.weights or r.other_weights or r.macs))


def _row(layer: Any, nodes: list[Any]) -> LayerSummary:
    inner = layer.layer if isinstance(layer, tfmot_quantization.QuantizeWrapper) else layer
    low_bit = wrapper_low_bit_weights(layer)
    quantizers = [w.quantizer for w in low_bit]
    if low_bit:
        kernels = [np.asarray(w.quantized) for w in low_bit]
        others = [w for w in inner.weights if all(w is not v.latent for v in low_bit)]
        filters = sum(int(np.prod(w.partition.shape)) for w in low_bit)
    else:
        variables = [getattr(inner, name) for name, _ in low_bit_kernels(inner)]
        kernels = [np.asarray(v) for v in variables]
        others = [w for w in inner.weights if all(w is not v for v in variables)]
        filters = 0
    weights = sum(k.size for k in kernels)
    other_weights = sum(int(np.prod(w.shape)) for w in others)
    bits = quantizers[0].precision if quantizers else 8 * kernels[0].itemsize if kernels else 0
    packed = sum(math.ceil(k.size * bits / 8) for k in kernels)
    return LayerSummary(
        name=layer.name,
        kind=type(inner).__name__,
        quantizer=quantizers[0].alias if quantizers else "float",
        bits=bits,
        weights=weights,
        other_weights=other_weights,
        float_bytes=4 * (weights + other_weights),
        low_bit_bytes=packed + _SCALE_BYTES * filters + 4 * other_weights,
        zeros=sum(int(np.sum(k == 0)) for k in kernels) / max(weights, 1),
        macs=sum(_macs(inner, [k.shape for k in kernels], node) for node in nodes),
    )


def _macs(inner: Any, shapes: list[tuple[int, ...]], node: Any) -> int:
    """Multiply-accumulates for one sample in one call of the layer: each kernel weight once a position."""
    transposed = isinstance(inner, (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose))
    shape = node.input_shapes if transposed else node.output_shapes
    channels_first = getattr(inner, "data_format", None) == "channels_first"
    positions = shape[2:] if channels_first else shape[1:-1]
    return sum(math.prod(kernel) for kernel in shapes) * math.prod(n for n in positions if n is not None)


def _cells(row: LayerSummary, bits: str) -> list[str]:
    counts = [row.weights, row.other_weights, row.float_bytes, row.low_bit_bytes]
    numbers = [f"{n:,}" for n in counts]
    return [row.name, row.kind, row.quantizer, bits, *numbers, f"{row.zeros:.1%}", f"{row.macs:,}"]
