"""Schedules of the quantization ratio: epoch -> share of filters to quantize."""

from __future__ import annotations

import difflib
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from keras_esq.quantize.state import check_ratio

Schedule = Callable[[int, int], float]


def uniform(epoch: int, epochs: int) -> float:
    """0.2, 0.4, 0.6, 0.8, then 1.0 for the last sixth.

    [ESQ]: +0.2 every 25 of 120 epochs, so the steps are 5/24 of the training long and the tail at 1.0 is 1/6 of it.
    A training of fewer than 6 epochs keeps its last one for 1.0.
    """
    stage = (24 * epoch) // (5 * epochs)
    return 1.0 if stage >= 4 or epoch >= epochs - 1 else (1 + stage) / 5


def exponential(epoch: int, epochs: int) -> float:
    """0.5, 0.75, 0.875, 1.0, a quarter of the training each [SQ]; the last epoch is at 1.0 in any case.

    These are also the steps of iterative quantization with retraining (Zhou et al., "Incremental Network Quantization",
    2017, arXiv 1702.03044), which takes the largest weights and freezes them where [SQ] draws filters anew each step.
    """
    stage = (4 * epoch) // epochs
    return 1.0 if stage >= 3 or epoch >= epochs - 1 else 1.0 - 0.5 ** (stage + 1)


def full(epoch: int, epochs: int) -> float:
    """1.0 always: every filter is quantized from the start."""
    return 1.0


SCHEDULES: dict[str, Schedule] = {"uniform": uniform, "exponential": exponential, "full": full}


def get_schedule(schedule: Any) -> Schedule:
    """A function (epoch, epochs) -> ratio from a name, a dict or a callable.

    Args:
        schedule: "uniform", "exponential" or "full"; a dict {epoch: ratio}, each value in force from its epoch
            (counted from 0) on; or a callable, called with the epoch, or with (epoch, epochs) if it takes two.

    Returns:
        The function. In the last epoch of a training its ratio must be 1; whoever runs it has to see to that.

    Raises:
        ValueError: for an unknown name, or a dict that is empty, does not start at epoch 0, or has a value outside
            [0, 1].
        TypeError: for anything else.
    """
    if isinstance(schedule, str):
        if schedule in SCHEDULES:
            return SCHEDULES[schedule]
        near = difflib.get_close_matches(schedule, SCHEDULES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Expected a schedule out of {list(SCHEDULES)}. Received {schedule!r}.{hint}")
    if isinstance(schedule, Mapping):
        return _from_dict(schedule)
    if callable(schedule):
        return _from_callable(schedule)
    raise TypeError(
        f"Expected a schedule as a name out of {list(SCHEDULES)}, a dict {{epoch: ratio}} or a callable. "
        f"Received {schedule!r}."
    )


def _from_dict(points: Mapping[int, float]) -> Schedule:
    if not points or 0 not in points:
        raise ValueError(
            f"Expected a dict {{epoch: ratio}} that starts at epoch 0. Received {dict(points)}. "
            "For example {0: 0.5, 10: 0.75, 20: 1.0}."
        )
    for epoch, ratio in points.items():
        if isinstance(epoch, bool) or not isinstance(epoch, numbers.Integral) or epoch < 0:
            raise ValueError(f"Expected epochs as whole numbers from 0 on. Received {epoch!r} in {dict(points)}.")
        check_ratio(ratio)
    return lambda epoch, epochs: points[max(e for e in points if e <= epoch)]


def _from_callable(function: Callable[..., float]) -> Schedule:
    try:
        inspect.signature(function).bind(0, 1)
    except (TypeError, ValueError):  # ValueError: some builtins have no signature
        return lambda epoch, epochs: function(epoch)
    return function
