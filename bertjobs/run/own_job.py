"""The Slurm job that an environment belongs to: its id, as Slurm writes it everywhere else; when jobs are signalled."""

from __future__ import annotations

import re
from collections.abc import Mapping

SIGNAL_LEAD_S = 120.0
"""Seconds before its time limit at which a run's job asks for a signal: ``--signal=USR2@120``, for a checkpoint."""

_ID = re.compile(r"[0-9]+(_[0-9]+)?")


def is_slurm_job(text: str) -> bool:
    """Whether a text has the form of a job's id: ``4711``, or of an element of an array ``4711_3``."""
    return bool(_ID.fullmatch(text))


def own_job(environ: Mapping[str, str]) -> str | None:
    """``17``; for an element of an array ``17_3``, also where its own number is that of the whole array, which
    scontrol and scancel would then mean; None outside of a job."""
    array, index = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else environ.get("SLURM_JOB_ID")
