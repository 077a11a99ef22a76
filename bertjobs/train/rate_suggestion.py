"""What a range test says: losses against rising learning rates, smoothed, and the rate that they suggest.

The suggestion is the rate at which the smoothed loss falls most steeply (Smith, arXiv 1506.01186 and 1708.07120, in the
form in which it is commonly used). Rates are compared by their decimal logarithm, in decades.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEWEST_STEPS = 20
"""A test that plans fewer steps says nothing."""

FEWEST_LOSSES = 5
"""A test that ended before it had so many diverged at once."""

DIVERGED = 4.0
"""How many times its lowest value the smoothed loss is when a test is over."""

WIDTH = 0.3
"""Standard deviation of the smoothing, in decades; at most ``SHARE_OF_RANGE`` of those that the rates span."""
SHARE_OF_RANGE = 0.06

CERTAIN = 5.0
"""A fall counts from this many standard errors on, and from ``SMALLEST_FALL`` of the first loss."""
SMALLEST_FALL = 0.02

AT_ONCE, RISEN = 1.0, 2.0
"""A smoothed loss that was never lower, and is ``RISEN`` times the first before so many decades, diverges at once."""


@dataclass(frozen=True)
class Suggestion:
    """What a curve suggests.

    Attributes:
        rate: the learning rate; None if the curve suggests none.
        why: what that follows from, in a sentence without its full stop.
        lowest: index of the lowest smoothed loss.
    """

    rate: float | None
    why: str
    lowest: int


def rising_rates(low: float, high: float, steps: int) -> list[float]:
    """``steps`` rates from ``low`` to ``high``, each the same number of times the one before."""
    return np.geomspace(low, high, steps).tolist()


def smoothed(rates: Sequence[float], losses: Sequence[float]) -> Floats:
    """The mean of the losses around each rate, by a normal weight in decades: symmetric, so that nothing is shifted."""
    weights = _weights(np.log10(rates))
    return weights @ np.asarray(losses, dtype=np.float64) / weights.sum(1)


def has_diverged(rates: Sequence[float], losses: Sequence[float]) -> bool:
    """Whether a test is over: its smoothed loss is ``DIVERGED`` times as high as it was, and higher than at first."""
    values = smoothed(rates, losses)
    return bool(values[-1] > max(DIVERGED * values.min(), values[0]))


def suggest(rates: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """The rate of the steepest fall before the lowest smoothed loss, if the loss falls by more than it varies.

    Args:
        rates, losses: of a test, in its order, at least one; the losses are finite.
    """
    decades, values, heights = np.log10(rates), smoothed(rates, losses), np.asarray(losses, dtype=np.float64)
    weights, lowest = _weights(decades), int(values.argmin())
    at_once = values[decades - decades[0] < AT_ONCE].max() > RISEN * values[0]
    if len(heights) < FEWEST_LOSSES or (at_once and lowest == 0):
        return Suggestion(None, "the loss diverges at once: begin at a lower rate", lowest)
    if values[0] - values[lowest] <= _certain_difference(heights, weights, lowest):
        return Suggestion(None, "the loss falls nowhere by more than it varies from step to step", lowest)
    steepest = int(_slopes(decades, heights, weights)[: lowest + 1].argmin())
    why = "the smoothed loss falls most steeply there"
    if steepest == 0:
        why += ", at the lowest rate: a lower one may be better"
    elif steepest == len(rates) - 1:
        why += ", at the highest rate: a higher one may be better"
    return Suggestion(float(rates[steepest]), why, lowest)


def _weights(decades: Floats) -> Floats:
    """What each loss counts around each rate, ``[rates, rates]``."""
    width = min(WIDTH, SHARE_OF_RANGE * max(decades[-1] - decades[0], 1e-9))
    return np.exp(-0.5 * ((decades[:, None] - decades[None, :]) / width) ** 2)


def _slopes(decades: Floats, losses: Floats, weights: Floats) -> Floats:
    """The slope around each rate, per decade: that of the straight line that fits best by the same weights."""
    shares = weights / weights.sum(1, keepdims=True)
    offsets = decades[None, :] - (shares @ decades)[:, None]
    return (shares * offsets) @ losses / (shares * offsets**2).sum(1)


def _certain_difference(losses: Floats, weights: Floats, lowest: int) -> float:
    """By how much the first and the lowest smoothed loss differ at least, if that isn't chance.

    How much losses vary is read off the median of their second differences: no jump counts, nor a steady change.
    """
    differences = np.abs(np.diff(losses[: max(lowest, len(losses) // 2) + 1], n=2))
    deviation = 1.4826 * float(np.median(differences)) / np.sqrt(6)  # for a normal distribution
    averaged = weights.sum(1) ** 2 / (weights**2).sum(1)
    error = deviation * np.sqrt(1 / averaged[0] + 1 / averaged[lowest])
    return max(CERTAIN * error, SMALLEST_FALL * abs(float(losses[0])))
