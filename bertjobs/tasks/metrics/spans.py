"""Scores of tagged words: entity spans as the original conlleval.pl (2004-01-26) reads them, and tags one by one.

Its rules, word by word: a span begins at B, at any tag that follows O, and where the type changes, so that an ill-formed
sequence is read and not refused: I-X after O or after B-Y begins a span (IOB1 is read by the same rule). It ends where
the next begins or at O. A predicted span is correct if it has the type, the first and the last word of a true one.

For E, S, L and U the script has few rules or none: it takes neighbours of the same type (S-X S-X, E-X B-X) for one
span. Here a span ends after them and begins at S and U, which is what IOBES and BILOU mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from bertjobs.errors import InputError
from bertjobs.tasks.metrics.classification import class_scores
from bertjobs.tasks.metrics.scores import Scores, check_lengths, f1_of, listed, share

OUTSIDE = "O"
BEGINS = frozenset("BSU[]")
ENDS = frozenset("ESLU[]")
INSIDE = frozenset("I") | BEGINS | ENDS

Tagged = Iterable[tuple[Sequence[str], Sequence[str]]]
"""Sentences, each as its words' true tags and the predicted ones."""


@dataclass(frozen=True, slots=True)
class Span:
    """Words ``start`` to ``end - 1`` of a sentence."""

    type: str
    start: int
    end: int


@lru_cache(maxsize=10_000)
def _parts(tag: str) -> tuple[str, str]:
    """``("B", "PER")``; a tag that is in no span is ``("O", "")``, such as a tag of its own without a hyphen."""
    kind, _, kind_of_entity = tag.partition("-")
    if kind in (OUTSIDE, ".") or (not kind_of_entity and kind not in INSIDE):
        return OUTSIDE, ""
    return kind, kind_of_entity


def are_span_tags(tags: Iterable[str]) -> bool:
    """Whether all tags are O or have a type after B-, I- or the like: what spans are read from."""
    kinds = {kind for kind, hyphen, entity in (tag.partition("-") for tag in tags if tag != OUTSIDE) if hyphen and entity}
    return bool(kinds) and kinds <= INSIDE and all(tag == OUTSIDE or "-" in tag for tag in tags)


def spans_of(tags: Iterable[str]) -> Iterator[Span]:
    """The spans of one sentence, in order."""
    start, before, type_before, place = 0, OUTSIDE, "", -1
    for place, tag in enumerate(tags):
        kind, kind_of_entity = _parts(tag)
        inside = before != OUTSIDE
        if inside and (kind == OUTSIDE or kind in BEGINS or before in ENDS or kind_of_entity != type_before):
            yield Span(type_before, start, place)
            inside = False
        if not inside:
            start = place
        before, type_before = kind, kind_of_entity
    if before != OUTSIDE:
        yield Span(type_before, start, place + 1)
