"""A task's data as the engine reads them: token ids in flat files, of which only the rows of a batch are read.

::

    FOLDER/TASK.json                  what it is, and the size and sha256 of every other file
    FOLDER/vocab.txt, tokenizer.json  of the model that it was encoded for
    FOLDER/<split>/ids.bin, lengths.bin, seconds.bin, examples.bin, targets.bin, target_counts.bin, read.bin,
                   read_counts.bin    one row after the other; integers are int32, targets float32
    FOLDER/<split>/examples.jsonl     the examples themselves, of all splits but train
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.ragged import Starts
from bertjobs.data.shards.manifest import vocabulary_sha256
from bertjobs.data.text.vocabulary import TOKENS_FILE, Vocabulary
from bertjobs.errors import InputError
from bertjobs.files.atomic import sha256_of
from bertjobs.files.reading import DamagedFileError, object_of, read_json
from bertjobs.recipe.spec import RunSpec
from bertjobs.tasks import example as examples
from bertjobs.tasks.rows import Head, Row
from bertjobs.tasks.task import Fitted, Task, open_task

Ints = NDArray[Any]
MANIFEST, EXAMPLES = "TASK.json", "examples.jsonl"
ARRAYS = {name: np.dtype("<f4" if name == "targets" else "<i4") for name in (
    "ids", "lengths", "seconds", "examples", "targets", "target_counts", "read", "read_counts")}  # fmt: skip
FORMAT = 2


@dataclass(frozen=True)
class SplitFacts:
    """Counts of one split, as TASK.json has them: examples; rows, their tokens, and how many lost some of theirs."""

    examples: int
    rows: int
    tokens: int
    truncated: int
    labelled: bool


class SplitWriter:
    """Writes one split's files, row after row."""

    def __init__(self, folder: Path, *, with_examples: bool) -> None:
        folder.mkdir()
        self._files: dict[str, IO[bytes]] = {name: (folder / f"{name}.bin").open("wb") for name in ARRAYS}
        self._examples = (folder / EXAMPLES).open("w", encoding="utf-8") if with_examples else None
        self.count = self.rows = self.tokens = self.unlabelled = 0

    def add(self, batch: Sequence[Any], rows: Sequence[Sequence[Row]]) -> None:
        """Append some examples with their rows."""
        flat = [row for of_example in rows for row in of_example]
        numbers = np.repeat(np.arange(self.count, self.count + len(rows)), [len(of_example) for of_example in rows])
        columns: dict[str, Iterable[float]] = {
            "ids": chain.from_iterable(row.ids for row in flat),
            "lengths": (len(row.ids) for row in flat),
            "seconds": (row.second for row in flat),
            "targets": chain.from_iterable(row.target for row in flat),
            "target_counts": (len(row.target) for row in flat),
            "read": chain.from_iterable(row.read for row in flat),
            "read_counts": (len(row.read) for row in flat),
        }
        arrays = {name: np.fromiter(each, dtype=ARRAYS[name]) for name, each in columns.items()}
        for name, array in (arrays | {"examples": numbers.astype(ARRAYS["examples"])}).items():
            self._files[name].write(array.data)
        if self._examples:
            self._examples.writelines(json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in batch)
        self.count += len(rows)
        self.rows += len(flat)
        self.tokens += len(arrays["ids"])
        self.unlabelled += int((arrays["target_counts"] == 0).sum())

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._examples:
            self._examples.close()


class _Ragged:
    """Rows of different lengths in one file. They are read, not mapped: of a mapped file the process would hold much
    around each row, and a file that was cut off meanwhile would end it."""

    def __init__(self, path: Path, dtype: np.dtype[Any], counts: Ints) -> None:
        self._path, self._dtype, self._counts, self._starts = path, dtype, counts, Starts(counts)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def of(self, rows: Ints) -> Ints:
        """Some rows, one after the other.

        Raises:
            InputError: the file ends before.
        """
        size = self._dtype.itemsize
        counts = self._counts[rows].astype(np.int64) * size
        starts = self._starts(rows) * size
        slices = zip(counts.tolist(), starts.tolist(), strict=True)
        content = b"".join([os.pread(self._file, count, start) for count, start in slices if count])
        if len(content) != counts.sum():
            raise InputError("a file of the prepared task has become shorter", where=str(self._path))
        return np.frombuffer(content, dtype=self._dtype)


