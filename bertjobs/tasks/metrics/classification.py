"""Scores of classes, numbers and sets of labels, those that GLUE reports among them, as scikit-learn and scipy do.

Classes are counted into a confusion matrix first. Matrices of parts of the data add up, so any number of examples takes
the memory of one part.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bertjobs.errors import InputError
from bertjobs.tasks.metrics.scores import Scores, check_lengths, listed

# scipy takes a second to import: the function that needs it does so.

Counts = NDArray[np.int64]


def confusion(gold: NDArray[Any], predicted: NDArray[Any], classes: int) -> Counts:
    """How often each class (row) was taken for each (column): ``[classes, classes]``. Classes are given as integers
    from 0."""
    check_lengths(gold, predicted)
    for labels in (gold, predicted):
        if np.min(labels) < 0 or np.max(labels) >= classes:
            raise InputError(f"a class is not one of 0 to {classes - 1}: {np.min(labels)} to {np.max(labels)}")
    cells = np.asarray(gold, np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes * classes).astype(np.int64).reshape(classes, classes)


class ClassScores(NamedTuple):
    """Precision, recall and F1, each ``[classes]``; a quotient without anything to divide by is 0."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]

    @classmethod
    def of(cls, right: NDArray[Any], predicted: NDArray[Any], gold: NDArray[Any]) -> ClassScores:
        """From how often a class was predicted rightly, predicted, and true: F1 is ``2 right / (predicted + gold)``."""
        return cls(_share(right, predicted), _share(right, gold), _share(2 * right, predicted + gold))


def _share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole != 0)


def class_scores(counts: Counts, names: Sequence[str], positive: Sequence[int] = ()) -> Scores:
    """``accuracy``, ``matthews``, ``macro_f1``, and ``precision/C``, ``recall/C``, ``f1/C`` of each class C.

    Args:
        counts: the confusion matrix, ``[classes, classes]``, true classes in rows.
        names: the classes' names, in the matrix's order.
        positive: the classes that ``precision``, ``recall`` and ``f1`` are of, taken together: (1,) for MRPC
            and QQP, all but O for tags. If it is empty, these three are left out.

    ``macro_f1`` is the mean over the classes that occur, in the data or the predictions, as scikit-learn takes it.
    """
    if not counts.any():
        raise InputError("there is no example to score")
    right, gold, predicted = np.diagonal(counts), counts.sum(1), counts.sum(0)
    every, occurring = ClassScores.of(right, predicted, gold), gold + predicted > 0
    values = {
        "accuracy": int(right.sum()) / int(counts.sum()),
        "matthews": _matthews(right, gold, predicted),
        "macro_f1": float(every.f1[occurring].mean()),
    }
    if positive:
        chosen = list(positive)
        together = ClassScores.of(*(each[chosen].sum() for each in (right, predicted, gold)))
        values |= {name: float(value) for name, value in together._asdict().items()}
    values |= _by_name(every, names)
    return Scores(values, tuple(_undefined_of_classes(counts, names, positive)))


