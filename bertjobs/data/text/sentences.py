"""Documents to sentences, by Punkt (Kiss and Strunk, Computational Linguistics 32(4), 2006), fast.

The candidates (``.?!`` before white space, a quote or a bracket) of many texts are found together; ``punkt_rules``
decides each, and its decisions are remembered: most words end a sentence whatever follows, the others are
remembered together with what follows.

An empty line, or U+2029, ends a sentence. Within a paragraph the boundaries are those of NLTK 3.10's
``PunktTokenizer(language).tokenize(paragraph.strip())``, also where these are surprising (only the last candidate
of a word is decided; "!!!" is two sentences at the end of a paragraph). Beyond Punkt, the sentence
ends of other scripts (see ``unicode_sentences``) end a sentence too, so that a foreign passage is not an endless one.
One difference is known: a character that entered Unicode after the version of Python's own tables, followed
by a period, may be an initial for NLTK but not here; NLTK matches with an engine that has newer tables.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import punkt
from numpy.typing import NDArray

from bertjobs.data.text.characters import LINE_BREAK, Int64s, codes_of, cut_at, ends_of, shared_out
from bertjobs.data.text.punkt_rules import CLOSING, ENDING, NON_WORD, NOT_SPACE, SPACE, PunktRules
from bertjobs.data.text.unicode_sentences import has_foreign_ends, split_at_foreign_ends
from bertjobs.errors import InputError, nearest

LANGUAGES = tuple(name for name in punkt.available_languages() if name != "english_web")  # those of NLTK

# Two line breaks with nothing but white space between them. U+2028 is a line break too and U+2029 a paragraph's; they
# are rare, and without them the pattern begins with one literal, which makes it ten times faster.
_EMPTY_LINE = re.compile(r"\n\s*\n")
_ANY_EMPTY_LINE = re.compile(r"[\n\u2028]\s*[\n\u2028]|\u2029")

# The patterns below read a text whose only ASCII white space is the space. Group 1 is where a sentence would end, what
# follows it begins where the match ends. A candidate is the last one of its word: it may begin with an earlier one.
_CANDIDATE = re.compile(rf"[{ENDING}](?:[^ ]*[{ENDING}])?()(?:{SPACE}+|(?={NON_WORD}))")
_CANDIDATE_AT_START = re.compile(rf"[{ENDING}]()(?:{SPACE}+|(?={NON_WORD}))")
_CLOSING_RUN = re.compile(rf"[{re.escape(CLOSING)}]++()(?:{SPACE}+|(?=--)|\Z)")
_FOLLOWING = re.compile(rf"{NOT_SPACE}+")

_PARAGRAPH = LINE_BREAK  # stands between paragraphs, and nowhere else
_WHITE, _NON_WORD = 1, 2
_LAST_SPACE = 0x3000
_ENDING_CODES, _CLOSING_CODES = ([ord(mark) for mark in marks] for marks in (ENDING, CLOSING))

_REMEMBERED = 1 << 15  # decisions of each kind; some 5 MB in all
_LONGEST_REMEMBERED = 64  # characters


class SentenceSplitter:
    """Splits texts of one language; remembers decisions in bounded memory (a few MB)."""

    def __init__(self, language: str = "english"):
        """Raises InputError for a language without trained parameters."""
        if language not in LANGUAGES:
            raise InputError(f"no sentence splitter for language {language!r}", hint=nearest(language, LANGUAGES))
        self._rules = PunktRules(punkt.load_model(language))
        self._always: dict[str, bool] = {}  # word -> a sentence ends after it whatever follows
        self._decided: dict[str, bool] = {}  # word and what follows -> a sentence ends between them

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """The sentences of each text, see `split_sentences`; many texts are faster together than one by one."""
        paragraphs = [split_paragraphs(text) for text in texts]
        joined = "\n".join(chain.from_iterable(paragraphs))
        starts, ends, counts = self._bounds(joined, ends_of([*chain.from_iterable(paragraphs)]))
        sentences = shared_out(cut_at(joined, starts, ends), paragraphs, counts)
        return [_split_at_foreign_ends(text, own) for text, own in zip(texts, sentences, strict=True)]

    def _bounds(self, text: str, stops: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Where each sentence begins and ends, both ``[sentences]``, and how many each paragraph has.

        Args:
            text: paragraphs without white space at their ends, a line break between two.
            stops: where each ends, ``[paragraphs]``.
        """
        flat = text
        for mark in "\n\r\t\v\f":
            flat = flat.replace(mark, " ")
        codes = codes_of(flat)
        codes[stops] = _PARAGRAPH
        ends, following = self._breaks(text, flat, codes, stops)
        ends, once = np.unique(np.concatenate([ends, stops]), return_index=True)
        starts = np.concatenate([[0], np.concatenate([following, stops + 1])[once]])[: len(ends)]
        last = codes[ends] == _PARAGRAPH  # of its paragraph
        first = np.concatenate([[True], last])[: len(ends)]
        for place in np.flatnonzero(np.isin(codes[starts], _CLOSING_CODES) & ~first).tolist():
            if closing := _CLOSING_RUN.match(flat, starts[place], ends[place]):
                ends[place - 1], starts[place] = closing.end(1), closing.end()
        kept = starts < ends
        return starts[kept], ends[kept], np.diff(np.cumsum(kept)[last], prepend=0)

    def _breaks(self, text: str, flat: str, codes: NDArray[Any], stops: Int64s) -> tuple[Int64s, Int64s]:
        """Where sentences end within paragraphs, and where what follows each begins; in any order, some twice."""
        last_space = flat.rfind
        ends, others = _candidates(codes)
        words = [flat[last_space(" ", 0, end) + 1 : end] for end in ends.tolist()]
        known = zip(map(self._always.get, words), words, strict=True)
        sure = np.array([decision or self._always_ends(word) for decision, word in known], dtype=np.bool_)
        decided: list[tuple[int, int]] = []
        for place in np.flatnonzero(~sure).tolist():
            end = int(ends[place])
            decided += self._decided_breaks(text, end - len(words[place]), end, end + 1)
        done, paragraph_ends = 0, stops.tolist()
        for place in others:
            if place >= done:
                candidate = _CANDIDATE.match(flat, place, paragraph_ends[bisect_left(paragraph_ends, place)])
                end, done = candidate.end(1), candidate.end()  # type: ignore[union-attr]  # what follows fits
                decided += self._decided_breaks(text, last_space(" ", 0, end) + 1, end, done)
        more = np.array(decided, dtype=np.int64).reshape(-1, 2)
        return np.concatenate([ends[sure], more[:, 0]]), np.concatenate([ends[sure] + 1, more[:, 1]])

    def _decided_breaks(self, text: str, begin: int, end: int, following: int) -> Iterator[tuple[int, int]]:
        """Where sentences end in the word from ``begin`` on, whose last candidate is before ``end``."""
        # A candidate that begins a word is decided too: the one case of two candidates in a word.
        first = _CANDIDATE_AT_START.match(text, begin, end)
        if first and first.end(1) < end and self._decide(text, begin, first.end(1), first.end()):
            yield first.end(1), first.end()
        if self._decide(text, begin, end, following):
            yield end, following

    def _decide(self, text: str, begin: int, end: int, following: int) -> bool:
        """Whether a sentence ends at the candidate text[end - 1], whose word begins at ``begin``."""
        if text[following] >= " " and self._always_ends(text[begin:end]):
            return True
        word_follows = _FOLLOWING.match(text, following) if following > end else None
        context = text[begin : word_follows.end() if word_follows else end + 1]
        decision = self._decided.get(context)
        if decision is None:
            decision = self._rules.breaks(context)
            _remember(self._decided, context, decision)
        return decision

    def _always_ends(self, word: str) -> bool:
        known = self._always.get(word)
        if known is None:
            two_candidates = len(word) > 1 and word[0] in ENDING
            known = not two_candidates and self._rules.always_breaks(word)
            _remember(self._always, word, known)
        return known


