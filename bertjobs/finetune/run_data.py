"""The data that a model's run was fine-tuned with."""

from __future__ import annotations

from pathlib import Path

from bertjobs.errors import InputError, nearest
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.run.directory import RunDirectory
from bertjobs.run.result import phase_of
from bertjobs.tasks.prepared import EXAMPLES, PreparedTask, TaskSplit


def prepared_split(folder: Path, split: str) -> tuple[PreparedTask, TaskSplit]:
    """A split, with its examples, of the data of the run that a checkpoint's folder lies in.

    Raises:
        InputError: the folder belongs to no run, or its data are not there, have no such split, or do not keep its
            examples.
    """
    if (phase := phase_of(folder)) is None:
        raise InputError("no data were given, and the model belongs to no run", where=str(folder),
                         hint="--data DIR, --dev FILE or --test FILE")  # fmt: skip
    prepared = PreparedTask.read(Path(read_lockfile(RunDirectory(phase.root.parent).lockfile).data))
    prepared.check_files()
    if split not in prepared.splits:
        raise InputError(f"the data of the run have no split {split!r}", where=str(prepared.folder),
                         hint=nearest(split, [name for name in prepared.splits if name != "train"])
                         or "--data DIR or --dev FILE names other data")  # fmt: skip
    chosen = prepared.splits[split]
    if not (chosen.folder / EXAMPLES).is_file():
        raise InputError(f"the prepared data do not keep the examples of {split}", where=str(chosen.folder),
                         hint=f"--dev {prepared.sources.get(split, 'FILE')}")  # fmt: skip
    return prepared, chosen
