"""A task's files prepared for a tiny model of random weights, trained for some steps on one rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.finetune.objective import FineTuning, TaskLearner
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.prepare import prepare_task
from bertjobs.tasks.prepared import PreparedTask
from bertjobs.tasks.task import open_task
from bertjobs.train.placement import read_placement
from bertjobs.train.ranks import Ranks
from tests.finetune.nano import NANO

CPU = torch.device("cpu")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def vocabulary(folder: Path, *words: str) -> Vocabulary:
    """A vocabulary of whole words."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in (*SPECIAL, *words)))
    return Vocabulary.of_folder(folder)


def prepared(
    tmp_path: Path, name: str, files: Mapping[str, Path], words: str, length: int = 32, **options: str
) -> PreparedTask:
    """The task's files, encoded with a vocabulary of some words, separated by blanks."""
    encoder = TextEncoder(vocabulary(tmp_path / "vocabulary", *words.split()), length)
    return prepare_task(open_task(name, options), name, files, encoder, tmp_path / "prepared")


def learner_of(task: PreparedTask) -> tuple[FineTuning, TaskLearner]:
    """The objective, and a tiny model on one rank."""
    flags = {"recipe": "finetune", "task": task.task, "data": str(task.folder)}
    sets = (f"phase1.sequence_length={task.max_length}", "phase1.global_batch=8")
    run = resolve(load_catalogue([builtin_file()]), flags=flags, environ={}, sets=sets, training_rows=8)
    model = replace(NANO, vocab_size=Vocabulary.of_folder(task.folder).size)
    torch.manual_seed(0)
    objective = FineTuning.of(replace(run.spec, model=model))
    return objective, objective.open(Ranks(read_placement({})), CPU)


def train(learner: TaskLearner, steps: int, lr: float = 3e-3) -> None:
    """Some steps of Adam."""
    torch.set_num_threads(1)  # on such small matrices more threads only wait for each other
    optimizer = torch.optim.Adam(learner.model.parameters(), lr)
    with learner.batches(None) as batches:
        for _ in range(steps):
            packs = next(batches)
            divisor = learner.global_batch(learner.count(packs)).divisors[0]
            for pack in packs:
                (term,) = learner.forward(pack)
                (term.loss_sum / divisor).backward()
            optimizer.step()
            optimizer.zero_grad()


def validated(task: PreparedTask, steps: int = 60) -> tuple[dict[str, Any], str]:
    """A line of validation.jsonl after some steps, and its words in the log."""
    objective, learner = learner_of(task)
    train(learner, steps)
    line = learner.validate(lambda: None)
    return line, objective.validation_words(line)
