"""The id of the Slurm job that an environment belongs to, as Slurm writes it everywhere else."""

from __future__ import annotations

from collections.abc import Mapping


def own_job(environ: Mapping[str, str]) -> str | None:
    """``17``; for an element of an array ``17_3``, also where its own number is that of the whole array, which
    scontrol and scancel would then mean; None outside of a job."""
    array, index = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else environ.get("SLURM_JOB_ID")
