"""`check_edgetpu`: the Edge TPU compiler's published rules, checked without the compiler."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_esq._text import aligned
from keras_esq.conversion.kernels import KERNELS
from keras_esq.conversion.work import operator_macs
from keras_esq.runtime.flatbuffer_format import constant, constant_bytes, items, op_name, parse, read, text, type_name

# Bytes of weights that the TPU keeps; the rest is streamed from the host in each inference.
CACHE_BYTES = 8 << 20

# The newest version of an operator that the last compiler, 16.0, was seen or is likely to take.
_NEWEST = {"QUANTIZE": 2}

_ORDER = {"pass": 0, "maybe": 1, "fail": 2}


@dataclass(frozen=True)
class OpVerdict:
    """One operator.

    Attributes:
        op: its name.
        tensor: name of its output.
        verdict: "pass", "maybe" (allowed by the rules, perhaps not by the last compiler's version) or "fail".
        why: the rule that speaks against it; empty for "pass".
        macs: its multiply-accumulates.
        on_tpu: whether it is likely to be mapped: it does not fail, and nothing before it in the graph failed.
    """

    op: str
    tensor: str
    verdict: str
    why: str
    macs: int
    on_tpu: bool


@dataclass(frozen=True)
class EdgeTpuReport:
    """A static check and, if it was there, the compiler's log. Passing the check is necessary, not sufficient.

    Attributes:
        path: the file.
        ops: one row an operator, in order of execution.
        weight_bytes: bytes of the constants.
        compiled: the file that `edgetpu_compiler` made; None without it, or if it mapped nothing.
        log: what `edgetpu_compiler` said of the file, if `convert` found it on the PATH; None for a static check.
    """

    path: Path
    ops: tuple[OpVerdict, ...]
    weight_bytes: int
    compiled: Path | None = None
    log: str | None = None

    @property
    def verdict(self) -> str:
        """The worst of all operators."""
        return max((op.verdict for op in self.ops), key=_ORDER.__getitem__, default="pass")

    @property
    def mac_share(self) -> float:
        """Estimated share of multiply-accumulates that land on the TPU, 0 to 1."""
        total = sum(op.macs for op in self.ops)
        return sum(op.macs for op in self.ops if op.on_tpu) / total if total else float(bool(self.ops))

    @property
    def fits_cache(self) -> bool:
        """Whether the weights stay in the TPU's memory, of about 8 MB."""
        return self.weight_bytes <= CACHE_BYTES

    def table(self) -> str:
        """The operators and totals as aligned text."""
        rows = [[op.op, op.tensor[-48:], op.verdict, "TPU" if op.on_tpu else "CPU", f"{op.macs:,}", op.why or "-"]
                for op in self.ops]  # fmt: skip
        cache = f"{'fits' if self.fits_cache else 'exceeds'} its cache of about {CACHE_BYTES >> 20} MB"
        return (
            f"{aligned([['op', 'tensor', 'verdict', 'runs on', 'MACs', 'why'], *rows], left=4)}\n"
            f"{100 * self.mac_share:.1f} % of the MACs on the TPU (estimate); {self.weight_bytes:,} bytes of "
            f"constants: {cache}\nStatic check of published rules: passing is necessary, not sufficient. "
            + ("Only the compiler itself can tell." if self.log is None else f"edgetpu_compiler:\n{self.log}")
        )

    def __str__(self) -> str:
        return self.table()


@dataclass(frozen=True)
class _Op:
    """An operator with what rules ask about."""

    model: Any
    operator: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]

    @property
    def options(self) -> Any:
        return self.operator.builtinOptions

    def shape(self, position: int = 0) -> list[int]:
        return items(self.inputs[position].shape)

    @property
    def out(self) -> list[int]:
        return items(self.outputs[0].shape)

    def constant(self, position: int) -> np.ndarray | None:
        return constant(self.model, self.inputs[position]) if position < len(self.inputs) else None

    def is_constant(self, position: int) -> bool:
        return constant_bytes(self.model, self.inputs[position]) is not None


def _same_dilation(op: _Op) -> str:
    return "" if op.options.dilationWFactor == op.options.dilationHFactor else "dilation differs between x and y"


def _dense(op: _Op) -> str:
    if op.options.weightsFormat:
        return "weights are not in the default format"
    return "" if math.prod(op.out) == op.out[-1] else f"its output {op.out} is not one-dimensional"


def _no_activation(op: _Op) -> str:
    return "it has a fused activation" if op.options.fusedActivationFunction else ""


def _concatenation(op: _Op) -> str:
    constants = [position for position in range(len(op.inputs)) if op.is_constant(position)]
    if constants and (len(op.inputs) != 2 or any(np.any(np.asarray(op.constant(position))) for position in constants)):
        return "a constant input is allowed as one of two only, and all zero"
    return _no_activation(op)


def _mean(op: _Op) -> str:
    axes = op.constant(1)
    if axes is None:
        return "its axes are not constant"
    rank = len(op.shape())
    reduced = {int(axis) % rank for axis in axes.reshape(-1)}
    if 0 in reduced:
        return "it reduces the batch"
    return "depth is not a multiple of 4" if rank - 1 in reduced and op.shape()[-1] % 4 else ""