def _matthews(right: NDArray[Any], gold: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Gorodkin's R_K of several classes (2004); 0 where all examples, or all predictions, are of one class."""
    hits, golds, guesses = int(right.sum()), gold.tolist(), predicted.tolist()  # Python's integers never overflow
    total = sum(golds)
    product = sum(one * other for one, other in zip(golds, guesses, strict=True))
    spread = [total**2 - sum(count**2 for count in counts) for counts in (golds, guesses)]
    return (hits * total - product) / math.sqrt(spread[0] * spread[1]) if all(spread) else 0.0


def _undefined_of_classes(counts: Counts, names: Sequence[str], positive: Sequence[int]) -> Iterator[str]:
    true, predicted = counts.sum(1) > 0, counts.sum(0) > 0
    if true.sum() == 1 or predicted.sum() == 1:
        whose = "all examples have one class" if true.sum() == 1 else "all predictions are one class"
        yield f"Matthews correlation is undefined: {whose}; counted as 0"
    if positive:
        name = listed(names[label] for label in positive)
        if not true[list(positive)].any():
            yield f"recall is undefined: no example is {name}; counted as 0"
        if not predicted[list(positive)].any():
            yield f"precision is undefined: no prediction is {name}; counted as 0"
    neither = ~true & ~predicted
    if neither.any():
        those = _those(neither, names)
        yield f"F1 is undefined for classes without an example and a prediction; macro F1 leaves them out: {those}"
    yield from _undefined_by_name(true, predicted, names, "class", "classes")


def _undefined_by_name(
    true: NDArray[np.bool_], predicted: NDArray[np.bool_], names: Sequence[str], one: str, several: str
) -> Iterator[str]:
    """Names that occur on one side only: their precision or recall is 0 because nothing is there to be right about."""
    for occurs, other, what, missing in (
        (true, predicted, "recall", "example"),
        (predicted, true, "precision", "prediction"),
    ):
        lacking = ~occurs & other
        if lacking.any():
            noun = one if lacking.sum() == 1 else several
            yield f"{what} is undefined for the {noun} without {missing}, counted as 0: {_those(lacking, names)}"


def _those(chosen: NDArray[np.bool_], names: Sequence[str]) -> str:
    return listed(name for name, is_one in zip(names, chosen, strict=True) if is_one)


def _by_name(every: ClassScores, names: Sequence[str]) -> dict[str, float]:
    return {
        f"{measure}/{name}": float(value)
        for measure, column in every._asdict().items()
        for name, value in zip(names, column, strict=True)
    }


def label_scores(gold: NDArray[np.bool_], predicted: NDArray[np.bool_], names: Sequence[str]) -> Scores:
    """Where several labels can be true at once: ``micro_f1``, ``macro_f1``, ``subset_accuracy`` (the share of examples
    with all labels right), and ``precision/L``, ``recall/L``, ``f1/L`` of each label L.

    Args:
        gold: which labels are true, ``[examples, labels]``.
        predicted: which were predicted, ``[examples, labels]``.
        names: the labels' names, in the columns' order.

    ``macro_f1`` is the mean over all labels, as scikit-learn takes it: one that neither occurs nor is predicted is 0.
    """
    check_lengths(gold, predicted)
    counts = [np.sum(each, axis=0) for each in (gold & predicted, predicted, gold)]
    every, micro = ClassScores.of(*counts), ClassScores.of(*(each.sum() for each in counts))
    values = {
        "micro_f1": float(micro.f1),
        "macro_f1": float(every.f1.mean()),
        "subset_accuracy": float((gold == predicted).all(1).mean()),
    } | _by_name(every, names)
    return Scores(values, tuple(_undefined_of_labels(np.any(gold, axis=0), np.any(predicted, axis=0), names)))


def _undefined_of_labels(true: NDArray[np.bool_], predicted: NDArray[np.bool_], names: Sequence[str]) -> Iterator[str]:
    if not true.any() and not predicted.any():
        yield "micro F1 is undefined: no example has a label, and none was predicted; counted as 0"
    neither = ~true & ~predicted
    if neither.any():
        yield f"F1 is undefined for labels without an example and a prediction, counted as 0: {_those(neither, names)}"
    yield from _undefined_by_name(true, predicted, names, "label", "labels")


def correlations(gold: NDArray[Any], predicted: NDArray[Any]) -> Scores:
    """``pearson`` and ``spearman`` of two rows of numbers, as STS-B has it."""
    from scipy.stats import pearsonr, spearmanr

    check_lengths(gold, predicted)
    values = {"pearson": 0.0, "spearman": 0.0}
    why = _why_uncorrelated(np.asarray(gold, dtype=np.float64), np.asarray(predicted, dtype=np.float64))
    if why:
        return Scores(values, (f"Pearson and Spearman correlation are undefined: {why}; counted as 0",))
    notes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what scipy warns of ends as a value that is not a number
        for name, correlate in (("pearson", pearsonr), ("spearman", spearmanr)):
            value = float(correlate(gold, predicted).statistic)
            if np.isfinite(value):
                values[name] = value
            else:
                notes.append(
                    f"{name.title()} correlation is undefined: the values are too close together; counted as 0"
                )
    return Scores(values, tuple(notes))


def _why_uncorrelated(gold: NDArray[np.float64], predicted: NDArray[np.float64]) -> str | None:
    if len(gold) == 1:
        return "there is one example"
    for values, what in ((gold, "true values"), (predicted, "predictions")):
        strange = int((~np.isfinite(values)).sum())
        if strange:
            return f"{strange:,} of {len(values):,} {what} are not finite numbers"
        if (values == values[0]).all():
            return f"all {what} are equal"
    return None
