"""The first examples of a prepared task as a prepared task of their own: for rehearsals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np

from bertjobs.files.atomic import write_json
from bertjobs.tasks.prepared import ARRAYS, EXAMPLES, MANIFEST, PreparedTask, SplitFacts, TaskSplit, file_facts


def sample_task(prepared: PreparedTask, folder: Path, most: Mapping[str, int]) -> None:
    """Write a prepared folder with at most so many examples of each of these splits, and no others.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir()
    sampled = {}
    for name, examples in most.items():
        if split := prepared.splits.get(name):
            sampled[name] = asdict(_sample(split, folder / name, examples))
    beside = [name for name in prepared.files if "/" not in name]
    for name in beside:
        shutil.copyfile(prepared.folder / name, folder / name)
    content = json.loads((prepared.folder / MANIFEST).read_text(encoding="utf-8"))
    names = sorted([*beside, *(f"{name}/{path.name}" for name in sampled for path in (folder / name).iterdir())])
    write_json(folder / MANIFEST, {**content, "splits": sampled, "files": file_facts(folder, names)})


def _sample(split: TaskSplit, folder: Path, most: int) -> SplitFacts:
    folder.mkdir()
    rows = np.arange(np.searchsorted(split.example_numbers, most))
    arrays = {
        "ids": split.ids(rows),
        "lengths": split.lengths[rows],
        "seconds": split.seconds[rows],
        "examples": split.example_numbers[rows],
        "targets": split.targets(rows),
        "target_counts": split.target_counts[rows],
        "read": split.read(rows),
        "read_counts": split.read_counts[rows],
    }
    for name, values in arrays.items():
        (folder / f"{name}.bin").write_bytes(np.asarray(values, dtype=ARRAYS[name]).tobytes())
    if (split.folder / EXAMPLES).is_file():
        with (split.folder / EXAMPLES).open("rb") as lines, (folder / EXAMPLES).open("wb") as file:
            file.writelines(islice(lines, most))
    tokens = int(arrays["lengths"].sum(dtype=np.int64))
    return replace(split.facts, examples=min(most, split.facts.examples), rows=len(rows), tokens=tokens)
