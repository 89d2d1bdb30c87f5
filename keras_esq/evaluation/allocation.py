"""How many bits each layer gets, if all of them share a number of bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_esq._checks import check_count
from keras_esq.evaluation.layer_sensitivity import NAMES, Sensitivity, float_copy, kernel_layers, layer_bytes
from keras_esq.quantize import summary

# Room for rounding when partial choices are given up, as a share of the largest term of a bound.
_SLACK = 1e-12


def allocate_bits(model: Any, *, max_bytes: int, sensitivity: Sensitivity) -> dict[str, str | None]:
    """The bits of each layer for which the robust loss rises least, within a number of bytes.

    The increases of `sensitivity`, each measured with one layer alone, are added up: a rough guide to the network as a
    whole, and the best choice under it is found exactly. Bytes are counted as `esq.summary` does, with one difference:
    a layer that is not low-bit takes 8 bits a weight and a float32 scale a filter, as in converted files. What a file
    needs besides (graph, activation ranges) is not counted.

    Args:
        model: the float model that `sensitivity` was called with.
        max_bytes: for all weights of the network, biases and BatchNormalization included.
        sensitivity: from `esq.sensitivity`; a layer gets one of the bits that were measured.

    Returns:
        {layer name: "binary", "ternary" or None} of all layers with a kernel, for `esq.quantize_model(weights=...)`.
        None stays float in training and becomes int8 in a converted file.

    Raises:
        TypeError: if `sensitivity` is no Sensitivity.
        ValueError: if the budget is too small for any choice, with the least that is possible; or if `sensitivity` is
            of another model.

    Reference: Yao et al., "HAWQ-V3: Dyadic Neural Network Quantization", 2021 (arXiv 2011.10680), section 3.4: the
    same sum under the same kind of budget as an integer program.
    """
    from keras_esq.keras3 import model_at_the_door

    budget = check_count("max_bytes", max_bytes)
    if not isinstance(sensitivity, Sensitivity):
        raise TypeError(
            f"Expected sensitivity from esq.sensitivity(model, x, y). Received: {type(sensitivity).__name__}."
        )
    network = float_copy(model_at_the_door(model, None))
    layers = kernel_layers(network)
    _check_same(network, layers, sensitivity)
    rest = fixed_bytes(network)
    options = [sensitivity.of(layer.name) for layer in layers]
    sizes = [np.array([row.num_bytes for row in rows.values()]) for rows in options]
    losses = [np.array([row.increase for row in rows.values()]) for rows in options]
    least = rest + sum(int(size.min()) for size in sizes)
    if budget < least:
        raise ValueError(
            f"Expected max_bytes of at least {least:,}, which is {network.name!r} with each layer at the fewest bits "
            f"that were measured. Received {budget:,}. Measure fewer bits, or take a smaller network."
        )
    chosen = cheapest(sizes, losses, budget - rest)
    return {layer.name: NAMES[list(rows)[choice]] for layer, rows, choice in zip(layers, options, chosen, strict=True)}


def fixed_bytes(network: Any) -> int:
    """Bytes of the layers without a kernel, which no choice of bits changes."""
    return sum(row.low_bit_bytes for row in summary(network).rows if not row.weights)


def cheapest(sizes: list[np.ndarray], losses: list[np.ndarray], budget: int) -> list[int]:
    """The option of each item for which the sum of losses is least while that of sizes is at most `budget`; exact.

    Partial choices are extended item by item. One is given up if another is as small and as good; and if not even the
    Lagrangian bound on what is still to come, at the best multiplier, gets it below a solution that is known. What is
    given up can't be part of a better solution, so that the result is the optimum.

    Args:
        sizes: of each item's options, whole numbers (k,).
        losses: of the same options, (k,).
        budget: at least the sum of the smallest sizes.

    Reference: Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11 (multiple choice).
    """
    price, known = _multiplier(sizes, losses, budget)
    to_come = np.array([float((loss + price * size).min()) for size, loss in zip(sizes, losses, strict=True)])
    smallest = np.array([int(size.min()) for size in sizes])
    slack = _SLACK * (1 + abs(known) + price * max(budget, 1)) * len(sizes)
    size, loss = np.zeros(1, np.int64), np.zeros(1)
    parents: list[tuple[np.ndarray, np.ndarray]] = []
    for item, (more, worse) in enumerate(zip(sizes, losses, strict=True)):
        every = (size[:, None] + more).ravel()
        total = (loss[:, None] + worse).ravel()
        bound = total + to_come[item + 1 :].sum() - price * (budget - every)
        alive = np.flatnonzero((every + smallest[item + 1 :].sum() <= budget) & (bound <= known + slack))
        order = alive[np.lexsort((total[alive], every[alive]))]
        best = np.minimum.accumulate(total[order])
        order = order[np.concatenate([[True], best[1:] < best[:-1]])]
        parents.append((order // len(more), order % len(more)))
        size, loss = every[order], total[order]
    place = int(np.argmin(loss))
    chosen = []
    for previous, choice in reversed(parents):
        chosen.append(int(choice[place]))
        place = int(previous[place])
    return chosen[::-1]


def _multiplier(sizes: list[np.ndarray], losses: list[np.ndarray], budget: int) -> tuple[float, float]:
    """A price of a byte near the best for the Lagrangian bound, and the loss of the best solution seen on the way."""

    def solve(price: float) -> tuple[int, float]:
        picks = [int(np.argmin(loss + price * size)) for size, loss in zip(sizes, losses, strict=True)]
        return sum(int(s[i]) for s, i in zip(sizes, picks, strict=True)), sum(
            float(one[i]) for one, i in zip(losses, picks, strict=True)
        )

    smallest = [int(np.argmin(size)) for size in sizes]
    known = sum(float(loss[i]) for loss, i in zip(losses, smallest, strict=True))
    # At this price any byte saved is worth any loss.
    low, high = 0.0, 1.0 + sum(float(np.ptp(loss)) for loss in losses)
    for price in (low, high):
        used, lost = solve(price)
        if used <= budget:
            known = min(known, lost)
            if price == low:
                return low, known
    for _ in range(60):
        middle = (low + high) / 2
        used, lost = solve(middle)
        if used <= budget:
            high, known = middle, min(known, lost)
        else:
            low = middle
    return high, known


def _check_same(network: Any, layers: list[Any], sensitivity: Sensitivity) -> None:
    names = [layer.name for layer in layers]
    if list(sensitivity.layers) != names:
        raise ValueError(
            f"Expected the sensitivity of {network.name!r}, whose layers are {names}. Received one of "
            f"{sensitivity.model!r} with {list(sensitivity.layers)}. Measure this model: esq.sensitivity(model, x, y)."
        )
    for layer in layers:
        for bits, row in sensitivity.of(layer.name).items():
            if row.num_bytes != layer_bytes(layer, bits):
                raise ValueError(
                    f"Expected the sensitivity of {network.name!r}, whose layer {layer.name!r} takes "
                    f"{layer_bytes(layer, bits):,} bytes at {bits} bits. Received one with {row.num_bytes:,}. Measure "
                    "this model: esq.sensitivity(model, x, y)."
                )
