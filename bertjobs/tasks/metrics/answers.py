"""Scores of answers to questions: exact match and F1 as SQuAD's official scripts for 1.1 and 2.0 define them, and the
threshold of null odds above which "no answer" is the better prediction."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bertjobs.errors import InputError
from bertjobs.tasks.metrics.scores import Scores, check_lengths, f1_of, listed, share

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)

Golds = Mapping[str, Sequence[str]]
"""Question -> the texts of all its correct answers, () where it has none."""


def normalised(answer: str) -> str:
    """Lower case, without ASCII punctuation and articles, with single spaces."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def exact_match(predicted: str, gold: str) -> float:
    return float(normalised(predicted) == normalised(gold))


def answer_f1(predicted: str, gold: str) -> float:
    """F1 of the words that both have. "No answer" has no words, and agrees with itself alone."""
    words, gold_words = normalised(predicted).split(), normalised(gold).split()
    if not words or not gold_words:
        return float(words == gold_words)
    common = (Counter(words) & Counter(gold_words)).total()
    return f1_of(common / len(words), common / len(gold_words))


def best_of(measure: Callable[[str, str], float], predicted: str, golds: Sequence[str]) -> float:
    """The best match with any of the correct answers."""
    return max(measure(predicted, gold) for gold in golds)


def squad1_scores(golds: Golds, predictions: Mapping[str, str]) -> Scores:
    """``exact`` and ``f1`` as evaluate-v1.1.py has them; a question without a prediction counts as 0."""
    check_lengths(golds, golds, "question")
    unanswerable = [question for question, answers in golds.items() if not answers]
    if unanswerable:
        raise InputError(
            f"{len(unanswerable):,} of {len(golds):,} questions have no answer: {listed(unanswerable)}",
            hint="score them as SQuAD 2.0",
        )
    exact = f1 = 0.0
    for question, answers in golds.items():
        if question in predictions:
            exact += best_of(exact_match, predictions[question], answers)
            f1 += best_of(_f1_of_words, predictions[question], answers)
    missing = [question for question in golds if question not in predictions]
    notes = (f"no prediction for {len(missing):,} of {len(golds):,} questions: {listed(missing)}; counted as 0",)
    values = {"exact": exact / len(golds), "f1": f1 / len(golds), "total": float(len(golds))}
    return Scores(values, notes if missing else ())


def _f1_of_words(predicted: str, gold: str) -> float:
    """As in evaluate-v1.1.py: 0 without a common word, even where both sides are articles and punctuation."""
    return answer_f1(predicted, gold) if normalised(gold) else 0.0


def squad2_scores(
    golds: Golds, predictions: Mapping[str, str], null_odds: Mapping[str, float] | None = None, threshold: float = 1.0
) -> Scores:
    """``exact`` and ``f1`` as evaluate-v2.0.py has them, of all questions and of those with and without an answer.

    Args:
        golds: all questions.
        predictions: the answer to each question, "" for "no answer".
        null_odds: how likely each question has none; if given, ``best_exact`` and ``best_f1`` are what the best
            thresholds, ``best_exact_thresh`` and ``best_f1_thresh``, would score.
        threshold: a question with higher null odds than this counts as predicted to have no answer.
    """
    check_lengths(golds, golds, "question")
    _check_complete(golds, predictions, "prediction")
    answers = {question: _with_words(texts) for question, texts in golds.items()}
    exact = {question: best_of(exact_match, predictions[question], answers[question]) for question in golds}
    f1 = {question: best_of(answer_f1, predictions[question], answers[question]) for question in golds}
    if null_odds is None:
        return Scores(*_parts(golds, exact, f1))
    _check_complete(golds, null_odds, "null odds")
    strange = [question for question in golds if not np.isfinite(null_odds[question])]
    if strange:
        raise InputError(f"null odds that are not finite numbers: of {listed(strange)}")
    refused = {question: 0.0 if golds[question] else 1.0 for question in golds if null_odds[question] > threshold}
    values, notes = _parts(golds, exact | refused, f1 | refused)
    for name, raw in (("exact", exact), ("f1", f1)):
        best = best_threshold(golds, predictions, raw, null_odds)
        values |= {f"best_{name}": best.score, f"best_{name}_thresh": best.threshold}
        if best.at_threshold < best.score:
            notes += (
                f"best {name} orders questions with the same null odds as they come: a threshold of {best.threshold:g} "
                f"itself scores {best.at_threshold:.4f}",
            )
    return Scores(values, notes)


def _with_words(texts: Sequence[str]) -> Sequence[str]:
    """The answers of which something is left by `normalised`; if none are, the empty one."""
    return [text for text in texts if normalised(text)] or [""]


def _check_complete(golds: Golds, values: Mapping[str, object], what: str) -> None:
    missing = [question for question in golds if question not in values]
    if missing:
        raise InputError(
            f"no {what} for {len(missing):,} of {len(golds):,} questions: {listed(missing)}",
            hint="score the predictions with the file that they were made from",
        )


def _parts(
    golds: Golds, exact: Mapping[str, float], f1: Mapping[str, float]
) -> tuple[dict[str, float], tuple[str, ...]]:
    values: dict[str, float] = {}
    notes = []
    parts = {
        "": list(golds),
        "HasAns_": [question for question in golds if golds[question]],
        "NoAns_": [question for question in golds if not golds[question]],
    }
    for prefix, questions in parts.items():
        values[f"{prefix}exact"] = share(sum(exact[question] for question in questions), len(questions))
        values[f"{prefix}f1"] = share(sum(f1[question] for question in questions), len(questions))
        values[f"{prefix}total"] = float(len(questions))
        if not questions:
            notes.append(f"{prefix}exact and {prefix}f1 are undefined: there is no such question; counted as 0")
    return values, tuple(notes)


@dataclass(frozen=True, slots=True)
class Threshold:
    """``score`` is the official script's best; ``at_threshold`` what ``threshold`` itself scores, which is less where
    several questions have the same null odds and the script's best lies between them."""

    threshold: float
    score: float
    at_threshold: float


def best_threshold(
    golds: Golds, predictions: Mapping[str, str], scores: Mapping[str, float], null_odds: Mapping[str, float]
) -> Threshold:
    """The null odds up to which answers should be given so that the mean of ``scores`` is highest.

    The odds may be probabilities or anything else that grows with them, such as NVIDIA's differences of logits: without
    any answer, the threshold is below all odds, and 0 only if they are not negative.
    """
    order = sorted((question for question in null_odds if question in golds), key=null_odds.__getitem__)
    odds = np.array([null_odds[question] for question in order])
    gains = [_gain(bool(golds[question]), predictions[question], scores[question]) for question in order]
    refusing_all = sum(1 for answers in golds.values() if not answers)
    totals = np.cumsum([refusing_all, *gains])
    best = int(totals.argmax())
    threshold = float(odds[best - 1]) if best else min(0.0, float(np.nextafter(odds[0], -np.inf)))
    at_threshold = totals[np.searchsorted(odds, threshold, side="right")]
    return Threshold(threshold, float(totals[best]) / len(golds), float(at_threshold) / len(golds))


def _gain(answerable: bool, predicted: str, score: float) -> float:
    """What is gained by giving the predicted answer instead of none."""
    if answerable:
        return score
    return -1.0 if predicted else 0.0
