"""What was asked of Slurm's queue by flags when a run was submitted: a later submission asks for the same.

The site file and the shell's defaults are not part of it: they are read anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bertjobs.run.directory import RunDirectory

EVENT = "asked"


@dataclass(frozen=True)
class QueueOptions:
    """``options`` as sbatch reads them (``--partition=gpu``), and most runs of a study ``at_once``, None for all."""

    options: tuple[str, ...] = ()
    at_once: int | None = None


def asked_for_study(directories: Sequence[RunDirectory]) -> QueueOptions:
    """What was asked for when the runs of a study were queued together: one of them may have been resumed alone."""
    known = [asked_before(directory) for directory in directories]
    together = (one for one in known if one.at_once)
    return next(together, known[0] if known else QueueOptions())


def record_asked(directory: RunDirectory, asked: QueueOptions) -> None:
    """Write it into the run's journal.

    Raises:
        OSError: the folder cannot be written.
    """
    directory.record(EVENT, options=list(asked.options), at_once=asked.at_once)


def asked_before(directory: RunDirectory) -> QueueOptions:
    """What was asked for last; nothing for a run that was never queued, or by an earlier version."""
    for event in reversed(directory.events()):
        options, at_once = event.get("options"), event.get("at_once")
        if event["event"] != EVENT or not isinstance(options, list):
            continue
        words = tuple(option for option in options if isinstance(option, str))
        return QueueOptions(words, at_once if type(at_once) is int and at_once > 0 else None)
    return QueueOptions()
