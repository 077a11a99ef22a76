"""A task is streamed, not held: what is made of three times as many pairs takes no more memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.finetune.batches import TaskBatches
from bertjobs.finetune.loading import load_trained
from bertjobs.finetune.predict import Predictor
from bertjobs.tasks.asked import read_asked
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.prepare import prepare_task
from bertjobs.tasks.prepared import PreparedTask
from bertjobs.tasks.task import open_task
from tests.finetune.models import WORDS, our_folder, vocabulary

FEW, MANY = 2_500, 5_500
GROWTH_MB = 0.5
"""3,000 pairs that are held take 1 MB or more, as examples or as predictions."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of a few known words, in two files; both prepared, and an untrained model of them."""
    folder = tmp_path_factory.mktemp("pairs")
    for count in (FEW, MANY):
        with (folder / f"{count}.jsonl").open("w") as file:
            for number in range(count):
                word = WORDS[number % len(WORDS)]
                file.write(f'{{"text": "{word} fine film", "second": "{word}", "label": "{number % 2}"}}\n')
        prepare(folder, count)
    our_folder(folder / "model", PreparedTask.read(folder / f"prepared-{FEW}"))
    return folder


def prepare(folder: Path, count: int, to: str = "prepared") -> None:
    encoder = TextEncoder(Vocabulary.of_folder(vocabulary(folder / "vocabulary")), 16)
    path = folder / f"{count}.jsonl"
    files = {"train": path, "dev": path}
    task = open_task("sentences", {"second": "second"})
    prepare_task(task, "sentences", files, encoder, folder / f"{to}-{count}")


def prepare_again(folder: Path, count: int) -> None:
    prepare(folder, count, to="again")


def stream(folder: Path, count: int) -> None:
    prepared = PreparedTask.read(folder / f"prepared-{count}")
    prepared.check_files(whole=True)
    batches = TaskBatches(prepared.splits["train"], prepared.head, seed=1, global_batch=32, budget=256,
                          rank=0, world_size=1, start=0, sha256="x")  # fmt: skip
    assert sum(pack.sequences for _ in range(20) for pack in next(batches)) == 20 * 32


def predict(folder: Path, count: int) -> None:
    torch.set_num_threads(1)
    model = load_trained(folder / "model", torch.device("cpu"))
    asked = read_asked(model.task, folder / f"{count}.jsonl")
    assert sum(prediction["label"] in "01" for prediction in Predictor(model).each(asked)) == count


@pytest.mark.parametrize("work", [prepare_again, stream, predict])
def test_more_pairs_take_no_more_memory(folder: Path, work: Callable[[Path, int], None]) -> None:
    peaks = []
    for count in (FEW, MANY):
        tracemalloc.start()
        try:
            work(folder, count)
            peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < GROWTH_MB, peaks
