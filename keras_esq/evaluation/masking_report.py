"""The result of a masking audit."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from keras_esq._checks import near_matches
from keras_esq._files import as_json
from keras_esq._text import aligned


@dataclass(frozen=True, kw_only=True)
class MaskingCheck:
    """One check of `masking_audit`.

    Args:
        name: as `masking_audit` lists them.
        figure: what was measured: a share of samples in [0, 1], or for "logit scale" a lead in logits.
        limit: what it is compared with.
        passed: for shares, whether Wilson's lower bound stays within the limit, so that few samples don't raise alarm.
        detail: what was counted, in words.
    """

    name: str
    figure: float
    limit: float
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class MaskingAudit:
    """What `masking_audit` found.

    Args:
        target: name of the model.
        n: number of samples.
        eps: radius in input units.
        norm: of the ball.
        checks: all checks that were made.
        accuracy: {attack: share of samples right under it}, "clean" first; none by gradient if there is no gradient.
    """

    target: str
    n: int
    eps: float
    norm: str
    checks: tuple[MaskingCheck, ...]
    accuracy: dict[str, float]

    @property
    def suspicious(self) -> bool:
        """True if any check failed: then an accuracy under attacks by gradient proves nothing."""
        return not all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(check.name for check in self.checks if not check.passed)

    def check(self, name: str) -> MaskingCheck:
        """The check of that name.

        Raises:
            KeyError: for an unknown name, with near matches.
        """
        for check in self.checks:
            if check.name == name:
                return check
        known = [check.name for check in self.checks]
        raise KeyError(f"Expected a check of this audit. Received: {name!r}. {near_matches(name, known)}")

    def summary(self) -> str:
        """The verdict in one line."""
        if not self.suspicious:
            return f"{self.target}: no sign of masked gradients ({len(self.checks)} checks, {self.n} samples)"
        return f"{self.target}: SUSPICIOUS: {', '.join(self.failed)} ({len(self.failed)} of {len(self.checks)} checks)"

    def table(self) -> str:
        """The checks as aligned text for a terminal, the verdict below."""
        rows = [
            (one.name, "pass" if one.passed else "FAIL", one.detail, f"{one.figure:.4g}", f"{one.limit:g}")
            for one in self.checks
        ]
        header = ("check", "verdict", "what was counted", "figure", "limit")
        return f"{aligned([header, *rows], left=3)}\n{self.summary()}"

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The audit as JSON text, also written to `path` if given (whole or not at all).

        Raises:
            OSError: if `path` can't be written.
        """
        content = {**dataclasses.asdict(self), "suspicious": self.suspicious, "failed": self.failed}
        return as_json(content, path)
