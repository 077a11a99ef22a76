"""Writing checkpoints in the background, by several ranks at once, while training continues.

After the same step all ranks call ``begin``: threads of each copy its part to host memory, then write it to one
temporary folder. Once all know that all parts are written, all call ``commit``, and rank 0 seals the folder and renames
it; or, if one has failed, all call ``drop``. The writer itself sends no messages.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal

from torch import nn

from bertjobs.data.batches.order import StreamState
from bertjobs.errors import BertjobsError
from bertjobs.files.atomic import PRIVATE_FOLDER, TEMPORARY_PREFIX, publish_folder, write_hashed
from bertjobs.optim.base import Optimizer
from bertjobs.run.causes import Cause
from bertjobs.run.checkpoints import KEPT, FileEntry, folder_name, prune, seal
from bertjobs.run.directory import PhaseDirectory
from bertjobs.train.checkpoint.snapshot import Part, Snapshot, parts_of
from bertjobs.train.checkpoint.state import STATE_NUMBERS, Progress, state_numbers

THREADS = 4
"""Files that a rank writes at once."""

State = Literal["idle", "writing", "written", "failed"]
Content = Iterable[bytes | memoryview]


@dataclass(frozen=True)
class CheckpointSeries:
    """What all checkpoints of an attempt have in common.

    Attributes:
        directory: of the phase; it exists.
        recipe_hash, settings: what decides the weights, for the manifest.
        description: makes the small files that all checkpoints contain besides the tensors (`Learner.description`).
        attempt: a unique name for this start of the worker, the same on all ranks: ``<job>-<attempt>``.
        rank, world_size: this rank among all.
        keep: how many of the phase's newest checkpoints are kept.
    """

    directory: PhaseDirectory
    recipe_hash: str
    settings: Mapping[str, Any]
    description: Callable[[], Mapping[str, bytes]]
    attempt: str
    rank: int = 0
    world_size: int = 1
    keep: int = KEPT


class CheckpointWriter:
    """One rank's writer of a phase's checkpoints, one at a time.

    Attributes:
        error: why this rank's part could not be written, in state "failed".
    """

    def __init__(self, series: CheckpointSeries) -> None:
        self._series = series
        self._snapshot: Snapshot | None = None
        self._description: Mapping[str, bytes] = {}
        self._begun = 0
        self._begin_s = 0.0
        self._step: int | None = None  # of the checkpoint under way
        self._threads: list[Thread] = []
        self._entries: dict[str, FileEntry] = {}  # of the files that this rank has written
        self.error: BertjobsError | None = None
        self._pruning: Thread | None = None
        self._aborted = Event()
        # Steps: that of the best so far, behind one that is to stay until it is written.
        self._bests: list[int] = []

    @property
    def state(self) -> State:
        """Where this rank stands: "written" and "failed" until ``commit`` or ``drop``."""
        if self._step is None:
            return "idle"
        if any(thread.is_alive() for thread in self._threads):
            return "writing"
        return "failed" if self.error else "written"

    @property
    def best_step(self) -> int | None:
        """The step that `keep` was last called with, unless its checkpoint was given up; the same on all ranks."""
        return self._bests[-1] if self._bests else None

    def keep(self, step: int) -> None:
        """The checkpoint of this step, the best so far, stays once it is there; until then the best before it does."""
        self._bests = [*self._bests, step]

    @property
    def stall_s(self) -> float:
        """Seconds for which the last ``begin`` held up training, including the optimizer's wait for the copies."""
        return self._begin_s + (self._snapshot.held_s if self._snapshot else 0.0)

    def reserve(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Allocate host memory, as much as this rank writes. Otherwise the first ``begin`` does it.

        Raises:
            InputError: the small files cannot be made.
        """
        if self._snapshot is not None:
            return
        series = self._series
        self._snapshot = Snapshot(model, optimizer, parts_of(model, optimizer, series.world_size), series.rank)
        if series.rank == 0:
            self._description = series.description()

    def begin(self, model: nn.Module, optimizer: Optimizer, progress: Progress, data: StreamState) -> None:
        """Let threads copy this rank's part, then write it. The state must be "idle".

        It returns at once, and the next step may begin; if that step's forward and backward passes take less time
        than the copies, the optimizer waits for the copies before it changes anything.
        """
        if self._step is not None:
            raise RuntimeError(f"the checkpoint of step {self._step} is neither committed nor dropped")
        started = time.perf_counter()
        self.reserve(model, optimizer)
        assert self._snapshot is not None
        numbers = json.dumps(state_numbers(progress, optimizer, data), indent=2) + "\n"  # may wait for the device
        self._snapshot.take(model, optimizer)
        self._step, self._begun, self._entries = progress.step, self._begun + 1, {}
        files: list[tuple[str, Content]] = [
            (file.name, file.blocks()) for file in sorted(self._snapshot.files, key=lambda file: -file.size)
        ]
        if self._series.rank == 0:
            files += [(name, [content]) for name, content in self._description.items()]
            files.append((STATE_NUMBERS, [numbers.encode()]))
        queue = deque(files)
        self._threads = [
            Thread(target=self._write, args=(queue,), name="checkpoint", daemon=True)
            for _ in range(min(THREADS, len(queue)))
        ]
        for thread in self._threads:
            thread.start()
        self._begin_s = time.perf_counter() - started

    def wait(self) -> None:
        """Wait until this rank has written all and deleted what ``commit`` made superfluous."""
        for thread in (*self._threads, *([self._pruning] if self._pruning else [])):
            thread.join()

    def commit(self) -> Path:
        """Make the checkpoint exist, on rank 0; all ranks call it once all are "written", and are "idle" after it.

        It reads one line for each part and no large file; older checkpoints are deleted in the background.

        Returns:
            The checkpoint's folder.

        Raises:
            BertjobsError: it cannot be sealed or renamed, on rank 0. Earlier ones are intact; ``drop`` this one.
        """
        assert self._step is not None
        target = self._series.directory.checkpoints / folder_name(self._step)
        if self._series.rank == 0:
            try:
                self._seal()
                publish_folder(self._temporary, target)
            except (OSError, ValueError) as error:
                raise self._failure(error) from error
        if self._step in self._bests:
            self._bests = self._bests[self._bests.index(self._step) :]
        if self._series.rank == 0:
            self._pruning = Thread(target=self._prune, args=(target.name,), name="prune", daemon=True)
            self._pruning.start()
        self._reset()
        return target

    def abort(self) -> None:
        """Stop after the block that is being written; returns when this rank has stopped, for ``drop``."""
        self._aborted.set()
        self.wait()

    def drop(self, step: int | None = None) -> None:
        """Give up the checkpoint of ``step``, by default the one under way: all ranks call it once none is "writing".
        They are "idle" after it. A rank that has committed it cannot tell which it was."""
        step = self._step if step is None else step
        if self._step is not None:
            self.wait()
            if self._series.rank == 0:
                shutil.rmtree(self._temporary, ignore_errors=True)
        self._bests = [best for best in self._bests if best != step]
        self._reset()

    @property
    def _temporary(self) -> Path:
        """Where all ranks write: the number makes it a new folder when the same step is tried again."""
        name = f"{TEMPORARY_PREFIX}{folder_name(self._step or 0)}-{self._series.attempt}-{self._begun}"
        return self._series.directory.checkpoints / name

    def _reset(self) -> None:
        self._step, self._threads, self.error = None, [], None
        self._aborted.clear()

    def _write(self, files: deque[tuple[str, Content]]) -> None:
        """Write files until none is left; one of several threads."""
        assert self._snapshot is not None
        folder = self._temporary
        try:
            folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            self._snapshot.wait()
            while (file := _next(files)) is not None:
                name, content = file
                size, sha256 = write_hashed(folder / name, self._until_aborted(content))
                self._entries[name] = {"bytes": size, "sha256": sha256}
                if self._series.rank != 0:
                    _record(folder, name).write_text(json.dumps(self._entries[name]), encoding="utf-8")
        except Exception as error:  # whatever it is, the trainer must know of it
            files.clear()
            self.error = self.error or self._failure(error)

    def _until_aborted(self, content: Content) -> Content:
        for block in content:
            if self._aborted.is_set():
                raise InterruptedError("given up for a later one")
            yield block

    def _seal(self) -> None:
        """Write the manifest over this rank's files and those that the others have recorded."""
        assert self._snapshot is not None
        series, folder = self._series, self._temporary
        files = dict(self._entries)
        for part in self._snapshot.parts:
            if part.rank != 0:
                files[part.file] = _take_record(folder, part)
        seal(
            folder,
            phase=series.directory.number,
            step=self._step or 0,
            recipe_hash=series.recipe_hash,
            world_size=series.world_size,
            settings=series.settings,
            files=files,
        )

    def _prune(self, newest: str) -> None:
        directory = self._series.directory
        try:
            done = directory.done()
            spare = [done.checkpoint] if done else []
            spare += map(folder_name, self._bests)
            prune(directory.checkpoints, keep=self._series.keep, newest=newest, spare=spare)
        except (OSError, BertjobsError) as error:
            print(f"warning: old checkpoints in {directory.checkpoints} were not deleted: {error}", flush=True)

    def _failure(self, error: Exception) -> BertjobsError:
        return BertjobsError(
            f"the checkpoint of step {self._step} cannot be written: {error}",
            where=str(self._temporary),
            hint="free some space, then start the phase again: it resumes from the previous checkpoint",
            cause=Cause.DISK if isinstance(error, OSError) else Cause.CRASHED,
        )


def _next(files: deque[tuple[str, Content]]) -> tuple[str, Content] | None:
    try:
        return files.popleft()
    except IndexError:  # another thread took the last one
        return None


def _record(folder: Path, name: str) -> Path:
    """Where a rank writes the size and hash of a file for rank 0, which then need not read it."""
    return folder / f".{name}.json"


def _take_record(folder: Path, part: Part) -> FileEntry:
    record = _record(folder, part.file)
    entry = json.loads(record.read_text(encoding="utf-8"))
    record.unlink()
    return entry
