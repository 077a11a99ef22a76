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
from collections.abc import Sequence
from functools import cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.text.characters import LINE_BREAK, Int64s, codes_of, cut_at, ends_of, shared_out
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

_compiled = cache(re.compile)  # when first used: most of these classes take a millisecond
_LINES = rf"[{LINE_ENDS}]+"
# Group 1 is where the sentence would end; what follows it begins where the match ends.
_CLOSED = rf"(?:[{CLOSING}{INVISIBLE}]|[{QUOTES}](?=[\s{CLOSING}{QUOTES}]|\Z))*+()\s*+"
_CANDIDATE = rf"[{ENDS}{MORE_ENDS}{PERIODS}{RARE_RANGE}]{_CLOSED}"
_FOREIGN = rf"[{ENDS.removeprefix('!?')}{MORE_ENDS}{RARE_RANGE}]{_CLOSED}"
_NEVER_FIRST = rf"[{CONTINUING}{ENDS}{MORE_ENDS}{PERIODS}{RARE_ENDS}]"
_RARE = rf"[{RARE_ENDS}]"
_TO_LETTER = rf"(?:[^\w{ENDS}{MORE_ENDS}{PERIODS}]|[\d_])*+"
_IDEOGRAPHIC = r"[\u3040-\u30ff\u3400-\u9fff]"  # Han, and kana

# Kinds of characters, as bits: what decides at a mark with a letter after it, or a space and a letter.
_END, _PERIOD, _SPACE, _LETTER, _LOWER, _UPPER, _ALPHANUMERIC, _IDEOGRAPH, _RARE_PLANES = (1 << bit for bit in range(9))
_ASCII, _BASIC_PLANE = 0x80, 0x10000
_FIRST_FOREIGN = 0x589  # of the marks beyond ASCII


def split_unicode(text: str) -> list[str]:
    """The sentences of a text, in order, without the white space between them."""
    return split_all_unicode([text])[0]


def split_all_unicode(texts: Sequence[str]) -> list[list[str]]:
    """The sentences of each text, as by `split_unicode`; many texts are faster together than one by one."""
    lines = [_lines(text) for text in texts]
    all_lines = [*chain.from_iterable(lines)]
    if not all_lines:
        return [[] for _ in texts]
    joined, stops = "\n".join(all_lines), ends_of(all_lines)
    ends, following = _breaks(joined, stops)
    ends = np.sort(np.concatenate([ends, stops]))
    starts = np.sort(np.concatenate([[0], following, stops[:-1] + 1]))
    counts = np.diff(np.searchsorted(ends, stops, side="right"), prepend=0)
    return shared_out(cut_at(joined, starts, ends), lines, counts)


def _lines(text: str) -> list[str]:
    """The lines of a text, without white space at their ends; empty ones are left out."""
    others = any(end in text for end in "\r\x85\u2028\u2029")
    lines = _compiled(_LINES).split(text) if others else text.split("\n")
    return [line for line in map(str.strip, lines) if line]


def _breaks(text: str, stops: Int64s) -> tuple[Int64s, Int64s]:
    """Where sentences end within lines, and where what follows each begins; in any order.

    Args:
        text: lines without white space at their ends, a line break between two.
        stops: where each ends, ``[lines]``.
    """
    codes = codes_of(text)
    table = _kinds(_ASCII if codes.dtype == np.uint8 else _BASIC_PLANE)
    is_mark = (codes == ord(".")) | (codes == ord("!")) | (codes == ord("?"))
    if len(table) > _ASCII:
        foreign = np.flatnonzero(codes >= _FIRST_FOREIGN)
        is_mark[foreign] = table.take(codes[foreign], mode="clip") & (_END | _PERIOD | _RARE_PLANES) > 0
    is_mark[stops - 1] = False  # a line's end ends a sentence anyway
    places = np.flatnonzero(is_mark)
    # Before the first character are the two line breaks after the last one.
    far, before, mark, after, behind = (table.take(codes[places + shift], mode="clip") for shift in range(-2, 3))
    spaced = after & _SPACE > 0
    first = np.where(spaced, behind, after)
    easy = (first & _LETTER > 0) & ((mark | before | far) & _RARE_PLANES == 0)
    initial = (before & _UPPER > 0) & (far & _ALPHANUMERIC == 0)
    apart = spaced | ((before | first) & _IDEOGRAPH > 0)  # SB7
    ending = easy & ((mark & _END > 0) | (~initial & apart & (first & _LOWER == 0)))  # SB8
    others = _other_breaks(text, places[~easy], stops)
    ends = places[ending] + 1
    return np.concatenate([ends, others[:, 0]]), np.concatenate([ends + spaced[ending], others[:, 1]])


def _other_breaks(text: str, places: Int64s, stops: Int64s) -> Int64s:
    """The same at any marks: ``[breaks, 2]``."""
    breaks, match = [], _compiled(_CANDIDATE).match
    for place, stop in zip(places.tolist(), stops[np.searchsorted(stops, places)].tolist(), strict=True):
        candidate = match(text, place, stop)
        if candidate and (following := candidate.end()) < stop and _ends(text, candidate, stop):
            breaks.append((candidate.end(1), following))
    return np.array(breaks, dtype=np.int64).reshape(-1, 2)


@cache
def _kinds(count: int) -> NDArray[np.uint16]:
    """The kinds of the first characters; of all of Unicode's basic plane, the last stands for those of the others."""
    text = "".join(map(chr, range(count)))
    table = np.zeros(count, dtype=np.uint16)
    for kind, members in (
        (_END, f"[{ENDS}{MORE_ENDS}]"),
        (_PERIOD, f"[{PERIODS}]"),
        (_SPACE, r"\s"),
        (_IDEOGRAPH, _IDEOGRAPHIC),
    ):
        table[[match.start() for match in re.finditer(members, text)]] |= kind
    for kind, is_member in (
        (_LETTER, str.isalpha),
        (_LOWER, _is_lower),
        (_UPPER, str.isupper),
        (_ALPHANUMERIC, str.isalnum),
    ):
        table[np.fromiter(map(is_member, text), dtype=np.bool_, count=count)] |= kind
    table[LINE_BREAK] = 0
    if count == _BASIC_PLANE:
        table[-1] = _RARE_PLANES
    return table


def has_foreign_ends(text: str) -> bool:
    """Whether a text holds an end of sentence that is not one of ASCII's ``.?!``."""
    if text.isascii():
        return False
    units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype="<u2")
    return bool(_foreign_units().take(units).any()) and _compiled(_FOREIGN).search(text) is not None


@cache
def _foreign_units() -> NDArray[np.bool_]:
    """Which units of UTF-16 a match of ``_FOREIGN`` may begin with: six times as fast to look up."""
    units = np.zeros(1 << 16, dtype=np.bool_)
    units[[ord(mark[0]) for mark in _compiled(_FOREIGN).finditer("".join(map(chr, range(1 << 16))))]] = True
    units[0xD802:0xD837] = True  # the first units of RARE_RANGE
    return units


def split_at_foreign_ends(text: str) -> list[str]:
    """The parts of a text without white space at its ends, cut only after the ends that ``has_foreign_ends`` means."""
    parts, start = [], 0
    for candidate in _compiled(_FOREIGN).finditer(text):
        if (following := candidate.end()) < len(text) and _ends(text, candidate, len(text)):
            parts.append(text[start : candidate.end(1)])
            start = following
    parts.append(text[start:])
    return parts


def _ends(text: str, candidate: re.Match[str], stop: int) -> bool:
    """Whether a sentence ends at a candidate. The line ends at ``stop``, and has text after the candidate."""
    mark, after = text[candidate.start()], text[candidate.end()]
    if not after.isalnum() and _compiled(_NEVER_FIRST).match(after):  # SB8a
        return False
    if mark in PERIODS:
        return _period_ends(text, candidate, stop)
    return mark <= "\uffff" or _compiled(_RARE).match(mark) is not None


def _period_ends(text: str, candidate: re.Match[str], stop: int) -> bool:
    place, following = candidate.start(), candidate.end()
    before, after = text[place - 1 : place], text[following]
    if before.isupper() and not text[place - 2 : place - 1].isalnum():
        return False
    if after.isalpha():
        if candidate.end(1) == following and not any(map(_compiled(_IDEOGRAPHIC).match, before + after)):  # SB7
            return False
        return not _is_lower(after)  # SB8
    if after.isdecimal() and (before.isdecimal() or following == place + 1):  # SB6
        return False
    letter = _compiled(_TO_LETTER).match(text, following, stop).end()  # type: ignore[union-attr]  # it matches anything
    return not _is_lower(text[letter : letter + 1])


def _is_lower(letter: str) -> bool:
    """Unicode's Lower, which Georgian is not: its everyday letters have capitals that begin no sentence."""
    return letter.islower() and not "\u10d0" <= letter <= "\u10ff"
