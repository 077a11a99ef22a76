"""What submitit runs on each task of a job: one rank, the worker as its child.

The job's batch script is run.sub, as without submitit: that decides what comes next. Submitit's own requeue is unused.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

from bertjobs.errors import EXIT_CONTINUE, EXIT_DONE
from bertjobs.launch.decision import contract_code
from bertjobs.launch.local import has_ended

POLL_S = 0.1
ASK_AGAIN_S = 1.0


class RankJob:
    """One rank of the phase that run.sub trains.

    Submitit loads it from a pickle on each task and calls it. When Slurm sends submitit's signal, USR2, submitit's
    handler on rank 0 calls `checkpoint`; on other ranks it does nothing, and need not: ranks agree on stopping.
    Submitit ignores TERM: this class passes it on.
    """

    def __init__(self) -> None:
        self._worker: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the worker to its end; returns 0.

        Raises:
            SystemExit: with the worker's exit code, if that is not 0. Submitit lets no other exception through.
        """
        self._worker = subprocess.Popen([sys.executable, "-m", "bertjobs.train"], stdin=subprocess.DEVNULL)
        signal.signal(signal.SIGTERM, self._pass_on)
        while not self._has_ended():
            time.sleep(POLL_S)
        if code := contract_code(self._worker.wait()):
            sys.exit(code)
        return EXIT_DONE

    def checkpoint(self) -> None:
        """Have the ranks write a checkpoint and stop. Runs inside a signal handler, in the middle of `__call__`.

        Raises:
            SystemExit: always, with the worker's exit code: the batch script decides what comes next.
        """
        asked_at = float("-inf")
        while not self._has_ended():
            if time.monotonic() - asked_at >= ASK_AGAIN_S:  # a worker that has just started may have missed it
                self._pass_on(signal.SIGUSR2)
                asked_at = time.monotonic()
            time.sleep(POLL_S)
        code = self._worker.wait() if self._worker else EXIT_CONTINUE
        sys.exit(EXIT_CONTINUE if code == -signal.SIGUSR2 else contract_code(code))  # it ended before it listened

    def _has_ended(self) -> bool:
        return self._worker is None or has_ended(self._worker)

    def _pass_on(self, number: int, _frame: FrameType | None = None) -> None:
        if self._worker is not None and not self._has_ended():
            os.kill(self._worker.pid, number)  # not yet waited for: the pid is still its own
