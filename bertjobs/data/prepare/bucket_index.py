"""Where the documents of each bucket are, in one file: a task of the stage "pairs" opens only the chunks that hold its
documents, and no marker of the stage before."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.prepare.held_out import Moved, settle_split
from bertjobs.data.prepare.work_folder import Bucket, WorkFolder
from bertjobs.data.ragged import offsets_of
from bertjobs.files.arrays import map_arrays, map_new, write_arrays

Int64s = NDArray[np.int64]

Run = tuple[int, int, int, int]
"""Documents of a bucket that lie side by side: piece, chunk, the place of the first, and the place behind the last."""

_NAME = "index.safetensors"


@dataclass(frozen=True)
class BucketIndex:
    """The runs of all buckets.

    Attributes:
        moved: the document that changes its split.
        offsets: those of bucket N are ``runs[offsets[N]:offsets[N + 1]]``.
        runs: ``[runs, 4]``, mapped: the pieces and chunks of each bucket in ascending order.
    """

    moved: Moved | None
    offsets: Int64s
    runs: NDArray[np.uint32]

    @classmethod
    def of(cls, work: WorkFolder) -> BucketIndex:
        """The index of what the stage "tokenise" wrote; it is made where it is not there yet.

        A job of an array may need it before the command that queued it has noticed that the stage is done.

        Raises:
            InputError: as ``settle_split``.
            OSError: it cannot be written.
        """
        path = work.folder / "pairs" / _NAME
        if not path.is_file():
            _write(work)
        arrays, metadata = map_arrays(path)
        moved = json.loads(metadata["moved"])
        return cls(Moved(**moved) if moved else None, arrays["offsets"], arrays["runs"])

    def chunks(self, number: int, bucket: Bucket) -> list[Run]:
        """The runs of a bucket. One is empty where the bucket has nothing in the chunk but the document that moves to
        it."""
        runs: list[Run] = list(map(tuple, self.runs[slice(*self.offsets[number : number + 2].tolist())].tolist()))
        if self.moved and bucket == Bucket(self.moved.to, 0):
            place = (self.moved.piece, self.moved.chunk)
            if place not in {run[:2] for run in runs}:
                runs = sorted([*runs, (*place, 0, 0)])
        return runs


def _write(work: WorkFolder) -> None:
    """In bounded memory: the chunks are looked through twice, first to count, then to fill in."""
    results = work.tokenised()
    moved = settle_split(results)
    counts = np.zeros(len(work.buckets), dtype=np.int64)
    for _, _, documents in _chunks(work, results):
        counts += np.diff(documents) > 0
    offsets = offsets_of(counts)
    nexts = offsets[:-1].copy()
    path = work.folder / "pairs" / _NAME
    with tempfile.TemporaryFile(dir=path.parent) as file:
        runs = map_new(file, np.uint32, (int(offsets[-1]), 4))
        for piece, chunk, documents in _chunks(work, results):
            held = np.flatnonzero(np.diff(documents))
            own = np.full(len(held), piece), np.full(len(held), chunk), documents[held], documents[held + 1]
            runs[nexts[held]] = np.stack(own, axis=1)
            nexts[held] += 1
        write_arrays(path, {"offsets": offsets, "runs": runs}, {"moved": json.dumps(moved and asdict(moved))})


def _chunks(work: WorkFolder, results: Sequence[Any]) -> Iterator[tuple[int, int, Int64s]]:
    """Piece and number of each chunk, and where the documents of each bucket begin in it: ``[buckets + 1]``."""
    for piece, result in enumerate(results):
        for chunk in range(result["chunks"]):
            arrays, _ = map_arrays(work.file("tokenise", piece, f".{chunk:05}.safetensors"))
            yield piece, chunk, arrays["bucket_offsets"]
