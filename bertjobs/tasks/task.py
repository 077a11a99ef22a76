"""One task: its files, labels, head, encoding, predictions and measures. Each task is a small class.

A task of your own is a subclass in a file of yours, named ``module:Class``; docs/finetuning.md has a whole one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from bertjobs.errors import InputError, nearest
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.metrics.scores import Scores
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.own_module import is_below, lies_in
from bertjobs.tasks.rows import Head, Output, Row

E = TypeVar("E")
Prediction = dict[str, Any]
"""What a model says of an example, as JSON: ``id`` and fields that depend on the task."""


@dataclass(frozen=True)
class Fitted:
    """What a task has learnt from its training data, and later from its dev data; goes into every checkpoint.

    Attributes:
        labels: names of the classes or tags, by number; () where there are none.
        tuned: what was chosen on the dev data, such as a threshold.
    """

    labels: tuple[str, ...] = ()
    tuned: Mapping[str, Any] = field(default_factory=dict)


class Task(Generic[E]):
    """What all tasks have; ``E`` is the kind of their examples (`bertjobs.tasks.example`).

    Args:
        options: by name, as ``--option NAME=VALUE`` gives them.

    Raises:
        InputError: an option that the task does not have (names the nearest).

    Attributes:
        name: on the command line.
        files: by split, the names under which its file is looked for, in this order.
        text_keys, optional_keys: of the texts that `from_text` is asked; the optional ones may be missing.
        measure: the one of its `score` by which the best checkpoint is chosen; more is better.
        option_help: its options, each with a word about it.
        notes: what readers skipped or found odd, with counts.
    """

    name: ClassVar[str] = ""
    files: ClassVar[Mapping[str, Sequence[str]]] = {}
    text_keys: ClassVar[tuple[str, ...]] = ("text",)
    optional_keys: ClassVar[tuple[str, ...]] = ("second",)
    measure: ClassVar[str] = "accuracy"
    option_help: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        self.options = dict(options or {})
        self.notes = Notes()
        for key in self.options:
            if key not in self.option_help:
                known = ", ".join(self.option_help) or "none"
                hint = nearest(key, self.option_help) or f"its options: {known}"
                raise InputError(f"task {self.name} has no option {key!r}", where=f"--option {key}", hint=hint)

    @classmethod
    def named(cls, name: str, options: Mapping[str, str] | None = None) -> Task[E]:  # noqa: ARG003
        """The task by its name on the command line, for a class that has several."""
        return cls(options)

    def find(self, data: Path) -> dict[str, Path]:
        """The files below ``data`` by split: those of ``files`` that are there."""
        files = {}
        for split, names in self.files.items():
            if path := next((data / name for name in names if (data / name).is_file()), None):
                files[split] = path
        return files

    def companions(self, path: Path, split: str) -> list[Path]:  # noqa: ARG002
        """Other files that `read` reads along with a split's own, such as judgements.

        Raises:
            InputError: ``path`` cannot be read.
        """
        return []

    def read(self, path: Path, split: str) -> Iterator[E]:
        """The examples of a file, one by one.

        Raises:
            InputError: it is damaged; names file and line.
        """
        raise NotImplementedError

    def read_unscored(self, path: Path, split: str) -> Iterator[E]:
        """As `read`, where targets are of no account: they need not be there, or be right.

        Raises:
            InputError: as `read`.
        """
        return self.read(path, split)

    def from_text(self, texts: Sequence[Mapping[str, str]]) -> list[E]:  # noqa: ARG002
        """Examples of what a person or a program asks, each text under its key.

        Raises:
            InputError: the task cannot be asked so, or a key is missing or not known.
        """
        raise InputError(f"task {self.name} takes no text from the command line", where="bertjobs infer")

    def labels(self, examples: Iterable[E]) -> tuple[str, ...]:
        """The labels of the training examples, in an order that does not depend on that of the examples."""
        raise NotImplementedError

    def head(self, labels: Sequence[str]) -> Head:
        """The head for these labels."""
        raise NotImplementedError

    def rows(self, examples: Sequence[E], encoder: TextEncoder, fitted: Fitted) -> list[list[Row]]:
        """For each example the sequences that the model reads, at least one.

        Raises:
            InputError: an example cannot be encoded, such as one with a label that training does not have.
        """
        raise NotImplementedError

    def predict(
        self, examples: Sequence[E], outputs: Sequence[Sequence[Output]], encoder: TextEncoder, fitted: Fitted
    ) -> list[Prediction]:
        """What the outputs mean; ``outputs`` are those of each of an example's rows, in the order of `rows`."""
        raise NotImplementedError

    def score(self, scored: Iterable[tuple[E, Prediction]], fitted: Fitted) -> Scores:
        """The measures over examples with labels."""
        raise NotImplementedError

    def tune(self, scored: Iterable[tuple[E, Prediction]], fitted: Fitted) -> Mapping[str, Any]:  # noqa: ARG002
        """What is chosen on the dev data, for `Fitted.tuned`."""
        return {}

    def untuned(self, fitted: Fitted) -> list[str]:  # noqa: ARG002
        """Notes on what predictions are made with in place of what `tune` would have chosen."""
        return []

    def submits(self, split: str) -> bool:  # noqa: ARG002
        """Whether there are files for a benchmark's server, of a split's predictions."""
        return type(self).write_submission is not Task.write_submission

    def write_submission(self, predictions: Iterable[Prediction], split: str, folder: Path) -> list[Path]:  # noqa: ARG002
        """Write the files that a benchmark's server takes; returns them."""
        return []


