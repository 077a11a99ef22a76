"""Which processes belong to a cluster, so that all of them and no others can be ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process by its id and start time in clock ticks since boot: the pair is never used twice."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The running process of this id; raises FileNotFoundError when there is none."""
        # proc(5): the start time is field 22; the second field, the name, may itself hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] == "Z":
            raise FileNotFoundError(f"process {pid} has ended")
        return cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Whether it still runs: a zombie does not."""
        try:
            return Process.of(self.pid) == self
        except (FileNotFoundError, ProcessLookupError):
            return False

    def send(self, number: signal.Signals) -> None:
        """Signals it, if it is still there."""
        if self.alive():
            os.kill(self.pid, number)


def job_processes(folder: Path) -> Iterator[Process]:
    """The slurmstepd of this cluster and the processes that they started, wherever these were reparented."""
    conf = os.fsencode(f"SLURM_CONF={folder}/slurm.conf")
    for entry in Path("/proc").glob("[1-9]*"):
        try:
            # A slurmstepd overwrites its environment with its title, but stays where slurmd was started.
            if (entry / "comm").read_text() == "slurmstepd\n":
                ours = (entry / "cwd").readlink() == folder
            else:
                environment = (entry / "environ").read_bytes().split(b"\0")
                ours = conf in environment and any(v.startswith(b"SLURM_JOB_ID=") for v in environment)
            if ours and int(entry.name) != os.getpid():
                yield Process.of(int(entry.name))
        except OSError:  # it has ended, or is a protected process of the system
            continue


def environment_of(process: Process) -> dict[str, str]:
    """What it was started with; raises OSError when it has ended."""
    lines = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def ranks_of(folder: Path, job: str) -> dict[int, tuple[str, Process]]:
    """The workers of a job of this cluster, in order: rank -> (node, process)."""
    ranks = {}
    for process in job_processes(folder):
        try:
            variables = environment_of(process)
            command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        except OSError:
            continue
        if variables.get("SLURM_JOB_ID") == job and b"bertjobs.train" in command and b"srun" not in command:
            ranks[int(variables["SLURM_PROCID"])] = (variables["SLURMD_NODENAME"], process)
    return dict(sorted(ranks.items()))
