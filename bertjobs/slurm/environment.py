"""The environments that jobs and Slurm's commands get."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bertjobs.recipe.variables import NAMES, near_miss

LEAKING = ("SLURM_", "SBATCH_", "SRUN_", "PMIX_", "PMI_")
"""Prefixes of variables that describe an enclosing job: its CPU binding and task counts would leak into a new one."""

KEPT = ("SLURM_CONF",)

FILTERS = ("SINFO_", "SACCT_", "SQUEUE_")
"""Prefixes of variables with which users filter Slurm's answers, or choose other columns."""


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a submitted job: without the variables of an enclosing Slurm job, and without our settings
    (or names that look like one), which are in the run's lockfile."""

    def leaks(name: str) -> bool:
        return name.startswith(LEAKING) or name in NAMES or near_miss(name) is not None

    return {name: value for name, value in environ.items() if name in KEPT or not leaks(name)}


def unfiltered(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a query to Slurm: without the user's own filters and formats."""
    return {name: value for name, value in environ.items() if not name.startswith(FILTERS)}


def with_package(environ: Mapping[str, str], package: Path) -> dict[str, str]:
    """``environ`` in which Python finds the package in the folder ``package``, installed or not."""
    if package.name in ("site-packages", "dist-packages"):
        return dict(environ)
    paths = [str(package), *filter(None, [environ.get("PYTHONPATH")])]
    return {**environ, "PYTHONPATH": os.pathsep.join(paths)}


@contextmanager
def process_environment(environ: Mapping[str, str]) -> Iterator[None]:
    """Give this process the environment ``environ`` for a while: submitit's commands inherit the process's."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
