"""Watching runs until they have ended, with few questions to Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from bertjobs.launch.watch.status import RunStatus, ask, read_run, status_of
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.jobs import JobReport

ASK_EVERY_S = 10.0
"""Seconds between questions to Slurm, whose one controller serves all users. Files are read more often."""


class Watch:
    """Looks at runs; asks Slurm at most every `ASK_EVERY_S` seconds. ``whole``: also what their GPUs were used for."""

    def __init__(self, slurm: Slurm, *, whole: bool = False):
        self._slurm, self._whole = slurm, whole
        self._answer = JobReport()
        self._asked_at = float("-inf")

    def statuses(self, directories: Sequence[RunDirectory]) -> list[RunStatus]:
        """The status of each run now."""
        runs = [read_run(directory, whole=self._whole) for directory in directories]
        if time.monotonic() - self._asked_at >= ASK_EVERY_S:
            self._answer = ask(runs, self._slurm)
            self._asked_at = time.monotonic()
        return [status_of(files, self._answer, time.time()) for files in runs]

    def until_ended(
        self, directories: Callable[[], Sequence[RunDirectory]], every_s: float
    ) -> Iterator[list[RunStatus]]:
        """The runs' status every ``every_s`` seconds, for the last time when none has a queued or running job."""
        while True:
            runs = self.statuses(directories())
            yield runs
            if not any(run.is_active for run in runs):
                return
            time.sleep(every_s)
