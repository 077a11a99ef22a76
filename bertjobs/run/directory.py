"""Where each part of a run is kept (contract 2 of the design).

::

    RESULTS/<run>/run.yml, source/, jobs.jsonl, owners/
    RESULTS/<run>/phase<N>/logs/, metrics.jsonl, validation.jsonl, checkpoints/, DONE.json
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertjobs.errors import InputError, nearest
from bertjobs.files.atomic import PRIVATE_FOLDER, write_json, write_text
from bertjobs.files.json_lines import append_line, read_lines
from bertjobs.files.reading import DamagedFileError, read_json, record_of
from bertjobs.run.events import Event, events_in

_PHASE = re.compile(r"phase([1-9][0-9]{0,3})")


@dataclass(frozen=True)
class Done:
    """What phase N+1 starts from: the content of ``DONE.json``.

    ``checkpoint`` is the folder's name below ``checkpoints/``; ``sha256`` is that of its MANIFEST.json,
    which in turn holds the hash of each file.
    """

    phase: int
    step: int
    checkpoint: str
    sha256: str
    recipe_hash: str
    time_unix_s: float


@dataclass(frozen=True)
class PhaseDirectory:
    """One phase's folder."""

    root: Path
    number: int

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON line per optimizer step."""
        return self.root / "metrics.jsonl"

    @property
    def validation(self) -> Path:
        """One JSON line per validation."""
        return self.root / "validation.jsonl"

    @property
    def result(self) -> Path:
        """Of fine-tuning: the measures of the checkpoint that is the result, and what was tuned with it."""
        return self.root / "RESULT.json"

    @property
    def predictions(self) -> Path:
        """Of fine-tuning: what the result says of each dev example, one JSON line each, in their order."""
        return self.root / "predictions.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The folder that TensorBoard reads."""
        return self.root / "tensorboard"

    @property
    def done_file(self) -> Path:
        return self.root / "DONE.json"

    @property
    def script(self) -> Path:
        """The batch script as it was submitted."""
        return self.root / "run.sub"

    @property
    def exclude(self) -> Path:
        """Nodes that the next link must not be given, separated by commas: the worker writes it, run.sub reads it."""
        return self.root / "exclude"

    def outputs(self) -> list[Path]:
        """The files of ``logs/``: the workers' and the batch scripts'; none if the folder is closed to this user."""
        try:
            return sorted(self.logs.glob("*.out"))
        except OSError:
            return []

    def create(self) -> None:
        """Make the phase's folders, readable by their owner alone.

        Raises:
            InputError: as in `RunDirectory.create`.
        """
        _make_private(self.root, self.logs, self.checkpoints)

    def done(self) -> Done | None:
        """The phase's DONE.json, or None while the phase is not done.

        Raises:
            DamagedFileError: it cannot be read, or is not one of ours.
        """
        try:
            return read_json(self.done_file, _done)
        except DamagedFileError as error:
            error.hint = "restore it from a copy; or delete it: the phase then finishes again from its last checkpoint"
            raise

    def write_done(self, done: Done) -> None:
        write_json(self.done_file, asdict(done))


