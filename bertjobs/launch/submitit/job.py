"""What submitit runs on each task of a job: the worker as its child, inside submitit's checkpoint and requeue.

On Slurm a task is a rank (`PhaseJob`). On this machine one task has all ranks (`LocalPhaseJob`), as submitit's local
executor would neither end the others where one fails nor let them write a checkpoint at ctrl-C.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from submitit.core.utils import DelayedSubmission

from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE, EXIT_DONE, EXIT_FAILURE
from bertjobs.launch.local import has_ended, started, wait_for
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.checkpoints import steps
from bertjobs.run.directory import RunDirectory

POLL_S = 0.1
ASK_AGAIN_S = 1.0


class PhaseJob:
    """One rank of a phase.

    submitit loads it from a pickle on each task and calls it. When Slurm sends submitit's signal, USR2, submitit's
    handler on rank 0 calls `checkpoint`, puts what that returns in the pickle's place, requeues the job and exits; on
    other ranks it does nothing, and need not: ranks agree on stopping. Submitit disregards TERM: it is passed on here.

    Args:
        directory: the run's folder.
        phase: the phase's number.
        settings: environment of the worker, beside the task's own; it is written to disk.
    """

    def __init__(self, directory: Path, phase: int, settings: Mapping[str, str]) -> None:
        self.directory, self.phase, self.settings = directory, phase, dict(settings)
        self._worker: subprocess.Popen[bytes] | None = None
        self._before: list[Path] = []

    def __call__(self) -> int:
        """Run the worker to its end; returns 0.

        Raises:
            SystemExit: with the worker's exit code, if that is another one. Of all exceptions submitit lets only this
                one pass.
        """
        self._before = self._checkpoints()
        command = [sys.executable, "-m", "bertjobs.train"]
        self._worker = subprocess.Popen(command, env={**os.environ, **self.settings}, stdin=subprocess.DEVNULL)
        signal.signal(signal.SIGTERM, self._pass_on)
        while not self._has_ended():
            time.sleep(POLL_S)
        if code := exit_code(self._worker.wait()):
            sys.exit(code)
        return EXIT_DONE

    def checkpoint(self) -> DelayedSubmission:
        """Have the ranks write a checkpoint and stop; returns what submitit runs when the job starts again.

        Runs inside a signal's handler, in the midst of `__call__`.

        Raises:
            SystemExit: the job is not to be requeued; or the batch script does it, as there is no scontrol in here.
        """
        asked_at = float("-inf")
        while not self._has_ended():
            if time.monotonic() - asked_at >= ASK_AGAIN_S:  # a worker that has just been started may not have heard it
                self._pass_on(signal.SIGUSR2)
                asked_at = time.monotonic()
            time.sleep(POLL_S)
        code = self._worker.wait() if self._worker else EXIT_CONTINUE
        if code == -signal.SIGUSR2:  # before it could listen
            code = EXIT_CONTINUE
        elif code == EXIT_CONTINUE and self._worker and self._checkpoints()[-1:] == self._before[-1:]:
            print("not requeued: no checkpoint was written since the job started", file=sys.stderr, flush=True)
            code = EXIT_FAILURE
        if code != EXIT_CONTINUE or "STEPS_THIS_RUN" in self.settings or not shutil.which("scontrol"):
            sys.exit(exit_code(code))
        return DelayedSubmission(PhaseJob(self.directory, self.phase, self.settings))

    def _checkpoints(self) -> list[Path]:
        return steps(RunDirectory(self.directory).phase(self.phase).checkpoints)

    def _has_ended(self) -> bool:
        return self._worker is None or has_ended(self._worker)

    def _pass_on(self, number: int, _frame: FrameType | None = None) -> None:
        if self._worker is not None and not self._has_ended():
            os.kill(self._worker.pid, number)  # not yet waited for: the number is still its own


@dataclass
class LocalPhaseJob:
    """All ranks of a phase on this machine.

    Attributes:
        logs: folder of the phase's logs.
        job, attempt: as the journal and the logs name them.
        gpus: CUDA_VISIBLE_DEVICES, which submitit overwrites; None: not set.
        launcher: process that waits for the job; when it is gone the ranks stop with a checkpoint.
    """

    spec: RunSpec
    phase: int
    logs: Path
    job: str
    gpus: str | None
    launcher: int
    attempt: int = 0
    _ranks: Sequence[subprocess.Popen] = ()

    def __call__(self) -> int:
        """Run the ranks to their end; returns the worker's exit code, which submitit's controller would not."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        environ = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        environ |= {"CUDA_VISIBLE_DEVICES": self.gpus} if self.gpus is not None else {}
        log = self.logs / f"{self.job}-{self.attempt}.out"
        with started(sys.executable, self.spec, self.phase, environ, log, self.job, self.attempt) as self._ranks:
            return wait_for(self._ranks, self._watch_launcher)

    def checkpoint(self) -> DelayedSubmission:
        """Have the ranks write a checkpoint and stop; returns the next attempt. Runs inside a signal's handler."""
        for rank in self._ranks:
            if not has_ended(rank):
                os.kill(rank.pid, signal.SIGUSR2)
        while not all(has_ended(rank) for rank in self._ranks):
            time.sleep(POLL_S)
        return DelayedSubmission(replace(self, attempt=self.attempt + 1, _ranks=()))

    def _watch_launcher(self) -> None:
        if not Path(f"/proc/{self.launcher}").exists():
            raise KeyboardInterrupt


def exit_code(code: int) -> int:
    """A worker's exit code as contract 3 has it: one that a signal ended has failed."""
    return code if code in (EXIT_DONE, EXIT_BAD_INPUT, EXIT_CONTINUE) else EXIT_FAILURE
