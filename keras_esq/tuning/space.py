"""What a setting of a hypermodel may be: a value, choices, or a range."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from keras_esq._checks import check_count, check_positive


@dataclasses.dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included; whole ones if both are written as ints.

    Args:
        low, high: ends, low < high.
        log: draw uniformly in the logarithm, for settings whose order of magnitude is not known; both ends > 0 then.

    Raises:
        TypeError, ValueError: for ends that are no numbers, not finite, or not in rising order.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"Expected {name} of a Range to be a number. Received: {value!r}.")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"Expected a Range of two finite numbers in rising order. Received: {self}. For one value pass just it."
            )
        if self.log:
            check_positive("low of a logarithmic Range", self.low)

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


def possible_values(name: str, setting: Any) -> list[Any]:
    """What there is to check in `setting`: its choices, the ends of its range, or itself.

    Raises:
        ValueError: for choices that are none, or the same twice.
    """
    if isinstance(setting, Range):
        return [setting.low, setting.high]
    if not isinstance(setting, list | tuple):
        return [setting]
    if not setting:
        raise ValueError(f"Expected at least one choice for {name}. Received {setting!r}. Pass one value to fix it.")
    if len({repr(one) for one in setting}) < len(setting):
        raise ValueError(f"Expected choices that differ for {name}. Received {setting!r}. Drop the double.")
    return list(setting)


def check_setting(name: str, setting: Any, check: Callable[[Any], Any]) -> Any:
    """`setting` if all it can become passes `check`, which raises."""
    for value in possible_values(name, setting):
        check(value)
    return setting


def check_steps(name: str, setting: Any) -> Any:
    """`setting` if it is made of whole numbers >= 1."""
    return check_setting(name, setting, lambda value: check_count(name, value))


def choose(hp: Any, name: str, setting: Any, default: Any = None) -> Any:
    """The value of `setting` in this trial; registers it in the search space unless it is fixed.

    Args:
        hp: keras-tuner's HyperParameters.
        name: in the search space.
        setting: a Range, a list or tuple of choices, or a value, which is fixed.
        default: tried first where it is one of the possible values; else the first choice, or the lower end.
    """
    if isinstance(setting, Range):
        if default is None or not setting.low <= default <= setting.high:
            default = setting.low
        number = hp.Int if setting.whole else hp.Float
        return number(name, setting.low, setting.high, sampling="log" if setting.log else "linear", default=default)
    values = possible_values(name, setting)
    if len(values) == 1:
        return values[0]
    return hp.Choice(name, values, default=default if default in values else values[0])
