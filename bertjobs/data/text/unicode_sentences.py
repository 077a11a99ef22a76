"""Documents to sentences of any script, at the sentence ends of Unicode (UAX #29).

The marks of ``sentence_break.ENDS`` (the full stops of Chinese, Hindi, Urdu, Burmese, Khmer, Ethiopic, ...) end a
sentence, with or without white space after them; closing quotes and brackets belong to it. A line's end ends a
sentence. A period ends one by the rules SB6 to SB8a: not before a lower-case letter, not inside a number. These go
beyond UAX #29, since no language's abbreviations are known here:

- A period directly before a letter ends no sentence (``example.org``), except beside Chinese or Japanese.
- Neither does one between numbers (``2020. 05. 10.``) or after an initial (``J. Smith``).
- An opening bracket begins the next sentence, and so does an opening quotation mark that a word follows directly.
- The marks of ``sentence_break.MORE_ENDS`` count too.

Thai and Lao prose has no mark at its sentences' ends: there only lines are told apart, and ``data prepare`` cuts what
is too long.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.text.sentence_break import (
    CLOSING,
    CONTINUING,
    ENDS,
    INVISIBLE,
    LINE_ENDS,
    MORE_ENDS,
    PERIODS,
    QUOTES,
    RARE_ENDS,
    RARE_RANGE,
)

_LINES = re.compile(rf"[{LINE_ENDS}]+")
# Group 1 is where the sentence would end; what follows it begins where the match ends.
_CLOSED = rf"(?:[{CLOSING}{INVISIBLE}]|[{QUOTES}](?=[\s{CLOSING}{QUOTES}]|\Z))*+()\s*+"
_CANDIDATE = re.compile(rf"[{ENDS}{MORE_ENDS}{PERIODS}{RARE_RANGE}]{_CLOSED}")
_FOREIGN = re.compile(rf"[{ENDS.removeprefix('!?')}{MORE_ENDS}{RARE_RANGE}]{_CLOSED}")
_NEVER_FIRST = re.compile(rf"[{CONTINUING}{ENDS}{MORE_ENDS}{PERIODS}{RARE_ENDS}]")
_RARE = re.compile(rf"[{RARE_ENDS}]")
_TO_LETTER = re.compile(rf"(?:[^\w{ENDS}{MORE_ENDS}{PERIODS}]|[\d_])*+")
_IDEOGRAPHIC = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")  # Han, and kana


def split_unicode(text: str) -> list[str]:
    """The sentences of a text, in order, without the white space between them."""
    sentences: list[str] = []
    for line in _LINES.split(text):
        if line := line.strip():
            sentences += _cut(line, _CANDIDATE)
    return sentences


def has_foreign_ends(text: str) -> bool:
    """Whether a text holds an end of sentence that is not one of ASCII's ``.?!``."""
    if text.isascii():
        return False
    units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype="<u2")
    return bool(_foreign_units().take(units).any()) and _FOREIGN.search(text) is not None


@cache
def _foreign_units() -> NDArray[np.bool_]:
    """Which units of UTF-16 a match of ``_FOREIGN`` may begin with: six times as fast to look up."""
    units = np.zeros(1 << 16, dtype=np.bool_)
    units[[ord(mark[0]) for mark in _FOREIGN.finditer("".join(map(chr, range(1 << 16))))]] = True
    units[0xD802:0xD837] = True  # the first units of RARE_RANGE
    return units


def split_at_foreign_ends(text: str) -> list[str]:
    """The parts of a text without white space at its ends, cut only after the ends that ``has_foreign_ends`` means."""
    return _cut(text, _FOREIGN)


def _cut(text: str, candidates: re.Pattern[str]) -> list[str]:
    """The parts of a text without white space at its ends, cut after the candidates that end a sentence."""
    parts, start = [], 0
    for candidate in candidates.finditer(text):
        if (following := candidate.end()) < len(text) and _ends(text, candidate.start(), candidate.end(1), following):
            parts.append(text[start : candidate.end(1)])
            start = following
    parts.append(text[start:])
    return parts


def _ends(text: str, place: int, end: int, following: int) -> bool:
    """Whether a sentence ends at ``end``, after the mark at ``place``, where text[following] begins what comes next."""
    mark, after = text[place], text[following]
    if not after.isalnum() and _NEVER_FIRST.match(after):  # SB8a
        return False
    if mark in PERIODS:
        return _period_ends(text, place, end, following)
    return mark <= "\uffff" or _RARE.match(mark) is not None


def _period_ends(text: str, place: int, end: int, following: int) -> bool:
    before, after = text[place - 1 : place], text[following]
    if before.isupper() and not text[place - 2 : place - 1].isalnum():
        return False
    if after.isalpha():
        if end == following and not any(map(_IDEOGRAPHIC.match, before + after)):  # SB7
            return False
        return not _is_lower(after)  # SB8
    if after.isdecimal() and (before.isdecimal() or following == place + 1):  # SB6
        return False
    letter = _TO_LETTER.match(text, following).end()  # type: ignore[union-attr]  # the pattern matches anything
    return not _is_lower(text[letter : letter + 1])


def _is_lower(letter: str) -> bool:
    """Unicode's Lower, which Georgian is not: its everyday letters have capitals that begin no sentence."""
    return letter.islower() and not "\u10d0" <= letter <= "\u10ff"
