"""What is said at the end of a search that found nothing, or had to give up."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from keras_esq.tuning.goals import FILE_BYTES
from keras_esq.tuning.oracles import MAX_OVER_BUDGET
from keras_esq.tuning.outcome import FAILED, OVER_BUDGET
from keras_esq.tuning.results import RUNNING, SearchResults, TrialResult


def check_verdict(results: SearchResults, before: set[str], max_bytes: int | None, max_failures: int) -> None:
    """Raise if the search found nothing, or ended for failures.

    Args:
        results: of the search.
        before: ids of the trials that an earlier process had done.
        max_bytes, max_failures: of the tuner.

    Raises:
        ValueError: if every trial was over the budget.
        RuntimeError: if trials failed and none was completed, or the last `max_failures` failed.
    """
    if any(trial.status == RUNNING for trial in results.trials):
        return  # of other workers, who will see
    new = sorted((t for t in results.trials if t.trial_id not in before), key=lambda t: int(t.trial_id))
    if results.trials and all(trial.status == OVER_BUDGET for trial in results.trials):
        smallest = int(min(trial.metrics[FILE_BYTES] for trial in results.trials))
        raise ValueError(
            f"Expected a model of at most {max_bytes:,} bytes in the search space. All {len(results.trials)} trials "
            f"were larger, the smallest {smallest:,} bytes. Raise max_bytes, allow fewer bits, or make the network "
            "smaller."
        )
    failed = [trial for trial in new if trial.status == FAILED]
    if failed and (not results.completed or failures_at_end(new) >= max_failures):
        raise RuntimeError(
            f"Expected trials that can be trained. {len(failed)} of {len(new)} failed, the last, "
            f"{failed[-1].trial_id}, for: {failed[-1].reason} All reasons: print(tuner.results())."
        )
    if len(new) >= MAX_OVER_BUDGET and all(t.status == OVER_BUDGET for t in new[-MAX_OVER_BUDGET:]):
        warnings.warn(
            f"The search ended early: the last {MAX_OVER_BUDGET} trials were all over the budget of {max_bytes:,} "
            "bytes.",
            stacklevel=3,
        )


def failures_at_end(trials: Iterable[TrialResult]) -> int:
    """How many of the last trials failed, those over the budget left out."""
    count = 0
    for trial in reversed([trial for trial in trials if trial.status != OVER_BUDGET]):
        if trial.status != FAILED:
            break
        count += 1
    return count
