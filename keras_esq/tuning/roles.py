"""keras-tuner's distributed mode: which part this process plays."""

from __future__ import annotations

import os

ALONE, CHIEF, WORKER = "alone", "chief", "worker"


def role() -> str:
    """ "alone", "chief" or "worker", by keras-tuner's documented environment variables."""
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return ALONE
    return CHIEF if "chief" in os.environ.get("KERASTUNER_TUNER_ID", "") else WORKER


def tuner_id() -> str:
    """The name of this process among the tuners of a search; keras-tuner's default for one that is alone."""
    return os.environ.get("KERASTUNER_TUNER_ID", "tuner0")
