"""Weights & Biases: one run of a fixed id, online or offline (``WANDB_MODE=offline``).

Online, the server says at which step a run resumes. Offline there is nobody to ask, and what an interrupted process has
left in wandb's file cannot be told: so the file is written anew, with all steps, and takes the place of the one before
when it is complete. `wandb sync` sends it under the run's id, as often as one likes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from bertjobs.errors import InputError
from bertjobs.files.atomic import TEMPORARY_PREFIX, publish_folder
from bertjobs.track.replay import Point, Replay
from bertjobs.track.tracker import client

MODE, PROJECT = "WANDB_MODE", "WANDB_PROJECT"
"""wandb's own variables."""
USUAL_PROJECT = "bertjobs"
LONGEST_TAG = 64


class WandbTracker:
    """One bertjobs run in Weights & Biases.

    Args:
        folder: for wandb's files, and for the run's file if it is offline.
        environ: of this process, which wandb reads as well: key, project, entity, mode.
        wandb: the package.

    Raises:
        InputError: wandb is not installed, or its mode sends nothing anywhere.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], wandb: ModuleType | Any = None):
        self._wandb: Any = wandb or client("wandb", "wandb")
        self._folder, self._project = folder, environ.get(PROJECT) or USUAL_PROJECT
        self._mode = environ.get(MODE) or "online"
        if self._mode not in ("online", "offline"):
            raise InputError(
                f"wandb would record nothing: {MODE} is {self._mode!r}", where=MODE, hint="set it to online or offline"
            )
        self._run: Any = None
        self._last = 0
        self._place = f"project {self._project}"

    @property
    def place(self) -> str:
        return self._place

    def add(self, replay: Replay) -> int:
        """As `bertjobs.track.tracker.Tracker.add`."""
        return self._add_online(replay) if self._mode == "online" else self._write_offline(replay)

    def _add_online(self, replay: Replay) -> int:
        if self._run is None:
            self._run = self._begin(replay, self._folder, resume="allow")
            self._place = self._run.url or self._place
            self._last = max(0, self._run.step - 1) if self._run.resumed else 0  # `step` is the next one
        new = [point for point in replay.points if point.step > self._last]
        self._log(self._run, new)
        self._last = new[-1].step if new else self._last
        self._describe(self._run, replay)
        return len(new)

    def _write_offline(self, replay: Replay) -> int:
        new = [point for point in replay.points if point.step > self._last]
        place = self._folder / f"offline-run-{replay.id}"
        self._place = f"{place}; to send it: wandb sync {place}"
        if not new:
            return 0
        scratch = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=self._folder))
        try:
            run = self._begin(replay, scratch)
            self._log(run, replay.points)
            self._describe(run, replay)
            run.finish()
            (written,) = (scratch / "wandb").glob("offline-run-*")
            publish_folder(written, place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self._last = new[-1].step
        return len(new)

    def _begin(self, replay: Replay, folder: Path, **options: Any) -> Any:
        """wandb's own run. Nothing of this machine is recorded, which is not the one that trains."""
        quiet = self._wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, disable_job_creation=True,
            x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
        )  # fmt: skip
        return self._wandb.init(
            project=self._project, id=replay.id, name=replay.run, mode=self._mode, dir=str(folder), settings=quiet,
            reinit="create_new", **options,
        )  # fmt: skip

    def _log(self, run: Any, points: Sequence[Point]) -> None:
        for point in points:
            run.log({**point.values, "_timestamp": point.time_unix_s}, step=point.step)

    def _describe(self, run: Any, replay: Replay) -> None:
        run.config.update(dict(replay.settings), allow_val_change=True)
        for name, value in {**replay.tags, "is_done": replay.is_done}.items():
            run.summary[f"bertjobs/{name}"] = value
        count = replay.tags["attempts"]
        tags = (replay.tags["recipe"], replay.tags["model"], f"{count} attempt{'s' * (count != '1')}")
        run.tags = tuple(tag[:LONGEST_TAG] for tag in tags)

    def close(self) -> None:
        """Wait until wandb has sent all."""
        if self._run is not None:
            self._run.finish()
            self._run = None
