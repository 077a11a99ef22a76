"""How long a stop takes, and so how long before the time limit Slurm's signal must come."""

from __future__ import annotations

import math
from collections import deque

RECENT = 20
WARM_UP = 2
MARGIN = 1.5
FIXED_S = 5.0


class Lead:
    """The measured lead time of a stop, from the signal to the end of the process, in seconds::

        lead = 1.5 x (longest of the last 20 steps + longest validation + longest checkpoint) + 5

    A signal that comes right after a step has begun waits for its end, for the validation that may follow it, and for a
    checkpoint; for two where the one under way may be the best, which is not given up (``keeps_best``). The first two
    steps of a process are longer than any later one (memory, kernels and connections are set up) and count only while
    there are no others.
    """

    def __init__(self, asked_s: float | None = None) -> None:
        """Takes the lead that Slurm was asked for (``--signal=USR2@LEAD``), None if there is no such signal."""
        self._asked = asked_s
        self._steps: deque[float] = deque(maxlen=RECENT)
        self._seen = 0
        self._checkpoint = self._validation = 0.0
        self.keeps_best = False

    def after_step(self, seconds: float) -> None:
        """Record the time between two step boundaries, with all that was done in it."""
        if self._seen == WARM_UP:
            self._steps.clear()
        self._seen += 1
        self._steps.append(seconds)

    def after_validation(self, seconds: float) -> None:
        """Record the time of a validation."""
        self._validation = max(self._validation, seconds)

    def after_checkpoint(self, seconds: float) -> None:
        """Record the time of a checkpoint, from its snapshot to its commit."""
        self._checkpoint = max(self._checkpoint, seconds)

    @property
    def seconds(self) -> float:
        """The lead time that is needed, as far as is known."""
        checkpoints = self._checkpoint * (2 if self.keeps_best else 1)
        return MARGIN * (self._longest_step + self._validation + checkpoints) + FIXED_S

    def words(self) -> str:
        """The lead time and where it comes from, for the log."""
        validation = f" + validation {self._validation:.1f} s" if self._validation else ""
        checkpoints = f"{'2 x ' if self.keeps_best else ''}checkpoint {self._checkpoint:.1f} s"
        return (
            f"a stop needs {math.ceil(self.seconds)} s: {MARGIN:g} x (step {self._longest_step:.1f} s{validation} + "
            f"{checkpoints}) + {FIXED_S:g} s"
        )

    def warning(self) -> str | None:
        """What to change, if Slurm's signal comes later than that."""
        if self._asked is None or self._asked >= self.seconds:
            return None
        return (
            f"warning: {self.words()}; run.sub asks for Slurm's signal {self._asked:g} s before the time limit, so a "
            "stop may lose the steps since the last checkpoint, unless the job was submitted with "
            f"--signal=USR2@{math.ceil(self.seconds)} (`bertjobs submit --sbatch signal=...`)"
        )

    @property
    def _longest_step(self) -> float:
        return max(self._steps, default=0.0)
