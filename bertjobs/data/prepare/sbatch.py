"""The edge to Slurm: what is asked of sbatch, in which environment, and what squeue shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from bertjobs.data.prepare.array_job import run_share
from bertjobs.errors import BertjobsError, InputError
from bertjobs.slurm.process_environment import process_environment

JOB_NAME = "bertjobs-prepare"
_COMMAND_S = 60.0
_MAX_ARRAY_SIZE = 1001  # Slurm's default, where it does not say
_LEAKING = ("SLURM_", "SBATCH_", "SRUN_", "PMIX_", "PMI_")
_KEPT = ("SLURM_CONF",)
_OURS = ("array", "dependency", "error", "job-name", "open-mode", "output", "parsable", "test-only", "wait", "wrap")


@dataclass(frozen=True)
class SlurmOptions:
    """What is asked of Slurm.

    Attributes:
        jobs: array elements of a stage at most; each does a share of the stage's tasks.
        partition, account, qos, time, memory: as sbatch takes them; "" leaves it to the cluster.
        cpus: of each job, which runs as many tasks at a time.
        sbatch: more options of sbatch, ``NAME=VALUE`` or ``NAME``.
        attempts: how often a task may fail.
    """

    jobs: int = 16
    partition: str = ""
    account: str = ""
    qos: str = ""
    time: str = ""
    memory: str = ""
    cpus: int = 1
    sbatch: tuple[str, ...] = ()
    attempts: int = 3

    def check(self) -> None:
        """InputError names the first option that is not as it must be."""
        for flag, value in (("--jobs", self.jobs), ("--cpus", self.cpus), ("--attempts", self.attempts)):
            if value < 1:
                raise InputError(f"{value} is too small: at least 1", where=flag)
        for text in (self.partition, self.account, self.qos, self.time, self.memory, *self.sbatch):
            if not text.isprintable():  # a line break would end the option, and begin a command
                raise InputError(f"{text!r} is no value for sbatch", where="--slurm")
        for text in self.sbatch:
            name = text.partition("=")[0].removeprefix("--")
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise InputError(f"{text!r} is no option of sbatch", where="--sbatch", hint="NAME=VALUE or NAME")
            if name in _OURS:
                raise InputError(f"prepare sets sbatch's --{name} itself", where="--sbatch")

    def parameters(self, excluded: Iterable[str] = ()) -> dict[str, Any]:
        """The options of sbatch, by name; True for one without a value."""
        named = {"partition": self.partition, "account": self.account, "qos": self.qos, "time": self.time,
                 "mem": self.memory}  # fmt: skip
        given: dict[str, Any] = {name: value for name, value in named.items() if value}
        given["cpus-per-task"] = self.cpus
        for text in self.sbatch:
            name, equals, value = text.removeprefix("--").partition("=")
            given[name] = value if equals else True
        if "no-requeue" not in given:
            given["requeue"] = True  # by Slurm itself, when a node is lost
        if nodes := ",".join([*([given["exclude"]] if "exclude" in given else []), *sorted(excluded)]):
            given["exclude"] = nodes
        return given


def max_array_size(configuration: str) -> int:
    """Elements of one array at most, from what ``scontrol show config`` prints; 1 where there are no arrays."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", configuration, re.MULTILINE)
    return max(1, int(found[1])) if found else _MAX_ARRAY_SIZE


def job_environment(environ: Mapping[str, str], package: Path) -> dict[str, str]:
    """The environment to submit from: without a surrounding job's variables, and with our package to be found.

    Args:
        package: the folder that holds the package ``bertjobs``.
    """
    kept = {name: value for name, value in environ.items() if name in _KEPT or not name.startswith(_LEAKING)}
    if package.name not in ("site-packages", "dist-packages"):
        paths = [str(package), *filter(None, [environ.get("PYTHONPATH")])]
        kept["PYTHONPATH"] = os.pathsep.join(paths)
    return kept


@dataclass(frozen=True)
class Queued:
    """A job as squeue shows it; ``reason`` says why it waits."""

    state: str
    reason: str


def parse_queue(text: str) -> dict[str, Queued]:
    """Our jobs in ``squeue -o %F|%K|%T|%j|%r``, by id: ``JOB`` or ``ARRAY_INDEX``."""
    jobs = {}
    for line in text.splitlines():
        job, index, state, name, reason = line.split("|", 4)
        if name == JOB_NAME:
            jobs[f"{job}_{index}" if index.isdigit() else job] = Queued(state, reason)
    return jobs


class NotNow(BertjobsError):
    """Slurm cannot queue more jobs at the moment."""


class Slurm:
    """The edge to Slurm's commands."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)

    def check(self) -> None:
        for program in ("sbatch", "srun", "squeue", "scancel"):
            if shutil.which(program, path=self._environ.get("PATH")) is None:
                raise InputError(
                    f"{program} was not found on the PATH: this machine cannot queue jobs",
                    where="--slurm",
                    hint="log in to a submit host of the cluster, or leave --slurm out to prepare on this machine",
                )

    def run(self, *words: str) -> str | None:
        """What a command prints; None where it failed or did not answer."""
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, env=self._environ, timeout=_COMMAND_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    def queue(self) -> dict[str, Queued] | None:
        """Our jobs that wait or run; None where Slurm does not answer."""
        text = self.run("squeue", "-h", "-r", f"--user={os.getuid()}", "-o", "%F|%K|%T|%j|%r")
        return None if text is None else parse_queue(text)

    def max_array_size(self) -> int:
        return max_array_size(self.run("scontrol", "show", "config") or "")

    def submit(self, folder: Path, parameters: dict[str, Any], calls: Sequence[tuple[Any, ...]]) -> list[str]:
        """Queue ``run_share(*call)`` for each call, as one array; returns the jobs' ids."""
        with process_environment(self._environ):
            executor = submitit.SlurmExecutor(folder, max_num_timeout=0)
            executor.update_parameters(
                job_name=JOB_NAME, time=None, wckey=None, use_srun=False, stderr_to_stdout=True,
                array_parallelism=len(calls), additional_parameters=parameters,
            )  # fmt: skip
            try:
                jobs = executor.map_array(run_share, *zip(*calls, strict=True))
            except submitit.core.utils.FailedJobError as error:
                raise refusal(str(error).strip()) from error
        return [job.job_id for job in jobs]


def refusal(said: str) -> BertjobsError:
    """sbatch's words as an error."""
    if re.search(r"(Max|Grp)Submit", said):
        return NotNow(f"sbatch cannot queue more jobs: {said}", hint="wait for other jobs of yours to end")
    if re.search(r"Unable to contact|timed out|temporarily|configuration source|Connection refused", said):
        return NotNow(f"sbatch found no cluster: {said}", hint="see `scontrol ping`, and give the same command again")
    return InputError(
        f"sbatch refused: {said}",
        where="--slurm",
        hint="give what the cluster asks for: --partition, --account, --qos, --time, --memory, --cpus, --sbatch",
    )
