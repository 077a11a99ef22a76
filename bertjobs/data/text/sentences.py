"""Documents to sentences, by Punkt (Kiss and Strunk, Computational Linguistics 32(4), 2006), fast.

One compiled scan finds the candidates (``.?!`` before white space, a quote or a bracket); ``punkt_rules`` decides
each, and its decisions are remembered: most words end a sentence whatever follows, the others are
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
from collections.abc import Iterator
from functools import cache

import punkt

from bertjobs.data.text.punkt_rules import CLOSING, ENDING, NON_WORD, NOT_SPACE, SPACE, PunktRules
from bertjobs.data.text.unicode_sentences import has_foreign_ends, split_at_foreign_ends
from bertjobs.errors import InputError, nearest

LANGUAGES = tuple(name for name in punkt.available_languages() if name != "english_web")  # those of NLTK

# Two line breaks with nothing but white space between them. U+2028 is a line break too and U+2029 a paragraph's; they
# are rare, and without them the pattern begins with one literal, which makes it ten times faster.
_EMPTY_LINE = re.compile(r"\n\s*\n")
_ANY_EMPTY_LINE = re.compile(r"[\n\u2028]\s*[\n\u2028]|\u2029")

# The patterns below read a text whose only ASCII white space is the space.
# A candidate is the last one of its word. Three branches: before one space (most of them, kept fast); group 1 is where
# the sentence would end, what follows it begins where the match ends; group 2 skips a word without a candidate,
# so that no word is read more than a few times.
_CANDIDATE = re.compile(rf"[{ENDING}](?: (?=[!-~])|(?:[^ ]*[{ENDING}])?()(?:{SPACE}+|(?={NON_WORD}))|([^ ]*))")
_CANDIDATE_AT_START = re.compile(rf"[{ENDING}]()(?:{SPACE}+|(?={NON_WORD}))")
_CLOSING_RUN = re.compile(rf"[{re.escape(CLOSING)}]++()(?:{SPACE}+|(?=--)|\Z)")
_FOLLOWING = re.compile(rf"{NOT_SPACE}+")

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

    def split(self, text: str) -> list[str]:
        """The sentences of ``text``, see `split_sentences`."""
        sentences: list[str] = []
        for paragraph in split_paragraphs(text):
            sentences += self._split_paragraph(paragraph)
        if has_foreign_ends(text):
            return [part for sentence in sentences for part in split_at_foreign_ends(sentence)]
        return sentences

    def _split_paragraph(self, text: str) -> list[str]:
        """The sentences of a text without white space at its ends."""
        flat = text
        for mark in "\n\r\t\v\f":
            flat = flat.replace(mark, " ")
        starts: list[int] = []
        ends: list[int] = []
        start = 0
        for end, following in self._breaks(text, flat):
            if flat[start] in CLOSING and ends and (closing := _CLOSING_RUN.match(flat, start, end)):
                ends[-1], start = closing.end(1), closing.end()
            starts.append(start)
            ends.append(end)
            start = following
        return [text[start:end] for start, end in zip(starts, ends, strict=True) if start < end]

    def _breaks(self, text: str, flat: str) -> Iterator[tuple[int, int]]:
        """Where each sentence ends, and where what follows it begins; last, the end of the text."""
        always, last_space = self._always, flat.rfind
        for candidate in _CANDIDATE.finditer(flat):
            following, branch = candidate.end(), candidate.lastindex
            if branch is None:
                end = following - 1
            elif branch == 1:
                end = candidate.end(1)
            else:
                continue
            begin = last_space(" ", 0, end) + 1
            if not always.get(flat[begin:end]) or flat[following] < " ":
                # A candidate that begins a word is decided too: the one case of two candidates in a word.
                first = _CANDIDATE_AT_START.match(flat, begin)
                if first and first.end(1) < end and self._decide(text, begin, first.end(1), first.end()):
                    yield first.end(1), first.end()
                if not self._decide(text, begin, end, following):
                    continue
            yield end, following
        yield len(text), len(text)

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


def _remember(decisions: dict[str, bool], key: str, decision: bool) -> None:
    if len(key) <= _LONGEST_REMEMBERED:
        if len(decisions) >= _REMEMBERED:
            decisions.clear()
        decisions[key] = decision


def split_paragraphs(text: str) -> list[str]:
    """The parts of a text between empty lines, without white space at their ends."""
    empty_line = _ANY_EMPTY_LINE if "\u2028" in text or "\u2029" in text else _EMPTY_LINE
    return [paragraph for paragraph in map(str.strip, empty_line.split(text)) if paragraph]


@cache
def _splitter(language: str) -> SentenceSplitter:
    return SentenceSplitter(language)


def split_sentences(text: str, language: str = "english") -> list[str]:
    """The sentences of a text, in order, without the white space between them; an empty line ends a sentence.

    Raises InputError for a language without trained parameters.
    """
    return _splitter(language).split(text)
