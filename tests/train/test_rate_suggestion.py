"""What a range test's curve suggests: made curves whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bertjobs.train.rate_suggestion import DIVERGED, has_diverged, rising_rates, smoothed, suggest

Floats = NDArray[np.float64]
LOW, HIGH = 1e-7, 1.0


def falling(rates: list[float], middle: float, start: float, fall: float, noise: float = 0.0, seed: int = 0) -> Floats:
    """Losses that fall most steeply at 10^middle, and rise steeply from a decade later on."""
    decades = np.log10(rates)
    step = fall / (1 + np.exp(-4 * (decades - middle)))
    rise = 5 * start * np.maximum(0, decades - middle - 1) ** 2
    return start - step + rise + noise * np.random.default_rng(seed).normal(size=len(rates))


@given(
    middle=st.floats(-6, -1.5),
    steps=st.integers(60, 400),
    start=st.floats(0.05, 20),
    share=st.floats(0.3, 0.9),
)
def test_the_steepest_fall_of_a_smooth_curve(middle: float, steps: int, start: float, share: float) -> None:
    rates = rising_rates(LOW, HIGH, steps)
    suggestion = suggest(rates, falling(rates, middle, start, share * start).tolist())
    assert suggestion.rate is not None
    assert np.log10(suggestion.rate) == pytest.approx(middle, abs=0.15 + 7 / steps)
    assert suggestion.rate < rates[suggestion.lowest]


@given(middle=st.floats(-6, -1.5), seed=st.integers(0, 10**6))
def test_the_steepest_fall_of_a_noisy_curve(middle: float, seed: int) -> None:
    rates = rising_rates(LOW, HIGH, 100)
    suggestion = suggest(rates, falling(rates, middle, 0.7, 0.4, 0.03, seed).tolist())
    assert suggestion.rate is not None
    assert np.log10(suggestion.rate) == pytest.approx(middle, abs=0.7)


@given(
    losses=st.lists(st.floats(0, 1e6), min_size=1, max_size=60),
    low=st.floats(1e-9, 1e-3),
    decades=st.floats(0.1, 9),
)
def test_whatever_the_losses_a_suggestion_lies_within_the_rates(
    losses: list[float], low: float, decades: float
) -> None:
    rates = rising_rates(low, low * 10**decades, 60)[: len(losses)]
    suggestion = suggest(rates, losses)
    assert suggestion.rate is None or suggestion.rate in rates
    smooth = smoothed(rates, losses)
    assert min(losses) * (1 - 1e-9) <= smooth.min() <= smooth.max() <= max(losses) * (1 + 1e-9)


@given(middle=st.floats(-6, -1.5), factor=st.floats(1e-3, 1e3))
def test_the_unit_of_the_loss_does_not_matter(middle: float, factor: float) -> None:
    rates = rising_rates(LOW, HIGH, 100)
    losses = falling(rates, middle, 0.7, 0.4, 0.02)
    assert suggest(rates, losses.tolist()).rate == pytest.approx(suggest(rates, (factor * losses).tolist()).rate)


@given(level=st.floats(0, 100, allow_subnormal=False), steps=st.integers(20, 200))
def test_a_flat_curve_suggests_nothing(level: float, steps: int) -> None:
    suggestion = suggest(rising_rates(LOW, HIGH, steps), [level] * steps)
    assert suggestion.rate is None
    assert "falls nowhere" in suggestion.why


def test_noise_alone_suggests_hardly_ever_anything() -> None:
    draw = np.random.default_rng(1)
    curves = [(0.7 + 0.08 * draw.normal(size=steps)).tolist() for steps in draw.integers(20, 200, 500)]
    suggested = [suggest(rising_rates(LOW, HIGH, len(losses)), losses).rate is not None for losses in curves]
    assert sum(suggested) <= 5


@given(speed=st.floats(1.5, 6), steps=st.integers(20, 200))
def test_a_loss_that_only_rises_diverges_at_once(speed: float, steps: int) -> None:
    rates = rising_rates(LOW, HIGH, steps)
    losses = (0.7 * 10 ** (speed * (np.log10(rates) + 7))).tolist()
    made = next(number for number in range(1, steps + 1) if has_diverged(rates[:number], losses[:number]))
    suggestion = suggest(rates[:made], losses[:made])
    assert suggestion.rate is None
    assert "diverges at once" in suggestion.why


def test_flat_for_decades_and_then_diverging_is_not_diverging_at_once() -> None:
    rates = rising_rates(LOW, HIGH, 100)
    losses = [0.7 if rate < 1e-3 else 0.7 * rate * 1e3 for rate in rates]
    suggestion = suggest(rates, losses)
    assert suggestion.rate is None
    assert "falls nowhere" in suggestion.why


@pytest.mark.parametrize(("low", "high", "words"), [(-5.0, 1.0, "a lower one"), (-9.0, -5.0, "a higher one")])
def test_a_fall_at_the_edge_is_said(low: float, high: float, words: str) -> None:
    rates = rising_rates(10**low, 10**high, 100)
    suggestion = suggest(rates, falling(rates, -5, 0.7, 0.6).tolist())
    assert suggestion.rate in (rates[0], rates[-1])
    assert words in suggestion.why


def test_a_test_is_over_when_the_loss_has_risen_enough_and_is_above_its_start() -> None:
    rates = rising_rates(LOW, HIGH, 100)
    losses = falling(rates, -4, 0.7, 0.4)
    over = [number for number in range(1, 101) if has_diverged(rates[:number], losses[:number].tolist())]
    assert over == list(range(over[0], 101))
    smooth = smoothed(rates[: over[0]], losses[: over[0]].tolist())
    assert DIVERGED * smooth.min() < smooth[-1] < 2 * DIVERGED * smooth.min()


def test_a_loss_that_is_high_only_beside_a_very_low_one_is_not_over() -> None:
    rates = rising_rates(LOW, HIGH, 100)
    losses = [1.0] * 50 + [0.01] * 25 + [0.5] * 25
    assert not any(has_diverged(rates[:number], losses[:number]) for number in range(1, 101))


def test_rates_rise_by_the_same_factor() -> None:
    rates = rising_rates(1e-6, 1e-1, 51)
    assert (rates[0], rates[-1]) == (pytest.approx(1e-6), pytest.approx(1e-1))
    assert np.diff(np.log10(rates)) == pytest.approx(0.1)
