"""Bringing trackers up to date with runs: once, or until the runs have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertjobs.errors import BertjobsError
from bertjobs.files.atomic import PRIVATE_FOLDER, remove_leftovers
from bertjobs.files.lock import Taken, locked
from bertjobs.launch.watch.status import RunStatus
from bertjobs.run.directory import RunDirectory
from bertjobs.track.replay import FOLDER, read_replay
from bertjobs.track.tracker import Tracker, tracker_errors


@dataclass(frozen=True)
class Synced:
    """What one look at a run brought.

    Attributes:
        run, to: the run's and the tracker's name.
        added: steps that the tracker had not got before.
        last_step: the last one that it has now, counted over all phases; 0 for none.
        place: where to look at the run in the tracker.
        problem: why it could not be brought up to date this time; None if it was.
    """

    run: str
    to: str
    added: int
    last_step: int
    place: str
    problem: BertjobsError | None = None

    def as_json(self) -> dict[str, Any]:
        """For programs; ``problem`` is its first sentence, or None."""
        what = self.problem.what if self.problem else None
        return {**{name: getattr(self, name) for name in ("run", "to", "added", "last_step", "place")}, "problem": what}

    def words(self) -> str:
        """One line."""
        steps = f"{self.added:,} step{'s' * (self.added != 1)} sent"
        return f"{self.run}: {steps}, {self.to} has {self.last_step:,} ({self.place})"


class Mirror:
    """One run and its place in a tracker; made and closed by `mirrored`."""

    def __init__(self, directory: RunDirectory, name: str, tracker: Tracker, environ: Mapping[str, str]):
        self.directory, self._name, self._tracker, self._environ = directory, name, tracker, environ

    def sync(self) -> Synced:
        """Bring the tracker up to date; what is wrong with this run is in the answer, other runs are not concerned."""
        run, added, last = self.directory.name, 0, 0
        try:
            with tracker_errors(self._name, run, self._environ):
                replay = read_replay(self.directory)
                if replay.points:
                    added, last = self._tracker.add(replay), replay.points[-1].step
        except BertjobsError as error:
            return Synced(run, self._name, 0, 0, self._tracker.place, error)
        return Synced(run, self._name, added, last, self._tracker.place)


@contextmanager
def mirrored(directory: RunDirectory, name: str, environ: Mapping[str, str]) -> Iterator[Mirror]:
    """A run's place in the tracker ``name`` ("wandb", "mlflow" or "tensorboard"), for one process at a time.

    Raises:
        InputError: the tracker's package is not installed, or something that it needs is not set.
        BertjobsError: another process is syncing the same run to the same tracker.
        OSError: the run's folder cannot be written.
    """
    folder = directory.root / FOLDER / name
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    with locked(folder, Taken(f"another process is syncing this run to {name}", "wait for it")):
        remove_leftovers(folder)
        tracker = open_tracker(name, folder, environ)
        try:
            yield Mirror(directory, name, tracker, environ)
        finally:
            with tracker_errors(name, directory.name, environ):
                tracker.close()


def open_tracker(name: str, folder: Path, environ: Mapping[str, str]) -> Tracker:
    """The tracker of this name, with a folder for what it keeps.

    Raises:
        InputError: its package is not installed, or something that it needs is not set.
    """
    if name == "mlflow":
        from bertjobs.track.mlflow import MlflowTracker

        return MlflowTracker(environ)
    if name == "wandb":
        from bertjobs.track.wandb import WandbTracker

        return WandbTracker(folder, environ)
    from bertjobs.track.tensorboard import TensorboardTracker

    return TensorboardTracker(folder)


def follow(
    mirrors: Sequence[Mirror],
    look: Callable[[Sequence[RunDirectory]], Sequence[RunStatus]],
    every_s: float,
    sleep: Callable[[float], None],
) -> Iterator[list[Synced]]:
    """Bring runs up to date every ``every_s`` seconds, for the last time when they have ended.

    Args:
        look: asks for the runs' status.
    """
    open_mirrors = list(mirrors)
    while open_mirrors:
        # Asked first: what a run writes before it ends is seen by the look after that.
        status = look([mirror.directory for mirror in open_mirrors])
        yield [mirror.sync() for mirror in open_mirrors]
        open_mirrors = [mirror for mirror, run in zip(open_mirrors, status, strict=True) if not has_ended(run)]
        if open_mirrors:
            sleep(every_s)


def has_ended(run: RunStatus) -> bool:
    """Whether a run will make no more steps by itself. Where nobody knows the states of its jobs, such as on a machine
    without Slurm, only the end of its last phase says so."""
    if all(phase.state == "DONE" for phase in run.phases):
        return True
    known = bool(run.links) and not run.silence and all(link.state != "UNKNOWN" for link in run.links)
    return known and not run.is_active
