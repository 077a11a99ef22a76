"""What reaches a job: its environment, and the one quoting function for all that reaches a shell."""

from __future__ import annotations

from collections.abc import Mapping

from bertjobs.recipe.environment import NAMES, near_miss

LEAKING = ("SLURM_", "SBATCH_", "SRUN_", "PMIX_", "PMI_")
KEPT = ("SLURM_CONF",)


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a submitted job: without the variables of a surrounding Slurm job, whose CPU binding and
    task counts would leak into the new one, and without our settings (nor what reads like one), which the run's
    lockfile holds."""

    def leaks(name: str) -> bool:
        return name.startswith(LEAKING) or name in NAMES or near_miss(name) is not None

    return {name: value for name, value in environ.items() if name in KEPT or not leaks(name)}
