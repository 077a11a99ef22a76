"""Punkt's decision: does a sentence end at this candidate?

Kiss and Strunk, "Unsupervised Multilingual Sentence Boundary Detection", Computational Linguistics
32(4), 2006; the numbers in the comments are its sections. The details of tokens and of character classes
are those of NLTK 3.10, with which the boundaries agree; the trained parameters come from the package ``punkt``.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import punkt
from punkt import OrthoContext

# White space here is Unicode's White_Space: \s without the separators U+001C to U+001F, which Python adds.
SPACE = r"[^\S\x1c-\x1f]"
NOT_SPACE = r"[\S\x1c-\x1f]"
ENDING = ".?!"
CLOSING = "\"')]}\u2018\u2019\u201c\u201d\u00ab\u00bb"
"""Quotes and brackets that belong to the sentence before them."""
NON_WORD = rf"""[{re.escape(CLOSING)};*:@({{\[?!]"""
"""Characters that end a word and are never in one."""

_MULTIPLE = rf"(?:-{{2,}}|\.{{2,}}|(?:\.{SPACE}){{2,}}\.)"  # dashes and ellipses
_TOKEN = re.compile(
    rf"""{_MULTIPLE}
    | (?![("`{{\[:;&\#*@)}}\]\-,]) {NOT_SPACE}+?
      (?= {SPACE} | \Z | {NON_WORD} | {_MULTIPLE} | ,(?=\Z|{SPACE}|{NON_WORD}|{_MULTIPLE}) )
    | {NOT_SPACE}""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*\.?")
_NUMBER_TYPE = "##number##"
_NEVER_FIRST = frozenset(";:,.!?")


def tokens(text: str) -> list[str]:
    """Punkt's words: punctuation is split off, except the period. No word spans two lines."""
    return [token for line in text.split("\n") if line.strip() for token in _TOKEN.findall(line)]


def _type(token: str) -> str:
    """What counts as the same word: lower case, all numbers alike."""
    return _NUMBER_TYPE if _NUMBER.fullmatch(token) else token.lower()


def _without_period(kind: str) -> str:
    return kind[:-1] if len(kind) > 1 and kind[-1] == "." else kind


def _is_initial(token: str) -> bool:
    """One letter and a period; letters are Unicode's Alphabetic, marks, connectors and joiners."""
    if len(token) != 2 or token[1] != ".":
        return False
    letter, category = token[0], unicodedata.category(token[0])
    cased_symbol = category == "So" and (letter.isupper() or letter.islower())  # circled letters
    return category[0] in "LM" or category in ("Nl", "Pc") or cased_symbol or letter in "\u200c\u200d"


class PunktRules:
    """The rules with one language's parameters."""

    def __init__(self, parameters: punkt.PunktParameters):
        self._abbreviations = parameters.abbrev_types
        self._collocations = parameters.collocations
        self._starters = parameters.sent_starters
        self._contexts: dict[str, int] = parameters.ortho_context

    def breaks(self, context: str) -> bool:
        """Whether a sentence ends in ``context``, before its last token.

        Args:
            context: the word with the candidate at its end, and the token that follows.
        """
        return any(self._ends(token, following) for token, following in pairwise(tokens(context)))

    def always_breaks(self, word: str) -> bool:
        """Whether a sentence ends after ``word`` (its last character is a candidate) whatever follows it."""
        stem = word[:-1]
        if len(stem) > 1 and stem.isalpha():  # nearly all words: what follows below comes to the same
            return word[-1] != "." or stem.lower() not in self._abbreviations
        if len(word.split()) != 1:  # white space that does not separate words may form an ellipsis with what follows
            return False
        if self.breaks(word):
            return True
        last = tokens(word)[-1]
        ends, _ = self._by_form(last)
        # Collocations too begin with an abbreviation, an initial or a number: no others are trained.
        return ends and not _is_initial(last) and _type(last) != _NUMBER_TYPE

    def _by_form(self, token: str) -> tuple[bool, bool]:
        """Section 3, from the token alone: (it ends a sentence, it is an abbreviation or ellipsis)."""
        if token in ENDING:
            return True, False
        if not token.endswith("."):
            return False, False
        if token.endswith(".."):
            return False, not token.strip(".")
        stem = token[:-1].lower()
        known = stem in self._abbreviations or stem.rsplit("-", 1)[-1] in self._abbreviations
        return not known, known

    def _ends(self, token: str, following: str) -> bool:
        """Section 4: the decision by form, revised by the token that follows."""
        ends, abbreviated = self._by_form(token)
        if not token.endswith("."):
            return ends
        kind, initial = _without_period(_type(token)), _is_initial(token)
        following_ends, _ = self._by_form(following)
        next_kind = _without_period(_type(following)) if following_ends else _type(following)
        if (kind, next_kind) in self._collocations:  # 4.1.2
            return False
        upper = following[0].isupper()
        starts = self._starts_sentence(following, next_kind)
        if abbreviated and not initial and (starts or (upper and next_kind in self._starters)):  # 4.2, 4.1.3
            return True
        if initial or kind == _NUMBER_TYPE:  # 4.3
            always_upper = upper and not self._contexts.get(next_kind, 0) & OrthoContext.LC
            if starts is False or (starts is None and initial and always_upper):
                return False
        return ends

    def _starts_sentence(self, token: str, kind: str) -> bool | None:
        """Section 4.1.1, the orthographic heuristic: whether the token begins a sentence; None: unknown."""
        if token in _NEVER_FIRST:
            return False
        seen = self._contexts.get(kind, 0)
        if token[0].isupper() and seen & OrthoContext.LC and not seen & OrthoContext.MID_UC:
            return True
        if token[0].islower() and (seen & OrthoContext.UC or not seen & OrthoContext.BEG_LC):
            return False
        return None