def _candidates(codes: NDArray[Any]) -> tuple[Int64s, list[int]]:
    """Where sentences may end.

    Returns:
        First, behind which mark a word ends, one space follows, and then what is not white space or a control
        character: nearly all of them. Second, where the other marks are; several may be in a word.
    """
    is_mark = codes == _ENDING_CODES[0]
    for code in _ENDING_CODES[1:]:
        is_mark |= codes == code
    places = np.flatnonzero(is_mark)
    after, behind = codes[places + 1], codes[places + 2]
    easy = (after == ord(" ")) & (behind > ord(" ")) & (_kinds_of(behind) != _WHITE)
    other = ~easy & (_kinds_of(after) > 0)
    return places[easy] + 1, places[other].tolist()


def _kinds_of(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """Which characters may follow a candidate: ``_WHITE`` and ``_NON_WORD``; 0: no others."""
    return _kinds().take(codes, mode="clip")


@cache
def _kinds() -> NDArray[np.uint8]:
    """The kinds of the characters up to the last white space, and of one that stands for all beyond it."""
    table = np.zeros(_LAST_SPACE + 2, dtype=np.uint8)
    text = "".join(map(chr, range(len(table))))
    for kind, pattern in (_WHITE, SPACE), (_NON_WORD, NON_WORD):
        table[[match.start() for match in re.finditer(pattern, text)]] = kind
    table[_PARAGRAPH] = 0
    return table


def _remember(decisions: dict[str, bool], key: str, decision: bool) -> None:
    if len(key) <= _LONGEST_REMEMBERED:
        if len(decisions) >= _REMEMBERED:
            decisions.clear()
        decisions[key] = decision


def split_paragraphs(text: str) -> list[str]:
    """The parts of a text between empty lines, without white space at their ends."""
    empty_line = _ANY_EMPTY_LINE if "\u2028" in text or "\u2029" in text else _EMPTY_LINE
    return [paragraph for paragraph in map(str.strip, empty_line.split(text)) if paragraph]


def _split_at_foreign_ends(text: str, sentences: list[str]) -> list[str]:
    if has_foreign_ends(text):
        return [part for sentence in sentences for part in split_at_foreign_ends(sentence)]
    return sentences


@cache
def _splitter(language: str) -> SentenceSplitter:
    return SentenceSplitter(language)


def split_all(texts: Sequence[str], language: str = "english") -> list[list[str]]:
    """The sentences of each text, as by `split_sentences`; many texts are faster together than one by one."""
    return _splitter(language).split(texts)


def split_sentences(text: str, language: str = "english") -> list[str]:
    """The sentences of a text, in order, without the white space between them; an empty line ends a sentence.

    Raises InputError for a language without trained parameters.
    """
    return split_all([text], language)[0]