def _pad(op: _Op) -> str:
    padding = op.constant(1)
    if padding is None:
        return "its padding is not constant"
    return "it pads the batch" if padding[0].any() else ""


def _softmax(op: _Op) -> str:
    size = math.prod(op.shape())
    if size != op.shape()[-1]:
        return f"its input {op.shape()} is not one-dimensional"
    return "" if size <= 16_000 else f"{size:,} elements are more than 16,000"


def _resize(op: _Op) -> str:
    return "" if len(op.shape()) == 4 and op.shape()[0] == 1 else "its input is not three-dimensional"


def _strided_slice(op: _Op) -> str:
    strides = op.constant(3)
    if strides is None or not (strides == 1).all():
        return "its strides are not 1"
    return "it has an ellipsis or new-axis mask" if op.options.ellipsisMask or op.options.newAxisMask else ""


def _prelu(op: _Op) -> str:
    alpha = op.shape(1)
    return "" if math.prod(alpha) == alpha[-1] else f"its alpha {alpha} is not one-dimensional"


def _free(op: _Op) -> str:
    return ""


# Operator -> the rule that speaks against it, or "". Operators that are absent run on the CPU.
_RULES: dict[str, Callable[[_Op], str]] = {
    "CONV_2D": _same_dilation, "DEPTHWISE_CONV_2D": _same_dilation, "FULLY_CONNECTED": _dense,
    "AVERAGE_POOL_2D": _no_activation, "MAX_POOL_2D": _no_activation, "CONCATENATION": _concatenation, "MEAN": _mean,
    "SUM": _mean, "REDUCE_MAX": _mean, "REDUCE_MIN": _mean, "PAD": _pad, "SOFTMAX": _softmax,
    "RESIZE_BILINEAR": _resize, "RESIZE_NEAREST_NEIGHBOR": _resize, "STRIDED_SLICE": _strided_slice, "PRELU": _prelu,
    **dict.fromkeys((
        "ADD", "EXPAND_DIMS", "L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL", "PACK", "QUANTIZE", "RELU",
        "RELU6", "RELU_N1_TO_1", "RESHAPE", "SLICE", "SPACE_TO_DEPTH", "SPLIT", "SQUEEZE", "SUB", "TANH", "TRANSPOSE",
        "TRANSPOSE_CONV", "UNIDIRECTIONAL_SEQUENCE_LSTM",
    ), _free),
}  # fmt: skip


def check_edgetpu(path: str | os.PathLike[str]) -> EdgeTpuReport:
    """Check a .tflite against the published rules of the Edge TPU compiler. Neither compiler nor TPU is involved.

    Args:
        path: the file, as of `convert(target="edgetpu")`.

    Returns:
        A report with a row an operator; print it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no whole .tflite.
    """
    return check_rules(read(path), Path(path))


def check_rules(content: bytes, path: Path) -> EdgeTpuReport:
    """`check_edgetpu` of the bytes of a file."""
    model = parse(content, repr(str(path)))
    graph, verdicts, mapped = model.subgraphs[0], [], True
    for operator in graph.operators:
        op = _Op(
            model,
            operator,
            tuple(graph.tensors[i] for i in items(operator.inputs) if i >= 0),
            tuple(graph.tensors[i] for i in items(operator.outputs)),
        )
        name = op_name(model, operator)
        verdict, why = _verdict(name, op)
        # The compiler makes one partition: the first operator that it can't map sends all after it to the CPU.
        mapped = mapped and verdict != "fail"
        verdicts.append(OpVerdict(name, text(op.outputs[0].name), verdict, why, operator_macs(model, operator), mapped))
    stored = {t.buffer: constant_bytes(model, t) for t in graph.tensors}
    return EdgeTpuReport(path, tuple(verdicts), sum(len(data) for data in stored.values() if data is not None))


def _verdict(name: str, op: _Op) -> tuple[str, str]:
    for tensor in (*op.inputs[:2], *op.outputs):
        kind, shape = type_name(tensor), items(tensor.shape)
        if kind not in ("INT8", "UINT8") and constant_bytes(op.model, tensor) is None:
            return "fail", f"{text(tensor.name)!r} is {kind}, not int8 or uint8"
        if name in KERNELS and kind in ("INT2", "INT4", "FLOAT32"):
            return "fail", f"its weights are {kind}, not int8: convert with target='edgetpu'"
        if -1 in items(tensor.shapeSignature):
            return "fail", f"{text(tensor.name)!r} has no static shape"
        if len(shape) > 3 and math.prod(shape[:-3]) != 1 and constant_bytes(op.model, tensor) is None:
            return "fail", f"{text(tensor.name)!r} of shape {shape} has more than three dimensions over 1"
    if name not in _RULES:
        return "fail", "no such operator on the TPU"
    if name in KERNELS and not op.is_constant(KERNELS[name]):
        return "fail", "its weights are not constant"
    if why := _RULES[name](op):
        return "fail", why
    version = op.model.operatorCodes[op.operator.opcodeIndex].version or 1
    if version > _NEWEST.get(name, version):
        return "maybe", f"version {version} may be too new for compiler 16.0"
    if name == "FULLY_CONNECTED" and len(op.inputs[1].quantization.scale) > 1:
        return "maybe", "a scale a channel may be too new for compiler 16.0"
    return "pass", ""
