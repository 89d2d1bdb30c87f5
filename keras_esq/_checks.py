"""Argument checks shared by attacks, evaluation, training and conversion: one wording for one mistake."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

# Room for the rounding of x = a / 255 and the like, as a share of the range. Anything beyond is another range.
BOUNDS_TOLERANCE = 1e-6


def _number(name: str, value: Any, kind: str) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"Expected {name} to be {kind}. Received: {value!r} of type {type(value).__name__}.")
    return float(value)


def check_positive(name: str, value: Any, advice: str = "") -> float:
    """Return `value` as a float if it is finite and > 0, else raise TypeError or ValueError."""
    number = _number(name, value, "a number > 0")
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"Expected {name} to be finite and > 0. Received: {value!r}. {advice}".rstrip())
    return number


def check_nonnegative(name: str, value: Any, advice: str = "") -> float:
    """Return `value` as a float if it is finite and >= 0, else raise TypeError or ValueError."""
    number = _number(name, value, "a number >= 0")
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"Expected {name} to be finite and >= 0. Received: {value!r}. {advice}".rstrip())
    return number


def check_fraction(name: str, value: Any, advice: str = "") -> float:
    """Return `value` as a float if it lies in [0, 1], else raise TypeError or ValueError."""
    number = _number(name, value, "a number in [0, 1]")
    if not 0 <= number <= 1:
        raise ValueError(f"Expected {name} to lie in [0, 1]. Received: {value!r}. {advice}".rstrip())
    return number


def check_count(name: str, value: Any, minimum: int = 1, advice: str = "") -> int:
    """Return `value` as an int if it is a whole number >= `minimum`, else raise TypeError or ValueError."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"Expected {name} to be an integer >= {minimum}. Received: {value!r} of {type(value).__name__}."
        )
    if value < minimum:
        raise ValueError(f"Expected {name} to be an integer >= {minimum}. Received: {value!r}. {advice}".rstrip())
    return int(value)


def check_seed(name: str, value: Any) -> int:
    """Return `value` as an int if it is a seed that TensorFlow takes: an integer in [0, 2**31)."""
    seed = check_count(name, value, minimum=0)
    if seed >= 2**31:
        raise ValueError(f"Expected {name} to be an integer in [0, 2**31). Received: {value!r}.")
    return seed


def check_bounds(bounds: Any) -> tuple[float, float]:
    """Return `bounds` as (lowest, highest) valid pixel value, two finite floats in rising order."""
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(f"Expected bounds to be a pair (lowest, highest) such as (0, 1). Received: {bounds!r}.")
    low, high = (_number("bounds", value, "a pair of numbers") for value in bounds)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"Expected finite bounds (lowest, highest) with lowest < highest. Received: {bounds!r}.")
    return low, high


def near_matches(name: str, known: Iterable[Any]) -> str:
    """A sentence that helps whoever misspelt `name`: the nearest of `known`, then all of them."""
    names = sorted(str(one) for one in known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(one) for one in near)}? " if near else ""
    return f"{hint}Known: {', '.join(names) if names else 'none'}."


def as_float_array(x: Any, name: str = "x", boolean_rows: bool = False) -> np.ndarray:
    """Return `x` (array, eager tensor or nested list of numbers) as a float32 array; rows of booleans if so wanted."""
    try:
        array = x.numpy() if hasattr(x, "numpy") else np.asarray(x)
    except (AttributeError, NotImplementedError) as error:
        raise TypeError(
            f"Expected {name} to hold values. Received a symbolic tensor: {x!r}. Inside a tf.function or a Keras layer "
            "use attack.perturb(logits_fn, x, y, seed=...)."
        ) from error
    except ValueError as error:  # a ragged list
        raise TypeError(f"Expected {name} to be an array of numbers, all rows of one shape. {error}") from error
    if array.dtype.name == "bfloat16":  # numpy itself knows no bfloat16: its kind is not that of a float
        array = array.astype(np.float32)
    if array.dtype.kind not in ("fiub" if boolean_rows and array.ndim == 2 and array.shape[1] > 1 else "fiu"):
        raise TypeError(
            f"Expected {name} to be an array of numbers. Received: {type(x).__name__} with elements of {array.dtype}."
        )
    return array.astype(np.float32, copy=False)


