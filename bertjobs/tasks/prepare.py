"""From a task's files to a prepared folder, in bounded memory."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from bertjobs.data.ragged import in_batches
from bertjobs.data.text.vocabulary import TOKENIZER_FILE, Vocabulary
from bertjobs.errors import InputError
from bertjobs.files.atomic import new_folder, sha256_of, write_json
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.metrics.scores import listed
from bertjobs.tasks.prepared import FORMAT, MANIFEST, PreparedTask, SplitFacts, SplitWriter, file_facts
from bertjobs.tasks.reading.lines import names_in_words
from bertjobs.tasks.task import Fitted, Task
from bertjobs.wording import counted

T = TypeVar("T")

BATCH = 1000
"""Examples that are encoded at a time."""

Progress = Callable[[str, float, float, str], None]
"""Called with what is being done, how much of it is done, the total (infinite until it is known), and the unit."""


def prepared_name(task: Task[Any], name: str, files: Mapping[str, Path], encoder: TextEncoder) -> str:
    """A folder's name that says what is in it: another file, tokenizer or option gives another name.

    Args:
        name: of the task, as it is opened again.

    Raises:
        InputError: a file cannot be read.
    """
    stats = {split: _stat(path) for split, path in files.items()}
    for split, path in files.items():
        stats |= {f"{split} {other.name}": _stat(other) for other in task.companions(path, split)}
    vocabulary = encoder.vocabulary
    parts = [FORMAT, name, sorted(task.options.items()), sorted(stats.items()), vocabulary.sha256]
    parts += [vocabulary.tokenizer_sha256, encoder.max_length]
    if ":" in name:  # a class of the user's own, which may change from one run to the next
        parts += [task.measure, _source_sha256(task)]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return f"{name.rpartition(':')[2].lower()}-{digest[:12]}"


def _source_sha256(task: Task[Any]) -> str:
    """A digest of the file that defines a task's class; "" if there is none."""
    try:
        return sha256_of(Path(inspect.getsourcefile(type(task)) or ""))
    except (OSError, TypeError):
        return ""


def _stat(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.absolute()), status.st_size, status.st_mtime_ns


def prepare_task(
    task: Task[Any],
    name: str,
    files: Mapping[str, Path],
    encoder: TextEncoder,
    folder: Path,
    progress: Progress = lambda *_: None,
) -> PreparedTask:
    """Encode a task's files; ``folder`` exists as a whole or not at all.

    Args:
        name: of the task, as it is opened again.
        files: by split; there is a "train".
        progress: is called at least for every thousand examples.

    Raises:
        InputError: a file is damaged, empty, or does not fit the task.
        OSError: the folder cannot be written.
    """
    if "train" not in files:
        wanted = names_in_words(task.files.get("train", ()))
        raise InputError("there is no training file", where="--data", hint=f"task {name} looks for: {wanted}")
    labels = task.labels(_counted(task.read(files["train"], "train"), "labels of train", progress))
    task.notes.clear()
    fitted = Fitted(labels)
    head = task.head(labels)
    if head.has_classes and head.outputs < 2:
        raise InputError(f"all examples have the same label: {labels[0]!r}", where=str(files["train"]),
                         hint="training needs examples of at least two labels")  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as temporary:
        splits: dict[str, SplitFacts] = {}
        oddities: list[str] = []
        for split, path in files.items():
            splits[split], seen = _write_split(task, path, split, encoder, fitted, temporary, progress)
            oddities += _oddities(split, splits[split], seen, labels)
        _write_vocabulary(encoder.vocabulary, temporary)
        names = sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*") if path.is_file())
        write_json(
            temporary / MANIFEST,
            {
                "format": FORMAT,
                "task": name,
                "options": task.options,
                "labels": labels,
                "head": head.as_json(),
                "measure": task.measure,
                "max_length": encoder.max_length,
                "splits": {split: asdict(facts) for split, facts in splits.items()},
                "sources": {split: str(path) for split, path in files.items()},
                "notes": [*task.notes.lines(), *oddities],
                "files": file_facts(temporary, names),
            },
        )
    return PreparedTask.read(folder)


def _counted(examples: Iterable[T], stage: str, progress: Progress) -> Iterator[T]:
    """The same examples, one by one."""
    count = 0
    progress(stage, 0, math.inf, "examples")
    for count, example in enumerate(examples, 1):
        yield example
        if count % BATCH == 0:
            progress(stage, count, math.inf, "examples")
    progress(stage, count, count, "examples")


def _write_split(
    task: Task[Any],
    path: Path,
    split: str,
    encoder: TextEncoder,
    fitted: Fitted,
    folder: Path,
    progress: Progress,
) -> tuple[SplitFacts, set[int]]:
    """Write a split; returns its facts, and the numbers of the labels that it has."""
    writer = SplitWriter(folder / split, with_examples=split != "train")
    head, seen = task.head(fitted.labels), set()
    encoder.truncated = 0
    try:
        examples = _counted(task.read(path, split), split, progress)
        for batch in in_batches(examples, lambda _: 1, BATCH):
            rows = task.rows(batch, encoder, fitted)
            writer.add(batch, rows)
            seen |= head.labels_in(row for of_example in rows for row in of_example)
    finally:
        writer.close()
    if not writer.count:
        raise InputError("the file has no examples", where=str(path))
    if split == "train" and writer.unlabelled:
        raise InputError(f"{writer.unlabelled:,} training examples have no label", where=str(path))
    facts = SplitFacts(writer.count, writer.rows, writer.tokens, encoder.truncated, labelled=not writer.unlabelled)
    return facts, seen


def _write_vocabulary(vocabulary: Vocabulary, folder: Path) -> None:
    vocabulary.write(folder)
    if vocabulary.tokenizer_file is None:  # what the checkpoint's folder will have too
        (folder / TOKENIZER_FILE).write_text(vocabulary.tokenizer().to_str(pretty=True) + "\n", encoding="utf-8")


def _oddities(split: str, facts: SplitFacts, seen: Collection[int], labels: Sequence[str]) -> Iterator[str]:
    """Notes on a split: sequences that lost tokens, and labels that it lacks."""
    if facts.truncated:
        yield (
            f"{facts.truncated:,} of {facts.rows:,} sequences of {split} are longer than the model reads and were cut "
            "off"
        )
    missing = [label for number, label in enumerate(labels) if number not in seen]
    if missing and seen:
        so = "which training cannot teach" if split == "train" else "whose own measures count as 0"
        yield f"{split} has no example of {counted(len(missing), 'label')}, {so}: {listed(missing)}"
