"""The learning rate, against numbers worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.optim.schedule import learning_rate


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.4),  # x = 0.1: 2 * 0.1 / 0.5
        (3, 1.6),  # x = 0.4
        (4, 2.0 * 0.5**0.5),  # x = 0.5 is no longer warm-up: it jumps down
        (8, 2.0 * 0.1**0.5),  # x = 0.9
        (9, 0.0),  # x = 1
        (10, 0.0),
        (1000, 0.0),
    ],
)
def test_ten_steps_by_hand(step: int, rate: float) -> None:
    assert learning_rate(step, base=2.0, warmup=0.5, total=10) == pytest.approx(rate, abs=1e-12)


def test_the_published_phase_one() -> None:
    published = {"base": 6e-3, "warmup": 0.2843, "total": 7038}
    # 0.2843 * 7038 = 2000.9: the 2,000th step is the last of the warm-up
    assert learning_rate(0, **published) == pytest.approx(6e-3 / 2000.9034, rel=1e-6)
    assert learning_rate(1999, **published) == pytest.approx(6e-3 * 2000 / 2000.9034, rel=1e-6)
    assert learning_rate(2000, **published) == pytest.approx(6e-3 * (1 - 2001 / 7038) ** 0.5, rel=1e-9)
    assert learning_rate(2000, **published) < 0.85 * learning_rate(1999, **published)
    assert learning_rate(7037, **published) == 0.0


@given(total=st.integers(1, 300), warmup=st.floats(0, 1), base=st.floats(1e-6, 1))
def test_the_rate_rises_then_falls_and_stays_in_range(total: int, warmup: float, base: float) -> None:
    rates = [learning_rate(step, base=base, warmup=warmup, total=total) for step in range(total + 1)]
    assert all(0.0 <= rate <= base for rate in rates)
    rising = sum((step + 1) / total < warmup for step in range(total))
    assert rates[:rising] == sorted(rates[:rising])
    assert rates[rising:] == sorted(rates[rising:], reverse=True)
    assert rates[total - 1] == rates[total] == 0.0
