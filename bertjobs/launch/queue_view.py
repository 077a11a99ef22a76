"""What Slurm says of a run's jobs: sacct's word on all of them, and squeue's newer one on those that wait or run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bertjobs.launch.queue_reasons import Job, told_by_sacct, told_by_squeue
from bertjobs.launch.slurm import NO_CONTROLLER, Slurm

IN_JOB = 6
"""So many of sacct's fields are `told_by_sacct`'s; the others are those of one start."""


@dataclass(frozen=True)
class JobStart:
    """One start of a job, as sacct has it; ``nodes`` as Slurm writes them, times None where they are not known."""

    state: str
    began_unix_s: float | None = None
    ended_unix_s: float | None = None
    nodes: str = ""


@dataclass(frozen=True)
class Told:
    """Slurm's answer.

    Attributes:
        jobs: by id; ``start`` is in seconds since 1970.
        starts: by id, oldest first: a requeued job has several.
        source: "sacct+squeue", "sacct", "squeue", or "run directory" where Slurm said nothing.
        silence: why one of them could not be asked, or "".
    """

    jobs: Mapping[str, Job] = field(default_factory=dict)
    starts: Mapping[str, tuple[JobStart, ...]] = field(default_factory=dict)
    source: str = "run directory"
    silence: str = ""


class QueueView(Slurm):
    """The cluster that ``environ`` leads to, asked about jobs."""

    def __init__(self, environ: Mapping[str, str]):
        super().__init__({**environ, "SLURM_TIME_FORMAT": "%s"})

    @classmethod
    def of(cls, slurm: Slurm) -> QueueView:
        """The same cluster as ``slurm``."""
        return cls(slurm._environ)

    def ask(self, ids: Sequence[str]) -> Told:
        """What sacct and squeue know of jobs; squeue's newer word wins.

        Raises:
            BertjobsError: one of them gave no answer within its time.
        """
        if not ids:
            return Told()
        jobs: dict[str, Job] = {}
        starts: dict[str, tuple[JobStart, ...]] = {}
        sources, silence = [], []
        asked = ",".join(ids)
        if self._has("sacct"):
            fields = "JobID,State,ExitCode,Reason,NodeList,Timelimit,Start,End"
            answer = self._run(["sacct", "-X", "-n", "-P", "-D", "-j", asked, "-o", fields])
            lines = answer.stdout.splitlines()
            jobs = told_by_sacct("\n".join("|".join(line.split("|")[:IN_JOB]) for line in lines))
            starts = starts_told(answer.stdout)
            sources += ["sacct"] if jobs else []
            silence += _complaint(answer)
        if self._has("squeue"):
            answer = self._run(["squeue", "-h", "-t", "all", "-j", asked, "-o", "%i|%T|%r|%N|%l|%S"])
            jobs = told_by_squeue(answer.stdout, jobs)
            sources += ["squeue"] if "|" in answer.stdout else []
            silence += _complaint(answer)
        return Told(
            {id: job for id, job in jobs.items() if id in ids},
            starts,
            "+".join(sources) or "run directory",
            *silence[:1],
        )

    def named(self, run: str, folder: Path) -> dict[str, str]:
        """This user's jobs in the queue that carry the name of a link of ``run`` and write into its folder, by id.

        The name alone says nothing: runs in other results folders may be called the same.

        Returns:
            The jobs' names: ``RUN-phaseN`` or ``RUN-spare``.
        """
        if not self._has("squeue"):
            return {}
        link = re.compile(re.escape(run) + r"-(phase\d+|spare)")
        rows = (line.split("|", 1) for line in self._run(["squeue", "-h", "--me", "-o", "%i|%j"]).stdout.splitlines())
        names = {row[0]: row[1] for row in rows if len(row) == 2 and link.fullmatch(row[1])}
        return {id: name for id, name in names.items() if self._writes_into(id, folder)}

    def _writes_into(self, job: str, folder: Path) -> bool:
        if not self._has("scontrol"):
            return False
        shown = self._run(["scontrol", "show", "job", job]).stdout
        outputs = re.findall(r"^\s*StdOut=(.+)$", shown, re.MULTILINE)
        return any(Path(output).parent.resolve().is_relative_to(folder.resolve()) for output in outputs)


def starts_told(text: str) -> dict[str, tuple[JobStart, ...]]:
    """The starts of each job from sacct's lines: JobID|State|ExitCode|Reason|NodeList|Timelimit|Start|End."""
    starts: dict[str, tuple[JobStart, ...]] = {}
    for line in text.splitlines():
        row = line.split("|")
        if len(row) == IN_JOB + 2 and row[1]:
            nodes = "" if row[4] == "None assigned" else row[4]
            start = JobStart(row[1].split()[0], unix_s(row[6]), unix_s(row[7]), nodes)
            starts[row[0]] = (*starts.get(row[0], ()), start)
    return starts


def unix_s(text: str) -> float | None:
    """A time as Slurm writes it with ``SLURM_TIME_FORMAT=%s``; None for ``Unknown`` and ``N/A``."""
    return float(text) if text.isdigit() and int(text) else None


def _complaint(answer: subprocess.CompletedProcess[str]) -> list[str]:
    """Why a command had nothing to say, where it was not for want of such a job."""
    said = answer.stderr.strip()
    unreachable = answer.returncode and any(sign in said for sign in (*NO_CONTROLLER, "Problem talking", "refused"))
    return [f"{answer.args[0]}: {said.splitlines()[0]}"] if unreachable else []