@dataclass(frozen=True)
class TaskSplit:
    """One split's rows, as they lie on disk."""

    folder: Path
    facts: SplitFacts

    @property
    def rows(self) -> int:
        return self.facts.rows

    @cached_property
    def lengths(self) -> Ints:
        """``[rows]``, tokens of each."""
        return self._array("lengths")

    @cached_property
    def seconds(self) -> Ints:
        """``[rows]``, as `Row.second`."""
        return self._array("seconds")

    @cached_property
    def example_numbers(self) -> Ints:
        """``[rows]``, the example that each row is of; ascending."""
        return self._array("examples")

    @cached_property
    def read_counts(self) -> Ints:
        """``[rows]``, lengths of `Row.read`."""
        return self._array("read_counts")

    @cached_property
    def target_counts(self) -> Ints:
        """``[rows]``, lengths of `Row.target`."""
        return self._array("target_counts")

    def ids(self, rows: Ints) -> Ints:
        """The tokens of some rows, one row after the other."""
        return self._ids.of(rows)

    def targets(self, rows: Ints) -> Ints:
        """The targets of some rows, one row after the other: float32."""
        return self._targets.of(rows)

    def read(self, rows: Ints) -> Ints:
        """The places that are read of some rows, one row after the other."""
        return self._read.of(rows)

    def examples(self) -> Iterator[Any]:
        """The examples, one by one; not of the training split, which does not keep them."""
        with (self.folder / EXAMPLES).open(encoding="utf-8") as file:
            for line in file:
                yield _example(json.loads(line))

    @cached_property
    def _ids(self) -> _Ragged:
        return _Ragged(self._path("ids"), ARRAYS["ids"], self.lengths)

    @cached_property
    def _targets(self) -> _Ragged:
        return _Ragged(self._path("targets"), ARRAYS["targets"], self.target_counts)

    @cached_property
    def _read(self) -> _Ragged:
        return _Ragged(self._path("read"), ARRAYS["read"], self.read_counts)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def _array(self, name: str) -> Ints:
        path = self._path(name)
        if not path.stat().st_size:
            return np.zeros(0, dtype=ARRAYS[name])
        return np.memmap(path, dtype=ARRAYS[name], mode="r")


@dataclass(frozen=True)
class PreparedTask:
    """The content of a prepared folder.

    Attributes:
        task: name of the task, options: of it.
        fitted: its labels.
        max_length: tokens of a row at most.
        splits: "train", "dev" and so on, those that there are.
        sources: by split, the file that it was read from.
        notes: what the readers skipped or found odd, in words.
        sha256: of TASK.json.
    """

    folder: Path
    task: str
    options: Mapping[str, str]
    fitted: Fitted
    head: Head
    measure: str
    max_length: int
    splits: Mapping[str, TaskSplit]
    sources: Mapping[str, str]
    notes: tuple[str, ...]
    files: Mapping[str, Mapping[str, Any]]
    sha256: str

    @classmethod
    def read(cls, folder: Path) -> PreparedTask:
        """Read TASK.json.

        Raises:
            InputError: it is missing, damaged, or of another version of bertjobs.
        """
        try:
            content = read_json(folder / MANIFEST, object_of)
            if content is None:
                raise InputError(
                    f"the folder has no {MANIFEST}: it is not a prepared task",
                    where=str(folder),
                    hint="bertjobs finetune --data DIR prepares the task's own files by itself",
                )
            if content["format"] != FORMAT:
                raise InputError(
                    f"another version of bertjobs prepared the task: format {content['format']}, this one has {FORMAT}",
                    where=str(folder / MANIFEST),
                    hint="start a new run with `bertjobs finetune`, which prepares the data anew",
                )
            return cls._of(folder, content)
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedFileError(f"{MANIFEST} is damaged: {error}", where=str(folder / MANIFEST)) from error

    @classmethod
    def _of(cls, folder: Path, content: Mapping[str, Any]) -> PreparedTask:
        return cls(
            folder=folder,
            task=content["task"],
            options=content["options"],
            fitted=Fitted(tuple(content["labels"])),
            head=Head(**content["head"]),
            measure=content["measure"],
            max_length=content["max_length"],
            splits={name: TaskSplit(folder / name, SplitFacts(**facts)) for name, facts in content["splits"].items()},
            sources=content["sources"],
            notes=tuple(content["notes"]),
            files=content["files"],
            sha256=hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(),
        )

    def epoch_steps(self, global_batch: int) -> float:
        """The optimizer steps in which the training data are read once."""
        return self.splits["train"].rows / global_batch

    def as_description(self) -> dict[str, Any]:
        """What a checkpoint keeps of the task, as task.json."""
        return {
            "task": self.task,
            "options": dict(self.options),
            "labels": list(self.fitted.labels),
            "head": self.head.as_json(),
            "measure": self.measure,
            "max_length": self.max_length,
        }

    def open_task(self) -> Task[Any]:
        """The task itself; InputError as in `bertjobs.tasks.task.open_task`."""
        return open_task(self.task, self.options, named_by=self.folder)

    def check_weights(self, folder: Path) -> None:
        """InputError if a model folder's vocab.txt is not that of the data, see `DataManifest.check_weights`."""
        theirs, ours = folder / TOKENS_FILE, self.folder / TOKENS_FILE
        if theirs.is_file() and vocabulary_sha256(theirs) != vocabulary_sha256(ours):
            raise InputError(
                "the weights were trained with another vocabulary than that of the prepared task",
                where=f"{folder} and {self.folder}",
                hint="start the run with `bertjobs finetune`, which prepares the data for its weights",
            )

    def check_files(self, *, whole: bool = False) -> None:
        """Make sure that all files are there with their sizes; ``whole``: also with their bytes.

        Raises:
            InputError: one is not; names it.
        """
        for name, facts in self.files.items():
            path = self.folder / name
            try:
                same = path.stat().st_size == facts["bytes"] and (not whole or sha256_of(path) == facts["sha256"])
            except OSError:
                same = False
            if not same:
                raise InputError(
                    "a file of the prepared task is missing or was changed",
                    where=str(path),
                    hint=f"delete {self.folder} and give the same command again",
                )


