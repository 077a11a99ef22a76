"""The learning rate, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_polynomial_decay_schedule_with_warmup

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


@pytest.mark.parametrize(
    ("decay", "rates"),
    [
        ({"decay": "linear"}, [0, 1, 2, 1.5, 1, 0.5, 0]),
        ({"decay": "linear", "power": 2, "end": 0.4}, [0, 1, 2, 0.4 + 1.6 * 0.5625, 0.8, 0.5, 0.4]),
        ({"decay": "cosine", "end": 0.4}, [0, 1, 2, 0.4 + 0.8 * (1 + 0.5**0.5), 1.2, 0.4 + 0.8 * (1 - 0.5**0.5), 0.4]),
        ({"decay": "constant"}, [0, 1, 2, 2, 2, 2, 2]),
    ],
)
def test_six_steps_by_hand(decay: dict[str, Any], rates: list[float]) -> None:
    given = [learning_rate(step, base=2.0, warmup=1 / 3, total=6, **decay) for step in range(7)]
    assert given == pytest.approx(rates, abs=1e-12)
    assert learning_rate(1000, base=2.0, warmup=1 / 3, total=6, **decay) == rates[-1]


@pytest.mark.parametrize(("decay", "total", "end"), [("linear", 300, 0.0), ("cosine", 300, 0.0), ("linear", 300, 1e-5)])
def test_the_decays_are_those_of_others(decay: str, total: int, end: float) -> None:
    """Hugging Face's schedules, which are PyTorch's LambdaLR."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=1e-3)
    if decay == "cosine":
        theirs = get_cosine_schedule_with_warmup(sgd, 30, total)
    else:
        theirs = get_polynomial_decay_schedule_with_warmup(sgd, 30, total, lr_end=end, power=3.0)
    for step in range(total):
        power = 3.0 if decay == "linear" else 1.0
        ours = learning_rate(step, base=1e-3, warmup=0.1, total=total, decay=decay, power=power, end=end)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-9, abs=1e-15)
        sgd.step()
        theirs.step()


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
