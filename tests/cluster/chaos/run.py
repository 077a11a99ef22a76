"""A run under attack: what it does now, read from its own files."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertjobs.run.causes import Cause
from bertjobs.run.checkpoints import newest_whole, step_of, steps
from bertjobs.run.directory import RunDirectory
from tests.cluster.process import Process, environment_of, job_processes, ranks_of
from tests.cluster.slurm import Cluster
from tests.cluster.unreliable import UnreliableCommands


@dataclass(frozen=True)
class Attempt:
    """One start of a link, from the journal's event."""

    phase: int
    job: str
    number: int
    from_step: int


@dataclass(frozen=True)
class AttackedRun:
    """The run in ``directory`` on ``cluster``; ``disk`` is the file system, of its own, that it writes to, and
    ``commands`` are Slurm's as its jobs see them."""

    cluster: Cluster
    directory: RunDirectory
    disk: Path
    commands: UnreliableCommands
    phases: tuple[int, ...] = (1, 2)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.directory.events() if event["event"] == kind]

    def attempt(self) -> Attempt | None:
        """The attempt that started last."""
        started = self.events("started")
        if not started:
            return None
        last = started[-1]
        return Attempt(last["phase"], last["job"], last["attempt"], last["step"])

    def step(self, phase: int) -> int:
        """The newest step in a phase's metrics."""
        lines = self.directory.phase(phase).metrics
        text = lines.read_text() if lines.exists() else ""
        whole = [line for line in text.splitlines() if line.endswith("}")]
        return json.loads(whole[-1])["step"] if whole else 0

    def place(self) -> tuple[int, int]:
        """The phase that trains and its newest step, which only grow unless steps are repeated."""
        phase = max((phase for phase in self.phases if self.step(phase)), default=self.phases[0])
        return phase, self.step(phase)

    def done(self) -> bool:
        return all(self.directory.phase(phase).done() is not None for phase in self.phases)

    def checkpoints(self, phase: int) -> list[Path]:
        return steps(self.directory.phase(phase).checkpoints)

    def has_gained(self) -> bool:
        """Whether the attempt that started last has written a checkpoint of its own."""
        attempt = self.attempt()
        if attempt is None or self.ended(attempt):
            return False
        saved = newest_whole(self.directory.phase(attempt.phase).checkpoints)
        return saved is not None and step_of(saved) > attempt.from_step

    def ended(self, attempt: Attempt) -> bool:
        own = (attempt.phase, attempt.job, attempt.number)  # one attempt of a job may work on two phases
        return any((e["phase"], e["job"], e["attempt"]) == own for e in self.events("ended"))

    def missed(self, attempt: Attempt) -> bool:
        """Whether the attempt ended because its phase was done."""
        own = (attempt.phase, attempt.job, attempt.number)
        ends = (e for e in self.events("ended") if (e["phase"], e["job"], e["attempt"]) == own)
        return next((end["cause"] == Cause.DONE for end in ends), False)

    def log(self, attempt: Attempt) -> str:
        file = self.directory.phase(attempt.phase).logs / f"{attempt.job}-{attempt.number}.out"
        return file.read_text(errors="replace") if file.exists() else ""

    def last_step(self, attempt: Attempt) -> int:
        """The last step that an attempt made, by its log."""
        steps = re.findall(rf"^0: phase {attempt.phase} step (\d+)/", self.log(attempt), re.MULTILINE)
        return int(steps[-1]) if steps else attempt.from_step

    def ranks(self, job: str) -> dict[int, tuple[str, Process]]:
        """The workers of a job: rank -> (node, process)."""
        return ranks_of(self.cluster.folder, job)

    def processes(self, job: str) -> list[Process]:
        """All that a job runs, its shell first; without the slurmstepd above them."""
        entries = []
        for process in job_processes(self.cluster.folder):
            try:
                if environment_of(process).get("SLURM_JOB_ID") == job:
                    shell = b"slurm_script" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
                    entries.append((not shell, process.pid, process))
            except OSError:
                continue
        return [process for _, _, process in sorted(entries, key=lambda entry: entry[:2])]

    def processes_on(self, job: str, node: str) -> list[Process]:
        """All that a job runs on a node: its shell, srun, ranks, and the slurmstepd above them."""
        members = []
        for process in job_processes(self.cluster.folder):
            try:
                title = Path(f"/proc/{process.pid}/cmdline").read_bytes()
                name = environment_of(process).get("SLURMD_NODENAME", "")
            except OSError:
                continue
            is_step = b"slurmstepd" in title and f"[{job}.".encode() in title
            if name == node or (is_step and _is_of(process, node)):
                members.append(process)
        return members


def _is_of(step: Process, node: str) -> bool:
    """Whether a slurmstepd belongs to a node: one of its children does."""
    for entry in Path("/proc").glob("[1-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == step.pid and f"SLURMD_NODENAME={node}".encode() in (entry / "environ").read_bytes():
                return True
        except OSError:
            continue
    return False


def free_bytes(folder: Path) -> int:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize
