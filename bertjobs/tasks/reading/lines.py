"""Lines of text files: UTF-8 without exception, also compressed, one at a time."""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bertjobs.data.corpus.encodings import likely, of_start
from bertjobs.data.corpus.files import COMPRESSIONS, open_text, reading
from bertjobs.errors import BertjobsError, InputError

LONGEST = 1 << 24
"""Bytes of a line at most, so that a file without line ends is refused before it is held in memory."""

_SAMPLE = 1 << 15


def place(path: Path, line: int, noun: str = "line") -> str:
    """``train.tsv, line 7``, as examples and errors name it."""
    return f"{path.name}, {noun} {line:,}"


def with_compressed(*names: str) -> tuple[str, ...]:
    """Names of files, and after them those that the same files have when they are compressed."""
    return (*names, *(name + suffix for name in names for suffix in COMPRESSIONS))


def names_in_words(names: Sequence[str]) -> str:
    """Names of files, with a word on those that are compressed in place of each."""
    plain = [name for name in names if not name.endswith(COMPRESSIONS)]
    return ", ".join(plain) + (f", also compressed ({', '.join(COMPRESSIONS)})" if len(plain) < len(names) else "")


def text_lines(path: Path, *, keep_ends: bool = False) -> Iterator[str]:
    """The lines of a file.

    Args:
        keep_ends: with the line feed, or the carriage return and line feed, that they end with.

    Raises:
        InputError: the file does not exist, is empty, is not UTF-8, or holds a NUL byte; names the line.
    """
    number = 0
    with opened(path), open_text(str(path)) as file:
        while raw := file.readline(LONGEST + 1):
            number += 1
            if number == 1:
                _check_start(raw, path)
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if len(raw) > LONGEST:
                raise InputError(f"the line is longer than {LONGEST:,} bytes", where=place(path, number),
                                 hint="is this a text file with one example per line?")  # fmt: skip
            line = _decoded(raw, file, path, number)
            yield line if keep_ends else line.removesuffix("\n").removesuffix("\r")
    if not number:
        raise InputError(f"{path.name} is empty", where=str(path))


@contextmanager
def opened(path: Path) -> Iterator[None]:
    """As the corpora's ``reading``, but an error of theirs names the file in place of ``--corpus``."""
    try:
        with reading(str(path)):
            yield
    except BertjobsError as error:
        if error.where != "--corpus":
            raise
        raise type(error)(error.what, where=str(path), hint=error.hint, cause=error.cause) from error


def _check_start(head: bytes, path: Path) -> None:
    if (foreign := of_start(head)) is not None:
        hint = foreign.remedy if not foreign.text else _converted(foreign.encodings, path)
        raise InputError(f"{path.name} is not UTF-8 text: it is {foreign.words.removesuffix(', not text')}",
                         where=str(path), hint=hint)  # fmt: skip
    first = head.removesuffix(b"\n").removesuffix(b"\r")
    if b"\r" in first and not head.endswith(b"\n"):
        raise InputError(f"the lines of {path.name} end with a carriage return alone", where=str(path),
                         hint=f"tr '\\r' '\\n' < {path.name} > converted")  # fmt: skip


def _decoded(raw: bytes, file: BinaryIO, path: Path, number: int) -> str:
    """A line of ``file``, which is at the next one."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        foreign = likely(raw[:_SAMPLE] + file.read(_SAMPLE))
        raise InputError(
            f"byte {error.start + 1:,} of the line, {raw[error.start]:#04x}, is not UTF-8; the file looks like "
            f"{foreign.words}",
            where=place(path, number),
            hint=_converted(foreign.encodings, path),
        ) from None
    if "\0" in text:
        raise InputError("the line holds a NUL byte", where=place(path, number),
                         hint="is it UTF-16, or was the file not written whole?")  # fmt: skip
    return text


def _converted(encodings: tuple[str, ...], path: Path) -> str:
    name = encodings[0] if encodings and encodings[0] != "utf-8" else "ITS-ENCODING"
    return f"convert it: iconv -f {name} -t utf-8 {shlex.quote(path.name)} > converted"
