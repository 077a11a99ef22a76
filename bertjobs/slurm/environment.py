"""The environments that jobs and Slurm's commands get."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.recipe.variables import NAMES, near_miss
from bertjobs.slurm.options import OPTION_HINT, is_option

LEAKING = ("SLURM_", "SBATCH_", "SRUN_", "PMIX_", "PMI_")
"""Prefixes of variables that describe an enclosing job: its CPU binding and task counts would leak into a new one."""

KEPT = ("SLURM_CONF",)

CLUSTERS = ("SLURM_CLUSTERS", "SBATCH_CLUSTERS")
"""Variables that send commands to other clusters than this machine's own."""

FILTERS = ("SINFO_", "SACCT_", "SQUEUE_")
"""Prefixes of variables with which users filter Slurm's answers, or choose other columns."""


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a submitted job: without the variables of an enclosing Slurm job, and without our settings
    (or names that look like one), which are in the run's lockfile."""

    def leaks(name: str) -> bool:
        return name.startswith(LEAKING) or name in NAMES or near_miss(name) is not None

    return {name: value for name, value in environ.items() if name in KEPT or not leaks(name)}


DEFAULTS = {
    "partition": "SBATCH_PARTITION",
    "account": "SBATCH_ACCOUNT",
    "qos": "SBATCH_QOS",
    "time": "SBATCH_TIMELIMIT",
}
"""sbatch's option -> the variable in which users keep their own default for it (sbatch(1), "INPUT ENVIRONMENT
VARIABLES")."""


def users_defaults(environ: Mapping[str, str]) -> dict[str, str]:
    """The defaults that a user's shell has for sbatch, by option; {} inside a job, whose variables are not the user's.

    Raises:
        InputError: a value cannot be written in a batch script's header.
    """
    if environ.get("SLURM_JOB_ID"):
        return {}
    values = {option: environ[name] for option, name in DEFAULTS.items() if environ.get(name)}
    for option, value in values.items():
        if not is_option(value):
            raise InputError(f"{value!r} cannot be given to sbatch", where=DEFAULTS[option], hint=OPTION_HINT)
    return values


def not_passed_on(environ: Mapping[str, str]) -> list[str]:
    """Variables with which a user's shell changes what sbatch does, and which have no effect here; [] inside a job."""
    if environ.get("SLURM_JOB_ID"):
        return []
    ours = (*DEFAULTS.values(), *CLUSTERS)
    return [name for name in sorted(environ) if name in CLUSTERS or (name.startswith("SBATCH_") and name not in ours)]


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
