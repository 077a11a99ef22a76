"""What a model is asked: a file in the task's own form, or JSON lines with the keys of `Task.from_text`."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bertjobs.data.corpus.files import COMPRESSIONS
from bertjobs.errors import InputError, nearest
from bertjobs.files.reading import parse_json
from bertjobs.tasks.example import without_target
from bertjobs.tasks.reading.lines import names_in_words, place, text_lines
from bertjobs.tasks.task import Task
from bertjobs.wording import shown

STANDARD_INPUT = Path("/dev/stdin")
"""Stands for it; it is not opened under this name."""

_FORM = 'one object per line, such as {"id": "1", "text": "..."}'


class Asked(NamedTuple):
    """An example without its target, and the id that it was asked under; None: the example has its own."""

    example: Any
    id: str | int | None = None


def split_file(task: Task[Any], folder: Path, split: str) -> Path:
    """The task's file of a split in a folder.

    Raises:
        InputError: it is not there; names the files that the task looks for.
    """
    files = task.find(folder)
    if split not in files:
        names = names_in_words(task.files.get(split, ())) or "no file"
        raise InputError(f"the folder has no file of split {split}", where=str(folder),
                         hint=f"task {task.name} looks for {names}")  # fmt: skip
    return files[split]


def check_split(task: Task[Any], split: str) -> None:
    """Make sure that the task has the split.

    Raises:
        InputError: it has not; names the nearest.
    """
    if split not in task.files:
        raise InputError(f"task {task.name} has no split {split!r}", where="--split", hint=nearest(split, task.files))


def read_asked(task: Task[Any], path: Path, split: str = "test") -> Iterator[Asked]:
    """What a file asks, in order: as `Task.read` reads the split, or from JSON lines if the name ends with .jsonl (and
    its first line is not one of the task's own files) or it is the standard input. Targets are left out.

    Raises:
        InputError: as `Task.read`; a line is not JSON, or has other keys than `Task.from_text` takes; nothing is asked.
    """
    empty = True
    for one in _of_lines(task, path) if _has_texts(task, path) else _of_file(task, path, split):
        empty = False
        yield one
    if empty:
        raise InputError("the input has no examples", where=_name(path))


def asked_in_text(task: Task[Any], texts: Mapping[str, str], where: str) -> Any:
    """The example that some texts make.

    Raises:
        InputError: they do not; with ``where``.
    """
    try:
        (example,) = task.from_text([texts])
    except InputError as error:
        raise InputError(error.what, where=where, hint=error.hint) from error
    return example


def _has_texts(task: Task[Any], path: Path) -> bool:
    if path == STANDARD_INPUT:
        return True
    if not _is_json_lines(path.name):
        return False
    if not any(_is_json_lines(name) for names in task.files.values() for name in names):
        return True
    first = next((line for line in text_lines(path) if line.strip()), "")
    if _is_pair(first):
        return "text" in task.text_keys  # if the task reads no pairs, it says so: the second text is not passed over
    try:
        _one(task, first, str(path))
    except InputError:
        return False
    return True


def _is_pair(line: str) -> bool:
    """Whether a line has two texts under the keys by which a pair is asked, and nothing else."""
    try:
        content = parse_json(line)
    except ValueError:
        return False
    if not isinstance(content, dict):
        return False
    texts = {key: value for key, value in content.items() if key != "id"}
    return texts.keys() == {"text", "second"} and all(isinstance(text, str) for text in texts.values())


def _is_json_lines(name: str) -> bool:
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return name.endswith(".jsonl")


def _of_file(task: Task[Any], path: Path, split: str) -> Iterator[Asked]:
    return (Asked(without_target(example)) for example in task.read_unscored(path, split))


def _of_lines(task: Task[Any], path: Path) -> Iterator[Asked]:
    for number, line in enumerate(_lines_of_input() if path == STANDARD_INPUT else text_lines(path), 1):
        if line.strip():
            example, identifier = _one(task, line, place(path, number))
            yield Asked(example, str(number) if identifier is None else identifier)


def _lines_of_input() -> Iterator[str]:
    """The lines of the standard input, as they come."""
    for number, raw in enumerate(sys.stdin.buffer, 1):
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"the line is not UTF-8: byte {error.start + 1:,} is {raw[error.start]:#04x}",
                             where=place(STANDARD_INPUT, number)) from None  # fmt: skip


def _one(task: Task[Any], line: str, where: str) -> Asked:
    try:
        content = parse_json(line)
    except ValueError as error:
        raise InputError(f"the line is not JSON: {error}", where=where, hint=_FORM) from None
    if not isinstance(content, dict):
        raise InputError(f"the line is not an object: {shown(content)}", where=where, hint=_FORM)
    identifier = content.pop("id", None)
    if identifier is not None and type(identifier) not in (str, int):
        raise InputError(f"the id is neither text nor a whole number: {shown(identifier)}", where=where)
    content = {key: value for key, value in content.items() if value is not None or key not in task.optional_keys}
    for key, value in content.items():
        if not isinstance(value, str):
            raise InputError(f"{key!r} is not text: {shown(value)}", where=where, hint=_FORM)
    _check_sound({"id": identifier, **content}, where)
    return Asked(asked_in_text(task, content, where), identifier)


def _check_sound(texts: Mapping[str, Any], where: str) -> None:
    """Refuse the half characters that JSON's escapes can make, which no file in UTF-8 can hold."""
    for key, text in texts.items():
        try:
            str(text).encode()
        except UnicodeEncodeError as error:
            what = f"{key!r} holds half a character: {text[error.start]!a} at place {error.start + 1:,}"
            raise InputError(what, where=where) from None


def _name(path: Path) -> str:
    return "the standard input" if path == STANDARD_INPUT else str(path)
