"""How a file agrees with the Keras model that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keras_esq._text import aligned


@dataclass(frozen=True)
class RuntimeAgreement:
    """Agreement of one runtime's outputs with Keras on the calibration data.

    Attributes:
        top1: share of samples of equal argmax, 0 to 1.
        max_abs: largest absolute difference of an output, in the output's own unit.
        rms: root mean square difference.
        samples: number of calibration samples that it ran: all, but for large networks in the plain loops of TFLM.
    """

    top1: float
    max_abs: float
    rms: float
    samples: int


@dataclass(frozen=True)
class LayerAgreement:
    """Agreement of one tensor of the int8 file with the same tensor of the float network.

    Attributes:
        layer: name of the Keras layer.
        tensor: name of the tensor in the file.
        steps: root mean square difference in steps of int8 (multiples of the tensor's scale).
        relative: the same in units of the tensor's own root mean square.
        noise: the part of `steps` that rounding to int8, in this and all earlier layers, explains.
    """

    layer: str
    tensor: str
    steps: float
    relative: float
    noise: float


@dataclass(frozen=True)
class Agreement:
    """What `keras_esq.convert` measured before it wrote the file.

    Attributes:
        samples: number of calibration samples.
        runtimes: {name of a runtime: its agreement}.
        layers: in the order of the graph; empty for float files, whose outputs alone are compared.
    """

    samples: int
    runtimes: Mapping[str, RuntimeAgreement]
    layers: tuple[LayerAgreement, ...] = ()

    @property
    def top1(self) -> float:
        """The lowest top-1 agreement of the runtimes."""
        return min(r.top1 for r in self.runtimes.values())

    @property
    def max_abs(self) -> float:
        """The largest difference of an output in any runtime."""
        return max(r.max_abs for r in self.runtimes.values())

    @property
    def rms(self) -> float:
        """The largest root mean square difference of the runtimes."""
        return max(r.rms for r in self.runtimes.values())

    def table(self) -> str:
        """The runtimes as aligned text."""
        rows = [
            [n, f"{r.top1:.3f}", f"{r.max_abs:.5f}", f"{r.rms:.5f}", str(r.samples)] for n, r in self.runtimes.items()
        ]
        return aligned([["runtime", "top-1", "max diff", "rms diff", "samples"], *rows])
