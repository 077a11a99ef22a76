"""A prepared task: what its preparation says, and its rows as they are read from disk."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bertjobs.errors import InputError
from bertjobs.tasks.example import Sentences
from bertjobs.tasks.prepare import BATCH, prepare_task
from bertjobs.tasks.prepared import FORMAT, MANIFEST, PreparedTask, SplitFacts, SplitWriter, TaskSplit
from bertjobs.tasks.rows import Row
from bertjobs.tasks.task import open_task
from tests.tasks.encoders import encoder_in


def made_rows(count: int) -> list[Row]:
    """Rows of 2 to 40 tokens, some without a target and some without places that are read."""
    draw = np.random.default_rng(1)
    rows = []
    for _ in range(count):
        length = int(draw.integers(2, 41))
        target, read = draw.integers(-1, 9, draw.integers(0, 4)), np.arange(draw.integers(0, length))
        rows.append(Row(draw.integers(5, 99, length).tolist(), length // 2, target.tolist(), read.tolist()))
    return rows


def split_of(folder: Path, rows: list[Row]) -> TaskSplit:
    writer = SplitWriter(folder, with_examples=False)
    for first in range(0, len(rows), 77):
        part = rows[first : first + 77]
        writer.add([Sentences(str(number), "") for number in range(len(part))], [[row] for row in part])
    writer.close()
    assert writer.unlabelled == sum(not row.target for row in rows)
    return TaskSplit(folder, SplitFacts(writer.count, writer.rows, writer.tokens, 0, labelled=False))


@pytest.mark.parametrize(
    ("task", "name"),
    [("sentences", "train.csv"), ("tagging", "train.conll"), ("squad2", "train-v2.0.json"), ("cola", "train.tsv"),
     ("ranking", "triples.train.small.tsv")],
)  # fmt: skip
def test_files_of_a_folder_are_found_compressed_too(tmp_path: Path, task: str, name: str) -> None:
    (tmp_path / f"{name}.gz").touch()
    assert open_task(task).find(tmp_path) == {"train": tmp_path / f"{name}.gz"}
    (tmp_path / name).touch()
    assert open_task(task).find(tmp_path) == {"train": tmp_path / name}


def test_any_rows_are_read_in_any_order(tmp_path: Path) -> None:
    rows = made_rows(300)
    split = split_of(tmp_path / "train", rows)
    for chosen in (np.random.default_rng(2).permutation(300), np.array([299, 0, 0, 64, 63]), np.array([], dtype=int)):
        for name, read in (("ids", split.ids), ("target", split.targets), ("read", split.read)):
            expected = [number for row in chosen for number in getattr(rows[row], name)]
            assert read(chosen).tolist() == expected


def test_a_file_that_becomes_shorter_while_it_is_read_is_named(tmp_path: Path) -> None:
    split = split_of(tmp_path / "train", made_rows(10))
    split.ids(np.array([0]))
    (tmp_path / "train" / "ids.bin").write_bytes(b"1234")
    with pytest.raises(InputError, match=r"has become shorter") as error:
        split.ids(np.array([9]))
    assert error.value.where == str(tmp_path / "train" / "ids.bin")


def test_preparing_tells_how_far_it_is(tmp_path: Path) -> None:
    count = 2 * BATCH + 5
    lines = "".join(f'{{"text": "good", "label": "{"ab"[number % 2]}"}}\n' for number in range(count))
    (tmp_path / "train.jsonl").write_text(lines)
    (tmp_path / "dev.jsonl").write_text('{"text": "bad", "label": "a"}\n')
    told: list[tuple[str, float, float, str]] = []
    task = open_task("sentences")
    encoder = encoder_in(tmp_path / "model", 16)
    prepare_task(task, "sentences", task.find(tmp_path), encoder, tmp_path / "out", lambda *each: told.append(each))
    through = [(0, math.inf), (BATCH, math.inf), (2 * BATCH, math.inf), (count, count)]
    expected = {"labels of train": through, "train": through, "dev": [(0, math.inf), (1, 1)]}
    assert told == [(stage, *numbers, "examples") for stage, each in expected.items() for numbers in each]


def test_what_another_version_prepared_is_refused(tmp_path: Path) -> None:
    encoder = encoder_in(tmp_path / "vocabulary", 32)
    (tmp_path / "train.tsv").write_text("text\tlabel\nred apples\tyes\nthe king\tno\n")
    files = {"train": tmp_path / "train.tsv"}
    folder = prepare_task(open_task("sentences"), "sentences", files, encoder, tmp_path / "prepared").folder
    manifest = folder / MANIFEST
    manifest.write_text(manifest.read_text().replace(f'"format": {FORMAT}', '"format": 1'))
    with pytest.raises(InputError, match=f"format 1, this one has {FORMAT}"):
        PreparedTask.read(folder)
