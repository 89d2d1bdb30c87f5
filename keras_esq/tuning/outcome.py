"""What became of a trial: a small file in its folder.

keras-tuner's own record of a trial loses the reason of a failure on its way from a worker to the chief.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from keras_esq._files import write_atomic

COMPLETED, FAILED, OVER_BUDGET = "completed", "failed", "over budget"
BEST, LAST = "best.keras", "last.keras"
_FILE = "outcome.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended.

    Attributes:
        status: "completed", "failed" or "over budget".
        reason: why it failed, in words; empty for a completed one.
        metrics: those of the best epoch, the score and `file_bytes`; what is known of them for other trials.
        best_epoch: the one whose weights were kept, counted from 1; 0 if there is none.
    """

    status: str
    reason: str = ""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    best_epoch: int = 0


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write it to the folder of the trial."""
    write_atomic(folder / _FILE, json.dumps(dataclasses.asdict(outcome)) + "\n")


def read_outcome(folder: Path) -> Outcome | None:
    """What `write_outcome` wrote, or None for a trial that is not done."""
    path = folder / _FILE
    return Outcome(**json.loads(path.read_text())) if path.exists() else None


def clear(folder: Path) -> None:
    """Remove what an interrupted run of the trial left."""
    for name in (_FILE, BEST, LAST):
        (folder / name).unlink(missing_ok=True)
