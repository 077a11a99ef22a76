"""What a vocabulary's tokens show about the text that it was made of, where no file states it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from bertjobs.data.text.normalisation import Normalisation

_FEW, _MANY = 0.01, 0.05  # capitals, of the tokens that could have one: none in Google's uncased ones, 40% in the cased
_FEW_MARKED, _MANY_MARKED = 0.001, 0.01  # tokens that stripping would change, of all: none where text was stripped
_SHOWN = 3


@dataclass(frozen=True)
class VocabularyCounts:
    """What was counted in a vocabulary.

    Attributes:
        tokens: all that text can become, without special and unused ones.
        cased: those of them with a letter that has a capital form.
        capitals: those of them with a capital letter.
        marked: those of all tokens that stripping accents would change.
    """

    tokens: int
    cased: int
    capitals: int
    marked: int

    @classmethod
    def of(cls, tokens: Sequence[str]) -> VocabularyCounts:
        """Count the tokens."""
        words = _words(tokens)
        text = "\n".join(words)  # together: a tenth of the time
        small = text.lower().split("\n")
        return cls(
            tokens=len(words),
            # Not upper(): Georgian has capital forms that no sentence uses.
            cased=sum(map(operator.ne, small, text.title().split("\n"))),
            capitals=sum(map(operator.ne, small, words)),
            marked=len(_changed(words, Normalisation(False, True))),
        )

    @property
    def lowercase(self) -> bool | None:
        """Whether text was lowercased; None if the tokens do not show it."""
        share = self.capitals / self.cased if self.cased else 0.0
        return True if share < _FEW else False if share > _MANY else None

    @property
    def strip_accents(self) -> bool | None:
        """Whether accents of lowercased text were stripped; None if the tokens do not show it."""
        share = self.marked / self.tokens if self.tokens else 0.0
        return True if share < _FEW_MARKED else False if share > _MANY_MARKED else None

    @property
    def words_on_capitals(self) -> str:
        """What ``lowercase`` is decided by."""
        if not self.cased:
            return "no token has a letter with a capital form"
        return f"{self.capitals:,} of {self.cased:,} tokens with letters have a capital"

    @property
    def words_on_accents(self) -> str:
        """What ``strip_accents`` is decided by."""
        return f"stripping changes {self.marked:,} of {self.tokens:,} tokens"


def guessed(tokens: Sequence[str]) -> Normalisation:
    """What the tokens show; BERT's own, uncased, where they show nothing."""
    evidence = VocabularyCounts.of(tokens)
    if evidence.lowercase is False:
        return Normalisation.berts(False)
    return Normalisation.berts(True, evidence.strip_accents is not False)


def impossible_tokens(tokens: Sequence[str], normalisation: Normalisation) -> list[str]:
    """The tokens that no text can become under this normalisation."""
    return _changed(_words(tokens), normalisation)


def some_of(tokens: Sequence[str]) -> str:
    """A few of many tokens, in words."""
    return ", ".join(map(repr, tokens[:_SHOWN])) + (", ..." if len(tokens) > _SHOWN else "")


def _words(tokens: Sequence[str]) -> list[str]:
    """The tokens' text, without special and unused ones, which stand in brackets."""
    return [
        token.removeprefix("##") for token in tokens if not (len(token) > 2 and token[0] == "[" and token[-1] == "]")
    ]


def _changed(words: Sequence[str], normalisation: Normalisation) -> list[str]:
    """Those that lowercasing and stripping change."""
    # Only these can change. Together: no token holds a line break, and a mark after one does not join what is before.
    words = [word for word in words if not word.isascii() or (normalisation.lowercase and not word.islower())]
    if not words:
        return []
    after = normalisation.of_letters().normalize_str("\n".join(words)).split("\n")
    return [word for word, changed in zip(words, after, strict=True) if word != changed]