@dataclass(frozen=True)
class RunDirectory:
    """RESULTS/<run>."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def lockfile(self) -> Path:
        """run.yml: the run fully resolved, itself a valid recipe file."""
        return self.root / "run.yml"

    @property
    def has_lockfile(self) -> bool:
        """Whether anything has that name, be it damaged or closed to this user."""
        try:
            self.lockfile.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return True

    @property
    def journal(self) -> Path:
        """jobs.jsonl: each submission and attempt, and how it ended."""
        return self.root / "jobs.jsonl"

    @property
    def source(self) -> Path:
        """Version, git commit and dirty diff of the code that runs."""
        return self.root / "source"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def owners(self) -> Path:
        """Who trained the run, one after the other: `bertjobs.run.owner`."""
        return self.root / "owners"

    def phase(self, number: int) -> PhaseDirectory:
        return PhaseDirectory(self.root / f"phase{number}", number)

    def phases(self) -> list[PhaseDirectory]:
        """The phases that have a folder, in order; none if the run's folder is closed to this user."""
        numbers = (int(match[1]) for folder in self.root.glob("phase*") if (match := _PHASE.fullmatch(folder.name)))
        return [self.phase(number) for number in sorted(numbers)]

    def create(self) -> None:
        """Make the folder, readable by its owner alone.

        Raises:
            InputError: it cannot be written; names the path and the system's reason.
        """
        _make_private(self.root)

    def write_lockfile(self, text: str) -> None:
        write_text(self.lockfile, text)

    def record(self, event: str, **fields: Any) -> None:
        """Append an event to the journal, with the time in seconds since 1970."""
        append_line(self.journal, {"time_unix_s": round(time.time(), 3), "event": event, **fields})

    def events(self) -> list[Event]:
        """The journal's events, in order, without what cannot be an event of ours (`bertjobs.run.events`).

        Raises:
            DamagedFileError: the journal cannot be read.
        """
        return events_in(read_lines(self.journal))

    @property
    def is_run(self) -> bool:
        """Whether the folder is a run's, whole or damaged: it has a run.yml, or what an attempt leaves that ended
        before it wrote one. Other people's runs that are closed to this user do not count."""
        if os.access(self.lockfile, os.R_OK):
            return True
        try:
            is_mine = self.root.stat().st_uid == os.geteuid()
            if not os.access(self.root, os.R_OK | os.X_OK):
                return is_mine and self.root.is_dir()
            if self.has_lockfile:
                return is_mine
            return self.journal.exists() or any(folder.logs.is_dir() for folder in self.phases())
        except OSError:
            return False


def _done(value: Any) -> Done:
    done = record_of(Done, value)
    if Path(done.checkpoint).name != done.checkpoint:
        raise ValueError(f"its checkpoint {done.checkpoint!r} is not a folder's name")
    return done


def _make_private(*folders: Path) -> None:
    try:
        for folder in folders:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the run's folder cannot be written: {error.strerror}",
            where=str(error.filename),
            hint="choose another folder with --results or RESULTS",
        ) from error


def open_run(results: Path, run: str) -> RunDirectory:
    """The run called ``run`` below ``results``, whole or damaged; ``run`` may also be the path of a run's folder.

    Raises:
        InputError: there is no such run; names the nearest.
    """
    for root in (results / run, Path(run)):
        if (directory := RunDirectory(root)).is_run:
            return RunDirectory(directory.root.resolve())
    runs = [directory.name for directory in all_runs(results)]
    hint = nearest(run, runs) or "start one with: bertjobs submit --recipe NAME"
    if run.strip("./") and (results / run).is_dir():
        raise InputError(f"the folder {run!r} holds no run", where=str(results / run), hint=hint)
    raise InputError(f"there is no run named {run!r}", where=str(results), hint=hint)


def check_writable(folder: Path) -> None:
    """Make sure that ``folder`` can be made and written, without leaving anything behind.

    Raises:
        InputError: it cannot; names the path that stands in the way and the system's reason.
    """
    parent = folder
    while not parent.exists():
        parent = parent.parent
    reason = None
    if not parent.is_dir():
        reason = "is a file, not a folder"
    elif not os.access(parent, os.W_OK | os.X_OK):
        reason = "you may not write there"
    else:
        probe = parent / f".bertjobs-probe-{os.getpid()}"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            reason = error.strerror
    if reason:
        raise InputError(
            f"the results folder {str(folder)!r} cannot be written: {parent}: {reason}",
            where="results",
            hint="choose another folder with --results or RESULTS",
        )


def all_runs(results: Path) -> list[RunDirectory]:
    """The runs below a results folder, newest first; damaged ones too (`RunDirectory.is_run`)."""
    try:
        folders = list(results.iterdir())
    except OSError:
        return []
    runs = [directory for directory in map(RunDirectory, folders) if directory.is_run]
    return sorted(runs, key=_written, reverse=True)


def _written(directory: RunDirectory) -> float:
    for path in (directory.lockfile, directory.root):
        try:
            return path.lstat().st_mtime
        except OSError:
            continue
    return 0.0
