"""What every metric answers with: numbers by name, and in words what was undefined or left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bertjobs.errors import InputError

NOT_SCORES = ("phase", "step", "validation_s", "examples", "tuned", "notes")
"""The fields of a line of validation.jsonl that are neither a loss nor a measure."""

NAMED = 5
"""How many names a note lists before it counts the rest."""


@dataclass(frozen=True)
class Scores:
    """``values`` are shares from 0 to 1 (correlations from -1 to 1), counts, and thresholds in the unit of what they
    cut; ``f1/PER`` is the F1 of PER alone. What is undefined has the value 0, and ``notes`` say so, a sentence each."""

    values: dict[str, float]
    notes: tuple[str, ...] = ()


def scores_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The dev losses and measures in a line of validation.jsonl."""
    return {key: value for key, value in line.items() if key not in NOT_SCORES and isinstance(value, float | int)}


def share(part: float, whole: float) -> float:
    """``part / whole``, and 0 of nothing."""
    return part / whole if whole else 0.0


def f1_of(precision: float, recall: float) -> float:
    """Their harmonic mean, 0 if both are 0."""
    return share(2 * precision * recall, precision + recall)


def listed(names: Iterable[str]) -> str:
    """``a, b, c, d, e and 3 more``."""
    rest = iter(names)
    first = ", ".join(islice(rest, NAMED))
    more = sum(1 for _ in rest)
    return first + (f" and {more:,} more" if more else "")


def check_lengths(gold: Sized, predicted: Sized, noun: str = "example") -> None:
    """Raise InputError if there is nothing to score, or not one prediction each."""
    if len(gold) != len(predicted):
        raise InputError(
            f"the numbers of predictions and of {noun}s differ: {len(predicted):,} and {len(gold):,}",
            hint="score the predictions with the file that they were made from",
        )
    if not len(gold):
        raise InputError(f"there is no {noun} to score")
