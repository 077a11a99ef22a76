"""Where the documents of each bucket are: against a search through all chunks, and what a task opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjobs.data.prepare import PHASES, PrepareOptions, ThisMachine, prepare, stage_pairs
from bertjobs.data.prepare.bucket_index import BucketIndex
from bertjobs.data.prepare.held_out import Moved
from bertjobs.data.prepare.stage_pairs import pair_bucket
from bertjobs.data.prepare.work_folder import Bucket, WorkFolder
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.files.arrays import map_arrays
from tests.data.conftest import quiet


class Stopped(Exception):
    """The stage "pairs" is about to begin."""


class StopsBeforePairs(ThisMachine):
    def run(self, work: WorkFolder, stage: str, *rest: Any) -> None:
        if stage == "pairs":
            raise Stopped
        super().run(work, stage, *rest)


@pytest.fixture
def work(corpus: Path, vocabulary_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkFolder:
    """A folder whose stage "pairs" is about to begin: 24 documents in as many pieces, and a dozen buckets."""
    monkeypatch.setattr("bertjobs.data.prepare.data_folder.PIECE_BYTES", 1)
    monkeypatch.setattr("bertjobs.data.prepare.work_folder.BUCKET_BYTES", 20_000)
    options = PrepareOptions((f"text:{corpus}",), str(vocabulary_path), str(tmp_path / "data"), (PHASES[1],), shards=1,
                             held_out=0.3)  # fmt: skip
    with pytest.raises(Stopped):
        prepare(options, quiet, StopsBeforePairs(1))
    return WorkFolder.read(tmp_path / "data")


def chunk_files(work: WorkFolder) -> list[tuple[int, int, Path]]:
    names = [path.name.split(".") for path in sorted((work.folder / "tokenise").glob("*.*.safetensors"))]
    return [(int(piece), int(chunk), work.file("tokenise", int(piece), f".{chunk}.safetensors"))
            for piece, chunk, _ in names]  # fmt: skip


def test_the_index_has_each_buckets_documents(work: WorkFolder) -> None:
    index = BucketIndex.of(work)
    assert len(work.buckets) > 5
    for number, bucket in enumerate(work.buckets):
        found = []
        for piece, chunk, path in chunk_files(work):
            first, last = map_arrays(path)[0]["bucket_offsets"][number : number + 2].tolist()
            found += [(piece, chunk, first, last)] if first < last else []
        assert index.chunks(number, bucket) == found
    assert sum(last - first for *_, first, last in index.runs.tolist()) == 24


def test_a_task_opens_the_chunks_of_its_bucket_and_no_marker(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def noted(path: Path) -> Any:
        opened.append(path)
        return map_arrays(path)

    monkeypatch.setattr(stage_pairs, "map_arrays", noted)
    monkeypatch.setattr(WorkFolder, "result", None)
    sizes = np.diff(BucketIndex.of(work).offsets)
    number = int(np.flatnonzero(sizes > 1)[0])
    pair_bucket(work, number, Vocabulary.of_folder(work.folder, work.plan.lowercase))
    runs = BucketIndex.of(work).chunks(number, work.buckets[number])
    assert opened == [work.file("tokenise", piece, f".{chunk:05}.safetensors") for piece, chunk, *_ in runs]
    assert 1 < len(opened) < len(chunk_files(work))


def test_a_task_that_is_early_makes_the_index(work: WorkFolder) -> None:
    path = work.folder / "pairs/index.safetensors"
    content = path.read_bytes()
    path.unlink()
    pair_bucket(work, 0, Vocabulary.of_folder(work.folder, work.plan.lowercase))
    assert path.read_bytes() == content
    assert {file.name for file in path.parent.iterdir()} == {path.name, "000000.json", "000000.safetensors"}


def test_the_document_that_moves_is_in_its_new_bucket() -> None:
    runs = np.array([[0, 1, 0, 3], [2, 0, 4, 5]], dtype=np.uint32)
    for moved, expected in (
        (None, [(0, 1, 0, 3), (2, 0, 4, 5)]),
        (Moved("train", 1, 7, 9, "a"), [(0, 1, 0, 3), (1, 7, 0, 0), (2, 0, 4, 5)]),
        (Moved("train", 2, 0, 4, "a"), [(0, 1, 0, 3), (2, 0, 4, 5)]),
        (Moved("validation", 1, 7, 9, "a"), [(0, 1, 0, 3), (2, 0, 4, 5)]),
    ):
        index = BucketIndex(moved, np.array([0, 2]), runs)
        assert index.chunks(0, Bucket("train", 0)) == expected
