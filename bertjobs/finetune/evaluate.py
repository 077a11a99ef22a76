"""The measures of a fine-tuned model on examples with labels, and the files that a benchmark's server takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from bertjobs.data.ragged import in_batches
from bertjobs.errors import InputError
from bertjobs.finetune.loading import TrainedModel
from bertjobs.finetune.predict import BATCH_TOKENS, CHUNK, Predictor, cut_off
from bertjobs.tasks.example import target_of
from bertjobs.tasks.task import Fitted, Prediction, Task

Examples = Callable[[], Iterator[Any]]
"""Reads the examples from the first one on."""


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on some examples.

    Attributes:
        examples, unlabelled: how many there are, and how many of them have no label.
        scores: the task's measures; {} where labels are missing.
        notes: on measures, on what was read, and on what was cut off.
        tuned: what the predictions were made with.
        submission: the files that were written.
    """

    examples: int
    unlabelled: int
    scores: Mapping[str, float]
    notes: tuple[str, ...]
    tuned: Mapping[str, Any] = field(default_factory=dict)
    submission: tuple[Path, ...] = ()


def evaluate(
    model: TrainedModel,
    examples: Examples,
    split: str,
    *,
    tune: bool = False,
    submission: Path | None = None,
    budget: int = BATCH_TOKENS,
) -> Evaluation:
    """Predict all examples, and compare with their labels where they have them.

    Predictions are kept in a temporary file, not in memory.

    Args:
        tune: choose on these examples what the model's task tunes, in place of what was chosen in training.
        submission: folder for the task's submission files.

    Raises:
        InputError: the examples cannot be read; there are none; labels are missing, and no submission is asked for; or
            the task has no submission files.
    """
    task = model.task
    submits, hint = task.submits(split), "`bertjobs predict` writes what the model predicts for each example"
    if submission and not submits:
        of_split = "" if type(task).submits is Task.submits else f" for {split} data"
        raise InputError(f"task {model.name} has no submission files{of_split}", where="--submission", hint=hint)
    fitted = Fitted(model.fitted.labels) if tune else model.fitted
    with TemporaryFile("w+", encoding="utf-8") as file:
        count, unlabelled = _write(model, examples, fitted, file, budget)
        if not count:
            raise InputError("there are no examples", where=split)
        if unlabelled and submission is None:
            for_server = "--submission DIR writes the files that a benchmark's server takes; "
            raise InputError(
                f"{unlabelled:,} of {count:,} examples of {split} have no label: nothing can be measured",
                where=split,
                hint=for_server * submits + hint,
            )
        notes = [*task.notes.lines(), *cut_off(model)]
        if tune and not unlabelled and (tuned := task.tune(_scored(examples, file), fitted)):
            fitted = Fitted(fitted.labels, tuned)
            _write(model, examples, fitted, file, budget)
        notes += task.untuned(fitted)
        scores: Mapping[str, float] = {}
        if not unlabelled:
            result = task.score(_scored(examples, file), fitted)
            scores, notes = result.values, [*notes, *result.notes]
        files = _submitted(model, file, split, submission) if submission else ()
    return Evaluation(count, unlabelled, scores, tuple(notes), fitted.tuned, files)


def _write(model: TrainedModel, examples: Examples, fitted: Fitted, file: IO[str], budget: int) -> tuple[int, int]:
    """Write all predictions, one per line; returns how many examples there are, and how many without a label."""
    predictor = Predictor(model, budget=budget)
    model.task.notes.clear()
    model.encoder.truncated = count = unlabelled = 0
    file.seek(0)
    file.truncate()
    for batch in in_batches(examples(), lambda _: 1, CHUNK):
        file.writelines(json.dumps(one) + "\n" for one in predictor.predict(batch, fitted))
        count += len(batch)
        unlabelled += sum(target_of(one) is None for one in batch)
    return count, unlabelled


def _predictions(file: IO[str]) -> Iterator[Prediction]:
    file.seek(0)
    return (json.loads(line) for line in file)


def _scored(examples: Examples, file: IO[str]) -> Iterator[tuple[Any, Prediction]]:
    return zip(examples(), _predictions(file), strict=True)


def _submitted(model: TrainedModel, file: IO[str], split: str, folder: Path) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(model.task.write_submission(_predictions(file), split, folder))
