"""Scores of tagged words: entity spans as the original conlleval.pl (2004-01-26) reads them, and tags one by one.

Its rules, word by word: a span begins at B, at any tag that follows O, and where the type changes; it ends where the
next begins, or at O. So an ill-formed sequence is read, not refused: I-X after O or B-Y begins a span, and IOB1 is
read by the same rules. A predicted span is correct if it has the type, the first and the last word of a true one.

For E, S, L and U the script has few rules or none: it takes neighbours of the same type (S-X S-X, E-X B-X) for one
span. Here a span ends after them and begins at S and U, which is what IOBES and BILOU mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bertjobs.errors import InputError
from bertjobs.tasks.metrics.classification import class_scores
from bertjobs.tasks.metrics.scores import Scores, f1_of, listed, share

OUTSIDE = "O"
BEGINS = frozenset("BSU")
ENDS = frozenset("ESLU")
KINDS = frozenset("I") | BEGINS | ENDS

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
    """``("B", "PER")``; ``("O", "")`` of a tag that is in no span, among them those that are a word of their own."""
    kind, _, entity = tag.partition("-")
    if kind == OUTSIDE or (not entity and kind not in KINDS):
        return OUTSIDE, ""
    return kind, entity


def are_span_tags(tags: Collection[str]) -> bool:
    """Whether all tags are O or B-X, I-X and the like, and not all are O: then they are scored by spans."""
    inside = [tag.partition("-") for tag in tags if tag != OUTSIDE]
    return bool(inside) and all(kind in KINDS and entity for kind, _, entity in inside)


def spans_of(tags: Iterable[str]) -> Iterator[Span]:
    """The spans of one sentence, in order."""
    start = 0
    before, entity_before = OUTSIDE, ""
    for place, (kind, entity) in enumerate([*map(_parts, tags), (OUTSIDE, "")]):
        if before == OUTSIDE:
            start = place
        elif kind == OUTSIDE or kind in BEGINS or before in ENDS or entity != entity_before:
            yield Span(entity_before, start, place)
            start = place
        before, entity_before = kind, entity


def span_scores(sentences: Tagged) -> Scores:
    """``precision``, ``recall`` and ``f1`` of spans, the same of each type (``f1/PER``), the tags' ``accuracy``, and
    what conlleval.pl counts: ``tokens``, true ``phrases``, ``found`` and ``correct`` ones, ``found/PER``."""
    true: Counter[str] = Counter()
    found: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    tokens = right_tags = 0
    for number, (gold, predicted) in enumerate(sentences, start=1):
        _check_tags(gold, predicted, number)
        tokens += len(gold)
        right_tags += sum(map(str.__eq__, gold, predicted))
        gold_spans, predicted_spans = list(spans_of(gold)), list(spans_of(predicted))
        true.update(span.type for span in gold_spans)
        found.update(span.type for span in predicted_spans)
        correct.update(span.type for span in set(gold_spans) & set(predicted_spans))
    if not tokens:
        raise InputError("there is no word to score")
    counts = {"tokens": tokens, "phrases": true.total(), "found": found.total(), "correct": correct.total()}
    values = {"accuracy": right_tags / tokens, **_ratios("", correct.total(), found.total(), true.total()), **counts}
    for entity in sorted(true | found):
        values |= _ratios(f"/{entity}", correct[entity], found[entity], true[entity])
        values[f"found/{entity}"] = found[entity]
    return Scores(values, tuple(_undefined(true, found)))


def _check_tags(gold: Sequence[str], predicted: Sequence[str], number: int) -> None:
    if len(gold) != len(predicted):
        raise InputError(
            f"sentence {number:,} has {len(gold):,} words and {len(predicted):,} predicted tags",
            hint="score the predictions with the file that they were made from",
        )


def _ratios(suffix: str, correct: int, found: int, true: int) -> dict[str, float]:
    precision, recall = share(correct, found), share(correct, true)
    return {f"precision{suffix}": precision, f"recall{suffix}": recall, f"f1{suffix}": f1_of(precision, recall)}


def _undefined(true: Counter[str], found: Counter[str]) -> Iterator[str]:
    if not true:
        yield "recall is undefined: no sentence has a span; counted as 0"
    if not found:
        yield "precision is undefined: no span was predicted; counted as 0"
    if true and found:
        for one, other, what, lack in (
            (true, found, "recall", "are in no sentence"),
            (found, true, "precision", "were never predicted"),
        ):
            missing = sorted(other.keys() - one.keys())
            if missing:
                yield f"{what} is undefined for types that {lack}, counted as 0: {listed(missing)}"


def tag_scores(sentences: Tagged) -> Scores:
    """Scores of tags without spans, such as punctuation marks after words: those of `class_scores`, where
    ``precision``, ``recall`` and ``f1`` are of all tags but O together, and ``macro_f1`` is the mean over these."""
    pairs: Counter[tuple[str, str]] = Counter()
    for number, (gold, predicted) in enumerate(sentences, start=1):
        _check_tags(gold, predicted, number)
        pairs.update(zip(gold, predicted, strict=True))
    if not pairs:
        raise InputError("there is no word to score")
    names = sorted({tag for pair in pairs for tag in pair})
    index = {name: place for place, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for (gold_tag, predicted_tag), count in pairs.items():
        counts[index[gold_tag], index[predicted_tag]] = count
    marks = [index[name] for name in names if name != OUTSIDE]
    scores = class_scores(counts, names, positive=marks)
    if not marks:
        note = "precision, recall and F1 are undefined: no tag but O is there or was predicted; counted as 0"
        return Scores({**scores.values, "precision": 0.0, "recall": 0.0, "f1": 0.0, "macro_f1": 0.0}, (note,))
    macro = sum(scores.values[f"f1/{names[mark]}"] for mark in marks) / len(marks)
    return Scores({**scores.values, "macro_f1": macro}, scores.notes)
