"""Which layers can do with few bits: the robust loss of a network in which one layer at a time is quantized."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_esq._checks import check_count, check_images, check_labels, check_seed, near_matches
from keras_esq._files import as_json
from keras_esq._text import aligned
from keras_esq.attacks import PGD, Attack
from keras_esq.attacks.logits import input_shape_of
from keras_esq.evaluation.batches import attack_batch, seeded
from keras_esq.evaluation.plots import new_figure, write_figure
from keras_esq.evaluation.sets import get_attacks
from keras_esq.evaluation.targets import Target
from keras_esq.quantize import Binary, Int8, Ternary, low_bit_weights, strip
from keras_esq.quantize.configs import low_bit_kernels
from keras_esq.quantize.functions import Axis

# Bits a weight -> how quantize_model calls it; int8 is what a layer is in a converted file that is not low-bit.
NAMES: dict[int, str | None] = {1: "binary", 2: "ternary", 8: None}
_QUANTIZERS = {quantizer.precision: quantizer for quantizer in (Binary, Ternary, Int8)}
_SCALE_BYTES = 4
_HEADER = ("layer", "bits", "weights", "bytes", "robust loss", "increase", "robust accuracy")


@dataclass(frozen=True, kw_only=True)
class SensitivityRow:
    """One layer alone at some number of bits, all others float.

    Attributes:
        layer: its name, as in `quantize_model`.
        bits: bits a weight: 1 (binary), 2 (ternary) or 8 (rounded, symmetric, a scale a filter).
        weights: number of weights in its kernels.
        num_bytes: bytes of the layer at these bits, as `esq.summary` counts: kernels packed, a float32 scale a filter,
            all other weights at 32 bits.
        loss: mean cross-entropy on the adversarial images.
        increase: of the loss over that of the float network.
        accuracy: share of samples that are right both before and after the attack.
    """

    layer: str
    bits: int
    weights: int
    num_bytes: int
    loss: float
    increase: float
    accuracy: float

    def cells(self) -> list[str]:
        """The row as text, in the order of the table's header."""
        numbers = [f"{self.weights:,}", f"{self.num_bytes:,}", f"{self.loss:.4f}", f"{self.increase:+.4f}"]
        return [self.layer, str(self.bits), *numbers, f"{100 * self.accuracy:.2f} %"]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What `sensitivity` found.

    Attributes:
        model: name of the network.
        attack: its settings, as text.
        n: number of samples.
        loss: robust loss of the float network.
        accuracy: robust accuracy of the float network.
        rows: layers first to last, each at rising bits.
    """

    model: str
    attack: str
    n: int
    loss: float
    accuracy: float
    rows: tuple[SensitivityRow, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, first to last."""
        return tuple(dict.fromkeys(row.layer for row in self.rows))

    def of(self, layer: str) -> dict[int, SensitivityRow]:
        """The rows {bits: row} of a layer.

        Raises:
            KeyError: for an unknown name, with near matches.
        """
        rows = {row.bits: row for row in self.rows if row.layer == layer}
        if not rows:
            raise KeyError(f"Expected a layer of these. Received: {layer!r}. {near_matches(layer, self.layers)}")
        return rows

    def table(self) -> str:
        """The rows as aligned text for a terminal."""
        return f"{aligned([_HEADER, *(row.cells() for row in self.rows)])}\n{self._caption()}"

    def to_markdown(self) -> str:
        """The rows as a Markdown table."""
        rule = ["---", *["---:"] * (len(_HEADER) - 1)]
        lines = [f"| {' | '.join(cells)} |" for cells in (_HEADER, rule, *(row.cells() for row in self.rows))]
        return "\n".join([*lines, "", self._caption()])

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """All of it as JSON text, also written to `path` if given (whole or not at all).

        Raises:
            OSError: if `path` can't be written.
        """
        return as_json(dataclasses.asdict(self), path)

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw the increase of the loss by layer, a line for each number of bits, to `path` (PNG unless it says else).

        Raises:
            OSError: if `path` can't be written.
            ValueError: if matplotlib doesn't know the format.
        """
        figure = new_figure(max(5.0, 0.6 * len(self.layers)), 4.0)
        axes = figure.add_subplot()
        for bits in sorted({row.bits for row in self.rows}):
            rows = [row for row in self.rows if row.bits == bits]
            axes.plot([row.layer for row in rows], [row.increase for row in rows], marker="o", label=f"{bits} bits")
        axes.axhline(0, color="gray", linewidth=0.8)
        axes.tick_params(axis="x", labelrotation=30)
        axes.set(ylabel="increase of the robust loss", title=f"{self.model}, {self.n} samples")
        axes.legend()
        return write_figure(figure, path)

    def _caption(self) -> str:
        return f"float: robust loss {self.loss:.4f}, accuracy {100 * self.accuracy:.2f} %; {self.n} samples"

    def __str__(self) -> str:
        return self.table()


def sensitivity(
    model: Any,
    x: Any,
    y: Any,
    *,
    bits: Sequence[int] = (1, 2, 8),
    attack: Attack | None = None,
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> Sensitivity:
    """Measure the robust loss of a float network with one layer at a time at few bits, without any training.

    The attack is made anew against each of these networks, layers times bits of them, so take some hundred samples.
    What training wins back is not seen; it is the order of the layers that `allocate_bits` needs.

    Args:
        model: a built Sequential or functional float model of tf-keras or Keras 3, or an ErrorSilencedModel around one.
            Not changed.
        x: images (n, ...) in the attack's `bounds`.
        y: true class ids (n,) or (n, 1), or one-hot rows (n, k).
        bits: out of 1 (binary), 2 (ternary) and 8 (int8 with a scale a filter, as in converted files).
        attack: untargeted. Default: [ESQ]'s PGD(eps=8/255, step_size=2/255, steps=10).
        batch_size: images attacked at once.
        seed: int in [0, 2**31); same seed, same result.
        progress: show a progress bar on stderr.

    Raises:
        TypeError: for a model, attack or data of a kind that is not accepted.
        ValueError: for a quantized model or one without kernels, other bits, or data that `evaluate_robustness` would
            refuse.

    Reference: Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework", 2020 (arXiv 2001.00281), section 3.2,
    which takes the change of the clean outputs where this takes the robust loss.
    """
    from keras_esq.keras3 import model_at_the_door

    check_count("batch_size", batch_size)
    check_seed("seed", seed)
    wanted = _check_bits(bits)
    ((_, attack),) = get_attacks([PGD() if attack is None else attack]).items()
    network = float_copy(model_at_the_door(model, None))
    images = check_images(x, attack.bounds, input_shape_of(network))
    target = Target(network, network.name, None)
    labels = check_labels(y, target.logits(images[:1], 1).shape[1], len(images))

    def measure() -> tuple[float, float]:
        losses, right = [], []
        for number, start in enumerate(range(0, len(images), batch_size)):
            batch, truth = images[start : start + batch_size], labels[start : start + batch_size]
            x_adv = attack_batch(network, seeded(attack, seed, number), batch, truth).x_adv
            logits = target.logits(x_adv, batch_size).astype(np.float64)
            before = target.logits(batch, batch_size).argmax(axis=1) == truth
            losses.append(_cross_entropy(logits, truth))
            right.append(before & (logits.argmax(axis=1) == truth))
        return float(np.concatenate(losses).mean()), float(np.concatenate(right).mean())

    layers = kernel_layers(network)
    rows = []
    with tqdm(total=1 + len(layers) * len(wanted), disable=not progress, unit="network") as bar:
        loss, accuracy = measure()
        bar.update()
        for layer in layers:
            bar.set_description(layer.name)
            for precision in wanted:
                before = layer.get_weights()
                for attribute, axis in low_bit_kernels(layer):
                    kernel = getattr(layer, attribute)
                    kernel.assign(quantized(kernel.numpy(), precision, axis))
                at_these, right = measure()
                layer.set_weights(before)
                row = SensitivityRow(
                    layer=layer.name,
                    bits=precision,
                    weights=sum(kernel.size for kernel, _ in _kernels(layer)),
                    num_bytes=layer_bytes(layer, precision),
                    loss=at_these,
                    increase=at_these - loss,
                    accuracy=right,
                )
                rows.append(row)
                bar.update()
    return Sensitivity(
        model=network.name, attack=repr(attack), n=len(images), loss=loss, accuracy=accuracy, rows=tuple(rows)
    )


def float_copy(model: Any) -> Any:
    """A flat copy of a float model, its layers named as `quantize_model` names them.

    Raises:
        TypeError, ValueError: as `strip`; for a quantized model.
    """
    if low_bit_weights(model):
        raise ValueError(
            f"Expected a float model. Received {model.name!r}, which is quantized already. Pass the model that "
            "quantize_model was called with, or esq.strip(model) to see what its layers lose further."
        )
    return strip(model)


def kernel_layers(network: Any) -> list[Any]:
    """The layers of a flat model that can be low-bit.

    Raises:
        ValueError: if there is none.
    """
    layers = [layer for layer in network.layers if low_bit_kernels(layer)]
    if not layers:
        raise ValueError(f"Expected a model with a kernel to quantize. Received {network.name!r}, which has none.")
    return layers


def quantized(kernel: np.ndarray, bits: int, axis: Axis) -> np.ndarray:
    """`kernel` at 1, 2 or 8 bits a weight; `axis` is that of its filters."""
    return _QUANTIZERS[bits](axis=axis).quantize(kernel).numpy()


def layer_bytes(layer: Any, bits: int) -> int:
    """Bytes of a layer with kernels at `bits` a weight, as `esq.summary` counts them; see `SensitivityRow`."""
    others = layer.count_params() - sum(kernel.size for kernel, _ in _kernels(layer))
    return kernel_bytes(layer, bits) + 4 * others


def kernel_bytes(layer: Any, bits: int) -> int:
    """Bytes of a layer's kernels at `bits` a weight, and of their scales."""
    kernels = list(_kernels(layer))
    packed = sum(math.ceil(kernel.size * bits / 8) for kernel, _ in kernels)
    filters = sum(math.prod(kernel.shape[a] for a in axes) for kernel, axes in kernels)
    return packed + _SCALE_BYTES * filters


def _kernels(layer: Any) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    for attribute, axis in low_bit_kernels(layer):
        yield getattr(layer, attribute).numpy(), (axis,) if isinstance(axis, int) else axis


def _check_bits(bits: Any) -> tuple[int, ...]:
    given = list(bits) if isinstance(bits, Iterable) else [bits]
    wrong = [one for one in given if isinstance(one, bool) or one not in NAMES]
    if wrong or not given:
        raise ValueError(
            f"Expected bits out of {list(NAMES)}: binary, ternary and int8. Received: {bits!r}. Files and quantizers "
            "know no others."
        )
    return tuple(sorted({int(one) for one in given}))


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
