"""Held-out sentences with one word masked, chosen and put into words for people; without torch."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.shards.shard_set import ShardSet

PIECES = range(10, 31)  # word pieces of a sentence that is shown
LEAST_LETTERS = 4
LEAST_SHARE = 2e-4  # of the training text's tokens: a word as rare as this was seen often enough to be learnt

_ENDS = frozenset(".?!")
_MARKS = frozenset(",;:-'") | _ENDS
_AFTER_APOSTROPHE = frozenset(("s", "t", "re", "ve", "ll", "d", "m"))


@dataclass(frozen=True)
class MaskedWord:
    """A sentence with one word masked, and what the model makes of it.

    Attributes:
        before, after: the readable text on both sides of the mask.
        truth: the masked word.
        probability: what the model gives the truth, 0 to 1.
        rank: the truth's place among all tokens, from 1.
        top: the likeliest tokens and their probabilities, likeliest first.
    """

    before: str
    after: str
    truth: str
    probability: float
    rank: int
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Cloze:
    """A sentence's tokens and the place of the word to mask."""

    tokens: tuple[str, ...]
    place: int

    @property
    def truth(self) -> str:
        return self.tokens[self.place]


def choose(held_out: ShardSet, counts: NDArray[np.int64], count: int, seed: int) -> list[Cloze]:
    """Sentences from different rows, in an order drawn from the seed, no word masked twice.

    ``counts`` is how often each token occurs in the training text.
    """
    tokens = held_out.vocabulary.tokens
    shares = dict(zip(tokens, (counts / max(1, counts.sum())).tolist(), strict=True))
    chosen: list[Cloze] = []
    for row in np.random.default_rng(seed).permutation(held_out.rows):
        if len(chosen) == count:
            break
        for segment in held_out.segments(int(row)):
            cloze = _first_cloze([tokens[number] for number in segment], shares, {one.truth for one in chosen})
            if cloze:
                chosen.append(cloze)
                break
    return chosen


def sentences(tokens: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The readable whole sentences of a segment: between two sentence ends, of the length of ``PIECES``.

    What stands before the first end may have been cut off at its front and is skipped.
    """
    ends = [place for place, token in enumerate(tokens) if _is_sentence_end(tokens, place, token)]
    for before, end in pairwise(ends):
        sentence = tuple(tokens[before + 1 : end + 1])
        if len(sentence) in PIECES and all(map(_is_readable, sentence)):
            yield sentence


def word_to_mask(sentence: Sequence[str], shares: dict[str, float]) -> int | None:
    """The place of the rarest word worth guessing, None if there is none.

    Eligible are whole words of at least ``LEAST_LETTERS`` letters that occur once in the sentence and make up
    ``LEAST_SHARE`` of the training text. The rarest of them is a content word in all but odd sentences: function
    words are the most frequent (Zipf).
    """
    following = [*sentence[1:], ""]
    eligible = [
        place
        for place, (token, after) in enumerate(zip(sentence, following, strict=True))
        if token.isalpha()
        and len(token) >= LEAST_LETTERS
        and not after.startswith("##")
        and sentence.count(token) == 1
        and shares.get(token, 0.0) >= LEAST_SHARE
    ]
    return min(eligible, key=lambda place: shares[sentence[place]], default=None)


def readable(tokens: Sequence[str]) -> str:
    """WordPiece tokens as text: pieces joined, no space before punctuation."""
    text = ""
    for token, previous in zip(tokens, ["", *tokens], strict=False):
        glued = (
            not text
            or token in _MARKS
            or previous == "-"
            or (previous == "'" and token in _AFTER_APOSTROPHE)
            or token.startswith("##")
        )
        text += token.removeprefix("##") if glued else f" {token}"
    return text


def text(guesses: Sequence[MaskedWord], width: int = 100) -> str:
    """The guesses as lines for a terminal, the truth beside them."""
    parts = []
    for number, one in enumerate(guesses, 1):
        sentence = join(one, "[____]")
        top = ", ".join(f"{token} {percent(probability)}" for token, probability in one.top)
        for line, indent in (
            (sentence, f"{number}. "),
            (f"truth:   {one.truth} (rank {one.rank:,}, {percent(one.probability)})", "   "),
            (f"guesses: {top}", "   "),
        ):
            parts.append(textwrap.fill(line, width, initial_indent=indent, subsequent_indent="   "))
    return "\n".join(parts)


def percent(share: float) -> str:
    """A probability for people: one decimal, and never a plain zero."""
    return "<0.1%" if share < 0.0005 else f"{share:.1%}"


def join(one: MaskedWord, word: str) -> str:
    """The sentence with ``word`` in place of the mask."""
    return gap_before(one) + word + gap_after(one)


def gap_before(one: MaskedWord) -> str:
    """The text before the mask, with the space that separates them."""
    return one.before + " " * bool(one.before and not one.before.endswith("-"))


def gap_after(one: MaskedWord) -> str:
    """The text after the mask, with the space that separates them."""
    return " " * bool(one.after and one.after[0] not in _MARKS) + one.after


def _first_cloze(tokens: Sequence[str], shares: dict[str, float], used: set[str]) -> Cloze | None:
    for sentence in sentences(tokens):
        place = word_to_mask(sentence, shares)
        if place is not None and sentence[place] not in used:
            return Cloze(sentence, place)
    return None


def _is_sentence_end(tokens: Sequence[str], place: int, token: str) -> bool:
    """A full stop after one or two letters (mr., u.s., no.) does not end a sentence."""
    before = tokens[place - 1] if place else ""
    return token in _ENDS and (len(before) > 2 or not before.isalpha())


def _is_readable(token: str) -> bool:
    """Words, their pieces and plain punctuation; no digits, brackets, quotes or special tokens."""
    return token in _MARKS or token.removeprefix("##").isalpha()
