"""What Slurm says of a run's jobs: sacct's word on all of them, and squeue's newer one on those that wait or run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bertjobs.slurm.client import NO_CONTROLLER, Slurm
from bertjobs.slurm.jobs import IN_JOB, Job, JobStart, Told, starts_told, told_by_sacct, told_by_squeue


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


def _complaint(answer: subprocess.CompletedProcess[str]) -> list[str]:
    """Why a command had nothing to say, where it was not for want of such a job."""
    said = answer.stderr.strip()
    unreachable = answer.returncode and any(sign in said for sign in (*NO_CONTROLLER, "Problem talking", "refused"))
    return [f"{answer.args[0]}: {said.splitlines()[0]}"] if unreachable else []
