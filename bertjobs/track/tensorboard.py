"""TensorBoard: both phases on one axis, in event files of the run's folder.

Each call writes one file, under a temporary name first; the complete file's name says which steps it holds. So the
folder itself says what is there, and an interrupted call leaves nothing.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from bertjobs.files.atomic import TEMPORARY_PREFIX, sync_file, sync_folder
from bertjobs.track.replay import Replay
from bertjobs.track.tracker import client

_STEPS = re.compile(r"events\.out\.tfevents\..*\.steps-(\d+)-(\d+)")


class TensorboardTracker:
    """One bertjobs run as a folder of event files.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path):
        client("tensorboard", "tensorboard")
        self._folder = folder

    @property
    def place(self) -> str:
        return str(self._folder)

    def add(self, replay: Replay) -> int:
        """As `bertjobs.track.tracker.Tracker.add`; settings and tags are texts of the first file."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard import SummaryWriter

        last = self._last_step()
        new = [point for point in replay.points if point.step > last]
        if not new:
            return 0
        scratch = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=self._folder))
        try:
            suffix = f".steps-{new[0].step:08d}-{new[-1].step:08d}"
            with SummaryWriter(str(scratch), filename_suffix=suffix) as writer:
                if not last:
                    words = {**replay.tags, **replay.settings}
                    table = "".join(f"| {name} | {value} |\n" for name, value in words.items())
                    writer.add_text("settings", f"| name | value |\n|---|---|\n{table}")
                for point in new:
                    values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
                    writer.file_writer.add_summary(Summary(value=values), point.step, point.time_unix_s)
            (written,) = scratch.iterdir()
            sync_file(written)
            written.rename(self._folder / written.name)
            sync_folder(self._folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return len(new)

    def close(self) -> None:
        """Nothing is under way."""

    def _last_step(self) -> int:
        """The last step that the complete files hold; 0 for none."""
        ends = (_STEPS.fullmatch(file.name) for file in self._folder.iterdir())
        return max((int(match[2]) for match in ends if match), default=0)
