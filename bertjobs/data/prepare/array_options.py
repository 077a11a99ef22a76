"""How a prepare's stages are cut into job arrays, and what it asks of Slurm for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.cluster import fewest_cpus
from bertjobs.slurm.container import Container
from bertjobs.slurm.environment import clean_environment, with_package
from bertjobs.slurm.image import check_container
from bertjobs.slurm.options import SET_FOR_EACH_JOB, SlurmOptions, parse_option
from bertjobs.slurm.refusals import Hints

ARRAY_NAME = "bertjobs-prepare"
HINTS = Hints(
    no_answer="see `scontrol ping`, and run the same command again",
    refused="give what the cluster asks for: --partition, --account, --qos, --time, --memory, --cpus, --sbatch",
    limit="wait for other jobs of yours to end",
)
PROGRAMS = ("sbatch", "srun", "squeue", "scancel")

_OURS = dict.fromkeys((*SET_FOR_EACH_JOB, "dependency", "open-mode"), "prepare sets it for each job")


@dataclass(frozen=True)
class ArrayOptions:
    """What a prepare's job arrays ask for.

    Attributes:
        slurm: of each job, which runs as many tasks at a time as it has CPUs.
        jobs: elements per stage, at most; each takes a share of the stage's tasks.
        attempts: how often a task may fail.
        container: what the jobs run in; None for the nodes' own Python.
    """

    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    jobs: int = 16
    attempts: int = 3
    container: Container | None = None

    @property
    def processes(self) -> int:
        """Tasks that a job runs at a time."""
        return self.slurm.cpus or 1

    def check(self) -> None:
        """InputError names the first option that is not valid."""
        cpus = 1 if self.slurm.cpus is None else self.slurm.cpus
        for flag, value in (("--jobs", self.jobs), ("--cpus", cpus), ("--attempts", self.attempts)):
            if value < 1:
                raise InputError(f"{value} is too small: at least 1", where=flag)
        self.slurm.lines()
        for option in self.slurm.extra:
            parse_option(option, ours=_OURS)

    def check_container(self, slurm: Slurm) -> None:
        """InputError if there is a container that cannot be started on this cluster."""
        if self.container is not None:
            check_container(self.container, slurm)

    def parameters(self, excluded: Iterable[str] = ()) -> dict[str, str | bool]:
        """The options of sbatch, by name; True for one without a value. ``excluded``: nodes to avoid."""
        given = replace(self.slurm, cpus=self.processes).parameters()
        if "no-requeue" not in given:
            given["requeue"] = True  # by Slurm itself, when a node is lost
        if nodes := ",".join([*([str(given["exclude"])] if "exclude" in given else []), *sorted(excluded)]):
            given["exclude"] = nodes
        return given

    def on_whole_nodes(self, nodes: int, slurm: Slurm) -> ArrayOptions:
        """These options for ``nodes`` jobs per stage, each on a node of its own, with as many of its CPUs as asked for,
        else as the partition's smallest node has.

        Raises:
            InputError: ``nodes`` is below 1.
        """
        if nodes < 1:
            raise InputError(f"{nodes} is too small: at least 1", where="--nodes")
        cpus = self.slurm.cpus or fewest_cpus(slurm, self.slurm.partition)
        return replace(self, jobs=nodes, slurm=self.slurm.whole_node(cpus))


def job_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment to submit from, which jobs get: that of any job, in which this package is found."""
    return with_package(clean_environment(environ), Path(__file__).resolve().parents[3])


def checked_slurm(environ: Mapping[str, str]) -> Slurm:
    """The cluster that ``environ`` leads to.

    Raises:
        InputError: one of the commands that a prepare needs is missing.
    """
    slurm = Slurm(environ)
    hint = "log in to a submit host of the cluster, or leave --slurm out to prepare on this machine"
    slurm.require(PROGRAMS, hint, where="--slurm")
    return slurm