def without_ids(prediction: Prediction) -> Prediction:
    """What a prediction says, for who has asked in text: without the ids by which a task's files name examples."""
    return {name: value for name, value in prediction.items() if name not in ("id", "query_id", "passage_id")}


def check_keys(texts: Iterable[Mapping[str, str]], required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Make sure that texts for `Task.from_text` have these keys; any may have an id.

    Raises:
        InputError: one lacks a key, or has another one (names the nearest).
    """
    known = [*required, *optional]
    for text in texts:
        for key in text:
            if key not in (*known, "id"):
                raise InputError(f"the task takes no {key!r}", hint=nearest(key, known))
        for key in required:
            if key not in text:
                raise InputError(f"there is no {key!r}", hint=f"the task takes {', '.join(known)}")


def _look_here(module: str, named_by: Path | None) -> None:
    """Let the user's own modules be found in the working directory.

    Raises:
        InputError: the module lies in the folder ``named_by``.
    """
    here = str(Path.cwd())
    before = [*sys.path]
    if here not in sys.path:
        sys.path.insert(0, here)
    if named_by is None:
        return
    refused = lies_in(module, named_by)
    if refused or is_below(here, named_by):
        sys.path[:] = before  # nor are other modules to be found there
    if refused:
        raise InputError(
            f"the task's module {module} lies in the folder that names it, and is not run from there",
            where=str(named_by),
            hint="if you trust it, copy it to a folder in PYTHONPATH, and start bertjobs in another folder",
        )


TASKS: dict[str, str] = {
    "sentences": "bertjobs.tasks.table:TableTask",
    "tagging": "bertjobs.tasks.tagging:TaggingTask",
    "squad1": "bertjobs.tasks.questions:Squad1",
    "squad2": "bertjobs.tasks.questions:Squad2",
    "ranking": "bertjobs.tasks.ranking:RankingTask",
    **dict.fromkeys(
        ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "xnli", "agnews"),
        "bertjobs.tasks.benchmarks:BenchmarkTask",
    ),
}
"""The tasks by name, each as ``module:Class``."""


def open_task(name: str, options: Mapping[str, str] | None = None, *, named_by: Path | None = None) -> Task[Any]:
    """The task of this name: one of `TASKS`, or a class of the user's as ``module:Class``.

    Args:
        named_by: the folder of a model or of data that names the task: code that lies in it is not run.

    Raises:
        InputError: there is none (names the nearest), or the user's module fails, or lies where it is not run; or an
            option is unknown.
    """
    place = TASKS.get(name, name)
    module, colon, attribute = place.partition(":")
    if not colon:
        hint = nearest(name, TASKS) or f"one of {', '.join(TASKS)}; or module:Class, a task of your own"
        raise InputError(f"there is no task {name!r}", where="--task", hint=hint)
    if place == name:
        _look_here(module, named_by)
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            f"task {name} cannot be loaded: {type(error).__name__}: {error}",
            where="--task",
            hint=f"{module}.py must lie in the working directory or in PYTHONPATH, and have a class {attribute}",
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        hint = "make it a subclass of SentenceTask in bertjobs.tasks.sentences, or of Task in bertjobs.tasks.task"
        raise InputError(f"{name} is not a Task", where="--task", hint=hint)
    return kind.named(name, options)
