"""The result of an evaluation: numbers, tables, JSON."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keras_esq._checks import near_matches
from keras_esq._files import as_json
from keras_esq._text import aligned
from keras_esq.evaluation.intervals import wilson_interval

_FORMAT = 1
_HEADER = ("attack", "accuracy", "95 % interval", "correct", "median Linf", "median L2", "queries", "seconds")


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """Accuracy under one attack; "clean" and "worst case" are rows too.

    Distances are in input units, over the samples that were right and are wrong under the attack (for the worst case:
    by the nearest attack that succeeded); None if there is no such sample. Queries are questions per attacked sample,
    the one about the clean image included; None for attacks that use gradients. Seconds include compiling. Severities
    are the accuracies at each severity of a corruption, whose accuracy is their mean: `correct` and `n` then count each
    image once a severity, while the interval, as images and not noise are the sample, is that of the images.
    """

    name: str
    settings: str
    accuracy: float
    correct: int
    n: int
    low: float
    high: float
    median_linf: float | None
    mean_linf: float | None
    median_l2: float | None
    mean_l2: float | None
    seconds: float
    # With defaults: reports of earlier versions have none.
    median_queries: float | None = None
    mean_queries: float | None = None
    severities: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.severities is not None:  # JSON knows no tuples
            object.__setattr__(self, "severities", tuple(map(float, self.severities)))

    @classmethod
    def of(
        cls,
        name: str,
        settings: str,
        robust: np.ndarray,
        linf: np.ndarray,
        l2: np.ndarray,
        seconds: float,
        queries: np.ndarray | None = None,
    ) -> ReportRow:
        """The row of samples `robust` (n,) bool, with the distances of those successfully attacked."""
        correct, n = int(robust.sum()), len(robust)
        low, high = wilson_interval(correct, n)
        some = len(linf) > 0
        return cls(
            name=name,
            settings=settings,
            accuracy=correct / n,
            correct=correct,
            n=n,
            low=low,
            high=high,
            median_linf=float(np.median(linf)) if some else None,
            mean_linf=float(np.mean(linf)) if some else None,
            median_l2=float(np.median(l2)) if some else None,
            mean_l2=float(np.mean(l2)) if some else None,
            seconds=seconds,
            median_queries=None if queries is None else float(np.median(queries)),
            mean_queries=None if queries is None else float(np.mean(queries)),
        )

    @classmethod
    def of_severities(
        cls,
        name: str,
        settings: str,
        right: np.ndarray,
        linf: np.ndarray,
        l2: np.ndarray,
        seconds: float,
        images: int | None = None,
    ) -> ReportRow:
        """The row of a corruption: `right` (severities, n) bool; `images` if several corruptions share them."""
        row = cls.of(name, settings, right.ravel(), linf, l2, seconds)
        count = right.shape[1] if images is None else images
        low, high = wilson_interval(round(row.accuracy * count), count)
        severities = tuple(right.mean(axis=1).tolist())
        return dataclasses.replace(row, low=low, high=high, severities=severities)

    def cells(self) -> list[str]:
        """The row as text, in the order of the table's header."""
        distances = ["-" if value is None else f"{value:.4g}" for value in (self.median_linf, self.median_l2)]
        interval = f"{100 * self.low:.1f} - {100 * self.high:.1f}"
        return [
            self.name,
            f"{100 * self.accuracy:.2f} %",
            interval,
            f"{self.correct} / {self.n}",
            *distances,
            "-" if self.mean_queries is None else f"{self.mean_queries:.0f}",
            f"{self.seconds:.1f}",
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """What a contact sheet shows besides the adversarial images.

    Args:
        x: the clean images (n, ...).
        labels: true class ids (n,).
        predicted: {"clean" or attack name: class ids (n,)}.
    """

    x: np.ndarray
    labels: np.ndarray
    predicted: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class RobustnessReport:
    """What `evaluate_robustness` found.

    Args:
        target: name of the evaluated model.
        rows: "clean", one row per attack, "worst case".
        robust: {row name: (n,) bool}, True where the sample is right under that attack; in the order of x. Of a
            corruption at all its severities, and {"name-severity": (n,) bool} at each.
        x_adv: {attack name: images (n, ...)} if examples were kept, else empty; samples that were wrong before any
            attack are left as they are. Not part of the JSON.
        examples: what belongs to `x_adv`, if examples were kept, else None. Not part of the JSON.
    """

    target: str
    rows: tuple[ReportRow, ...]
    robust: dict[str, np.ndarray]
    x_adv: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    examples: Examples | None = field(default=None, repr=False)

    def row(self, name: str) -> ReportRow:
        """The row of that name ("clean", an attack's, "worst case").

        Raises:
            KeyError: for an unknown name, with near matches.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(
            f"Expected a row of this report. Received: {name!r}. {near_matches(name, [row.name for row in self.rows])}"
        )

    def accuracy(self, name: str) -> float:
        """Share of samples that are right under the attack of that name, in [0, 1]."""
        return self.row(name).accuracy

    def table(self) -> str:
        """The rows as aligned text for a terminal."""
        return aligned([_HEADER, *(row.cells() for row in self.rows)])

    def to_markdown(self) -> str:
        """The rows as a Markdown table."""
        rule = ["---", *["---:"] * (len(_HEADER) - 1)]
        rows = ([cell.replace("|", "\\|") for cell in row.cells()] for row in self.rows)
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (_HEADER, rule, *rows))

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as JSON text, also written to `path` if given (whole or not at all).

        Raises:
            OSError: if `path` can't be written.
        """
        content = {
            "format": _FORMAT,
            "target": self.target,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "robust": {name: "".join("01"[int(value)] for value in mask) for name, mask in self.robust.items()},
        }
        return as_json(content, path)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> RobustnessReport:
        """The report that `to_json` wrote, from its text or its path.

        Raises:
            OSError: if the file can't be read.
            ValueError: if it is not such a report.
        """
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        where = "the given text" if is_text else repr(str(source))
        try:
            content = json.loads(str(source) if is_text else Path(source).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}")
            return cls(
                target=content["target"],
                rows=tuple(ReportRow(**row) for row in content["rows"]),
                robust={name: np.array([bit == "1" for bit in mask]) for name, mask in content["robust"].items()},
            )
        except OSError as error:
            raise type(error)(
                f"Expected the path of a robustness report, as to_json writes it. Received {where}: {error.strerror}. "
                "Check the path."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"Expected a robustness report of format {_FORMAT}, as to_json writes it. Received {where}: {error}."
            ) from error

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draw the accuracies with their intervals as a bar chart to `path` (PNG unless its suffix says otherwise)."""
        from keras_esq.evaluation.plots import plot_report

        return plot_report(self, path)

    def plot_examples(self, path: str | os.PathLike[str], attack: str | None = None, count: int = 8) -> Path:
        """Draw clean and adversarial images and their difference to `path`; needs keep_examples=True.

        Args and Raises: as for `keras_esq.evaluation.plot_examples`.
        """
        from keras_esq.evaluation.gallery import plot_examples

        return plot_examples(self, path, attack, count)