def prepared_for(spec: RunSpec) -> PreparedTask:
    """The data of a run that fine-tunes; no large file is read.

    Raises:
        InputError: the run has several phases or no steps; its data are not there, damaged, or prepared for another
            task, length or vocabulary.
    """
    if not all(phase.steps for phase in spec.phases):
        raise InputError(
            "the steps of a task's epochs follow from its data",
            where=f"recipe {spec.recipe}",
            hint=f"bertjobs finetune --recipe {spec.recipe} --from RUN --data DIR, which prepares them",
        )
    if len(spec.phases) > 1:
        raise InputError("a run that fine-tunes has one phase", where=f"recipe {spec.recipe}", hint="set --phase 1")
    layers = spec.model.num_hidden_layers
    if not 0 <= (spec.tune_layers or 0) <= layers:
        raise InputError(
            f"the last {spec.tune_layers} layers were to be fine-tuned, and the model has {layers}",
            where="tune_layers",
            hint=f"--tune-layers {layers}, or leave it out to train all, the embeddings too",
        )
    prepared = PreparedTask.read(Path(spec.data))
    prepared.check_files()
    size = Vocabulary.of_folder(prepared.folder).size
    differing = {
        f"task {prepared.task}": prepared.task != spec.task,
        f"sequences of up to {prepared.max_length} tokens": prepared.max_length > spec.phases[0].sequence_length,
        f"a vocabulary of {size} tokens": size > (spec.model.vocab_size or size),
    }
    for words, differs in differing.items():
        if differs:
            raise InputError(
                f"the data were prepared for {words}, which is not the run's",
                where=str(prepared.folder),
                hint="start the run with `bertjobs finetune`, which prepares the data for it",
            )
    return prepared


_KINDS: dict[frozenset[str], Any] = {
    frozenset(field.name for field in dataclasses.fields(kind)): kind
    for kind in (examples.Sentences, examples.Words, examples.Question, examples.Candidate)
}


def _example(content: dict[str, Any]) -> Any:
    """An example from its line; lists become tuples again."""
    kind = _KINDS[frozenset(content)]
    if kind is examples.Question and content["answers"] is not None:
        content["answers"] = tuple(examples.Answer(**answer) for answer in content["answers"])
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in content.items()})


def file_facts(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Sizes and hashes of files, for TASK.json."""
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)} for name in names}
