"""Sentences in words with tags: one word per line and an empty line between sentences, or one sentence per line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bertjobs.errors import InputError
from bertjobs.tasks.example import Words
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading.lines import place, text_lines
from bertjobs.wording import counted

MOST_WORDS = 100_000
"""Of a sentence; a file without empty lines is refused before it is held in memory."""

_DOCUMENT = "-DOCSTART-"
_NOT_A_WORD = re.compile(r"\d+[-.]\d+\Z")  # CoNLL-U: a range of words written as one, a word that is not written


@dataclass(frozen=True)
class WordColumns:
    """Where a line has what.

    Attributes:
        word, tag: columns, from 1; -1 is the last one. A tag of 0: the file has none.
        conll_u: lines that begin with ``#`` are comments; words of several syntactic words (``1-2``) and words that are
            not written (``1.1``) are passed over.
        strict: a tag ``I-X`` that begins a span is refused, in place of counted.
    """

    word: int = 1
    tag: int = -1
    conll_u: bool = False
    strict: bool = False


class _Line(NamedTuple):
    number: int
    word: str
    tag: str


def read_words(path: Path, columns: WordColumns, notes: Notes, *, labelled: bool = True) -> Iterator[Words]:
    """The sentences of a file with one word per line.

    Columns are separated by tabs if the first line that is not empty has one, else by blanks. ``-DOCSTART-`` lines are
    no words. The id of a sentence is the number of its first line.

    Args:
        notes: here is counted what is passed over, and what IOB2 does not allow.
        labelled: each word must have a tag. Else a file with a single column has words without tags.

    Raises:
        InputError: a line has another number of columns than the first one, or no word or no tag (names file and line);
            a span begins with ``I-`` and columns are ``strict``; there is no sentence.
    """
    empty = True
    for lines in _sentences(path, columns, notes, labelled):
        empty = False
        tags = tuple(line.tag for line in lines)
        _check_spans(lines, path, columns.strict, notes)
        yield Words(
            id=str(lines[0].number),
            words=tuple(line.word for line in lines),
            tags=tags if tags[0] else None,
            where=place(path, lines[0].number),
        )
    if empty:
        raise InputError(f"{path.name} has no sentences", where=str(path))


def read_word_lines(path: Path, *, labelled: bool = True) -> Iterator[Words]:
    """The sentences of a file with one per line: words<TAB>tags, both separated by blanks. Empty lines are passed over.

    The id of a sentence is the number of its line.

    Args:
        labelled: each line must have tags.

    Raises:
        InputError: a line has no words, or not one tag for each (names file and line); there is no sentence.
    """
    empty = True
    for number, text in enumerate(text_lines(path), 1):
        if not text.strip():
            continue
        empty, where = False, place(path, number)
        left, tab, right = text.partition("\t")
        words, tags = tuple(left.split()), tuple(right.split())
        if not words:
            raise InputError("the line has no words", where=where)
        if len(tags) != len(words) and (tab or labelled):
            raise InputError(
                f"the line has {counted(len(words), 'word')} and {counted(len(tags), 'tag')}",
                where=where,
                hint="the words of a sentence, a tab, and a tag for each word",
            )
        yield Words(str(number), words, tags or None, where=where)
    if empty:
        raise InputError(f"{path.name} has no sentences", where=str(path))


def _sentences(path: Path, columns: WordColumns, notes: Notes, labelled: bool) -> Iterator[list[_Line]]:
    first, separator = 0, None
    sentence: list[_Line] = []
    for number, text in enumerate(text_lines(path), 1):
        if not text.strip():
            if sentence:
                yield sentence
            sentence = []
            continue
        if columns.conll_u and text.startswith("#"):
            continue
        if text.split(maxsplit=1)[0] == _DOCUMENT:
            continue
        if not first:
            separator = "\t" if "\t" in text else None
        fields = text.split(separator)
        if not first:
            first, width = number, len(fields)
            _check_width(width, columns, labelled, place(path, number))
        if len(fields) != width:
            raise InputError(
                f"the line has {counted(len(fields), 'column')}, not {width} as line {first:,}",
                where=place(path, number),
                hint="one word per line, its columns separated as in the first one; an empty line between sentences",
            )
        if columns.conll_u and _NOT_A_WORD.match(fields[0]):
            notes.add(f"words of {path.name} that are ranges or are not written were passed over", place(path, number))
            continue
        sentence.append(_line(fields, number, columns, path, has_tags=bool(columns.tag) and (labelled or width > 1)))
        if len(sentence) > MOST_WORDS:
            raise InputError(f"the sentence has more than {MOST_WORDS:,} words", where=place(path, sentence[0].number),
                             hint="are there empty lines between sentences?")  # fmt: skip
    if sentence:
        yield sentence


def _check_width(width: int, columns: WordColumns, labelled: bool, where: str) -> None:
    if labelled and columns.tag and width < 2:
        raise InputError("the line has 1 column: the word or its tag is missing", where=where,
                         hint="word<TAB>tag, or columns separated by blanks")  # fmt: skip
    wanted = max(columns.word, columns.tag)
    if width < wanted and not (width == 1 and not labelled):
        raise InputError(f"the line has {counted(width, 'column')}: there is no column {wanted}", where=where)


def _line(fields: list[str], number: int, columns: WordColumns, path: Path, has_tags: bool) -> _Line:
    word = fields[columns.word - 1 if columns.word > 0 else columns.word] if len(fields) > 1 else fields[0]
    tag = fields[columns.tag - 1 if columns.tag > 0 else columns.tag] if has_tags else ""
    if not word.strip():
        raise InputError("the line has no word", where=place(path, number))
    if has_tags and not tag.strip():
        raise InputError(f"the word {word!r} has no tag", where=place(path, number))
    return _Line(number, word, tag)


def _check_spans(lines: list[_Line], path: Path, strict: bool, notes: Notes) -> None:
    """Count tags ``I-X`` and ``E-X`` that do not continue a span of X; IOB2 begins one with ``B-X``."""
    before = "O"
    for line in lines:
        inside, type_ = line.tag[:2] in ("I-", "E-"), line.tag[2:]
        if inside and before not in (f"B-{type_}", f"I-{type_}"):
            where = place(path, line.number)
            if strict:
                raise InputError(
                    f"{line.tag} follows {before}: no span of {type_} begins before it",
                    where=where,
                    hint=f"IOB2 begins a span with B-{type_}",
                )
            notes.add(f"tags of {path.name} that begin a span with I-, as IOB1 does; IOB2 begins it with B-", where)
        before = line.tag
