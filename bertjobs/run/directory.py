"""Where each part of a run is kept (contract 2 of the design).

::

    RESULTS/<run>/run.yml, source/, jobs.jsonl, owners/
    RESULTS/<run>/phase<N>/logs/, metrics.jsonl, validation.jsonl, checkpoints/, DONE.json
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertjobs.errors import BertjobsError, InputError, nearest
from bertjobs.files.atomic import PRIVATE_FOLDER, write_json, write_text
from bertjobs.files.json_lines import append_line, read_lines


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

    def create(self) -> None:
        """Make the phase's folders, readable by their owner alone.

        Raises:
            InputError: as in `RunDirectory.create`.
        """
        _make_private(self.root, self.logs, self.checkpoints)

    def done(self) -> Done | None:
        """The phase's DONE.json, or None while the phase is not done.

        Raises:
            BertjobsError: the file exists but is not one of ours.
        """
        if not self.done_file.exists():
            return None
        try:
            return Done(**json.loads(self.done_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise BertjobsError(f"DONE.json cannot be read: {error}", where=str(self.done_file)) from error

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
        """The phases that have a folder, in order."""
        numbers = sorted(
            int(folder.name.removeprefix("phase"))
            for folder in self.root.glob("phase*")
            if folder.name.removeprefix("phase").isdigit()
        )
        return [self.phase(number) for number in numbers]

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

    def events(self) -> list[dict[str, Any]]:
        return read_lines(self.journal)


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
    """The run called ``run`` below ``results``; ``run`` may also be the path of a run's folder.

    Raises:
        InputError: there is no such run; names the nearest.
    """
    for root in (results / run, Path(run)):
        if os.access(root / "run.yml", os.R_OK):
            return RunDirectory(root.resolve())
    runs = [folder.name for folder in results.iterdir()] if results.is_dir() else []
    hint = nearest(run, runs) or "start one with: bertjobs submit --recipe NAME"
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
    """The runs below a results folder, newest first."""
    if not results.is_dir():
        return []
    # os.access: other people's runs in a shared folder may be closed to this user.
    runs = [RunDirectory(folder) for folder in results.iterdir() if os.access(folder / "run.yml", os.R_OK)]
    return sorted(runs, key=lambda run: run.lockfile.stat().st_mtime, reverse=True)