def check_images(
    x: Any,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    input_shape: tuple[int | None, ...] | None = None,
    name: str = "x",
) -> np.ndarray:
    """Return `x` as a float32 array after checking it.

    Args:
        x: images of shape (n, ...), n >= 1: array, eager tensor or nested list of numbers.
        bounds: lowest and highest valid value; None skips this check. Rounding beyond them is clipped away.
        input_shape: what the model takes, with the batch axis first and None where it takes any size.
        name: what the caller calls `x`.

    Raises:
        TypeError: if `x` does not hold numbers.
        ValueError: if `x` is empty, has another shape than the model takes, holds NaN or leaves `bounds`.
    """
    array = as_float_array(x, name)
    if array.size == 0:
        raise ValueError(
            f"Expected {name} to hold at least one sample. Received an empty array of shape {array.shape}."
        )
    if input_shape is not None:
        fits = array.ndim == len(input_shape) and all(
            want is None or want == have for want, have in zip(input_shape[1:], array.shape[1:], strict=True)
        )
        if not fits:
            advice = "A single image needs a batch axis: x[None]." if array.ndim == len(input_shape) - 1 else ""
            raise ValueError(
                f"Expected {name} of shape {('n', *input_shape[1:])}, as the model takes. "
                f"Received shape {array.shape}. {advice}".rstrip()
            )
    elif array.ndim < 2:
        raise ValueError(f"Expected {name} of shape (n, ...), a batch of images. Received shape {array.shape}.")
    if not np.isfinite(array).all():
        bad = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
        raise ValueError(f"Expected {name} to be finite. Received NaN or infinity, first in sample {bad}.")
    if bounds is None:
        return array
    low, high = bounds
    smallest, largest = float(array.min()), float(array.max())
    tolerance = BOUNDS_TOLERANCE * max(1.0, high - low)
    if smallest < low - tolerance or largest > high + tolerance:
        raise ValueError(
            f"Expected {name} inside the bounds ({low:g}, {high:g}). Received values from {smallest:g} to {largest:g}. "
            f"Scale {name}, or state its range: bounds=(lowest, highest)."
        )
    return np.clip(array, low, high) if smallest < low or largest > high else array


def check_labels(y: Any, num_classes: int | None, n: int | None = None, name: str = "y") -> np.ndarray:
    """Return the class ids of shape (n,), int32, behind ids of shape (n,) or (n, 1) or one-hot rows (n, num_classes).

    One-hot rows may be booleans; ids may not, as they would be a comparison with one class.

    Raises:
        TypeError: if `y` does not hold whole numbers.
        ValueError: if the length is not `n`, an id is not in [0, num_classes) or a row is not one-hot.
    """
    array = as_float_array(y, name, boolean_rows=True)
    wanted = f"class ids of shape (n,) or one-hot rows of shape (n, {num_classes or 'classes'})"
    if array.ndim not in (1, 2):
        raise ValueError(f"Expected {name} to hold {wanted}. Received shape {array.shape}.")
    if n is not None and len(array) != n:
        raise ValueError(f"Expected one label per image, {n} in all. Received {len(array)} labels in {name}.")
    if len(array) == 0:
        raise ValueError(f"Expected {name} to hold at least one label. Received shape {array.shape}.")
    if array.ndim == 2 and array.shape[1] > 1:
        if num_classes is not None and array.shape[1] != num_classes:
            raise ValueError(f"Expected {name} to hold {wanted}. Received shape {array.shape}.")
        bad = ~(((array == 0) | (array == 1)).all(axis=1) & (array.sum(axis=1) == 1))
        if bad.any():
            first = int(np.argmax(bad))
            raise ValueError(
                f"Expected {name} to hold {wanted}. Row {first} is {array[first].tolist()}. "
                "Soft or multiple labels have no single true class: pass ids, for example y.argmax(axis=1)."
            )
        return array.argmax(axis=1).astype(np.int32)
    ids = array.reshape(-1)
    bad = ~np.isfinite(ids) | (ids != np.floor(ids))
    if bad.any():
        first = int(np.argmax(bad))
        raise TypeError(f"Expected {name} to hold {wanted}. Received {ids[first]!r} at index {first}.")
    bad = (ids < 0) if num_classes is None else (ids < 0) | (ids >= num_classes)
    if bad.any():
        first = int(np.argmax(bad))
        top = "" if num_classes is None else f" to {num_classes - 1}, as the model has {num_classes} classes"
        raise ValueError(f"Expected ids in {name} from 0{top}. Received {int(ids[first])} at index {first}.")
    return ids.astype(np.int32)
