"""The choices beside target and calibration that `convert` takes, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_esq._checks import check_bounds, check_count
from keras_esq.conversion.packing import WIDTHS

WEIGHTS = ("auto", *WIDTHS)
OVER_BUDGET = ("int8", "error")


def get_bounds(bounds: Any, model: Any) -> tuple[float, float]:
    """The range of pixels: as passed, or that of a training model's attack, or (0, 1).

    Raises:
        TypeError, ValueError: for no pair of finite numbers in rising order.
    """
    if bounds is None:
        attacks = [getattr(model, name, None) for name in ("attack", "validation_attack")]
        bounds = next((b for attack in attacks if (b := getattr(attack, "bounds", None)) is not None), (0.0, 1.0))
    return check_bounds(bounds)


def check_options(
    target: str, storage: str, weights: str, c_array: bool, ram_budget: int | None, over_budget: str
) -> None:
    """Refuse options that the target does not have.

    Raises:
        ValueError: for an unknown value, or an option of another target.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"Expected weights to be one of {list(WEIGHTS)}. Received: {weights!r}.")
    if weights not in ("int8", "auto") and storage != "packed":
        raise ValueError(
            f"Expected weights='int8' or 'auto' for target {target!r}. Received: {weights!r}, which target='phone' has."
        )
    if over_budget not in OVER_BUDGET:
        raise ValueError(f"Expected over_budget to be one of {list(OVER_BUDGET)}. Received: {over_budget!r}.")
    for name, value, asked in (("c_array", c_array, bool(c_array)), ("ram_budget", ram_budget, ram_budget is not None)):
        if asked and storage != "tables":
            raise ValueError(f"Expected {name} with target='mcu' only. Received: {value!r} with target {target!r}.")
    if ram_budget is not None and weights == "int8":
        raise ValueError(
            "Expected weights='auto' with ram_budget, which decides between look-up tables and int8. Received: 'int8'."
        )
    if ram_budget is not None:
        check_count("ram_budget", ram_budget, advice="It counts bytes.")


def check_labels(labels: Sequence[str] | None, classes: int) -> list[str] | None:
    """The labels as a list.

    Raises:
        TypeError: if they are no sequence of strings.
        ValueError: if there are not as many as classes, of which a single unit tells two apart.
    """
    if labels is None:
        return None
    names = [labels] if isinstance(labels, str) else list(labels)
    if isinstance(labels, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"Expected labels as a list of strings, one a class. Received: {labels!r}.")
    if len(names) != max(classes, 2):
        raise ValueError(f"Expected {max(classes, 2)} labels, one a class of the model. Received {len(names)}.")
    return names


def describe_report(report: Any) -> list[dict[str, Any]] | None:
    """The rows of a RobustnessReport as plain data for a file's metadata.

    Raises:
        TypeError: if it is no report.
    """
    if report is None:
        return None
    try:
        return [
            {"attack": row.name, "settings": row.settings, "accuracy": round(float(row.accuracy), 6), "n": int(row.n)}
            for row in report.rows
        ]
    except (AttributeError, TypeError) as error:
        raise TypeError(
            f"Expected report to be what esq.evaluate_robustness returns. Received: {type(report).__name__}."
        ) from error
