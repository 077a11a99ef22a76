"""The first examples of a prepared task as a task of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bertjobs.tasks.prepare import prepare_task
from bertjobs.tasks.prepared import ARRAYS, PreparedTask
from bertjobs.tasks.sample import sample_task
from bertjobs.tasks.task import open_task
from tests.tasks.encoders import encoder_in


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedTask:
    """Sentences of words with tags, some of them longer than a window."""
    for split in ("train", "dev", "test"):
        sentences = [
            "".join(f"{word} {tag}\n" for word, tag in [("good", "A"), ("bad", "B")] * n) for n in (1, 9, 2, 3)
        ]
        (tmp_path / f"{split}.txt").write_text("\n".join(sentences))
    files = {split: tmp_path / f"{split}.txt" for split in ("train", "dev", "test")}
    task = open_task("tagging")
    return prepare_task(task, "tagging", files, encoder_in(tmp_path / "model", 12), tmp_path / "prepared")


def test_a_sample_has_the_first_examples_with_all_their_rows(prepared: PreparedTask, tmp_path: Path) -> None:
    sample_task(prepared, tmp_path / "sample", {"train": 2, "dev": 100})
    sample = PreparedTask.read(tmp_path / "sample")
    sample.check_files(whole=True)
    assert set(sample.splits) == {"train", "dev"}
    whole, few = prepared.splits["train"], sample.splits["train"]
    rows = np.arange(few.rows)
    assert whole.example_numbers[: few.rows].max() == 1 < whole.example_numbers[few.rows]
    assert few.rows > few.facts.examples == 2
    assert few.facts.tokens == few.lengths.sum()
    for of_rows in (lambda split: split.ids(rows), lambda split: split.targets(rows), lambda split: split.read(rows)):
        assert of_rows(few).tolist() == of_rows(whole).tolist()
    dev = sample.splits["dev"]
    assert dev.facts == prepared.splits["dev"].facts
    assert list(dev.examples()) == list(prepared.splits["dev"].examples())
    for name in ARRAYS:
        assert (dev.folder / f"{name}.bin").read_bytes() == (prepared.splits["dev"].folder / f"{name}.bin").read_bytes()
    assert replace(sample, folder=prepared.folder, splits={}, files={}, sha256="") == replace(
        prepared, splits={}, files={}, sha256=""
    )
