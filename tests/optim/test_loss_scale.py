"""How the loss scale moves."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from bertjobs.optim.loss_scale import DynamicLossScale


def after(scale: DynamicLossScale, skips: list[bool]) -> DynamicLossScale:
    for skipped in skips:
        scale = scale.update(skipped)
    return scale


def test_it_starts_at_two_to_the_twentieth_and_halves_at_a_skip() -> None:
    assert DynamicLossScale().scale == 2**20
    assert after(DynamicLossScale(), [True]).scale == 2**19
    assert after(DynamicLossScale(), [True] * 50).scale == 1


def test_it_doubles_after_2000_steps_without_a_skip() -> None:
    assert after(DynamicLossScale(), [False] * 1999).scale == 2**20
    assert after(DynamicLossScale(), [False] * 2000).scale == 2**21
    assert after(DynamicLossScale(), [False] * 4000).scale == 2**22
    assert after(DynamicLossScale(), [False] * 1999 + [True] + [False] * 1999).scale == 2**19
    assert after(DynamicLossScale(), [False] * 1999 + [True] + [False] * 2000).scale == 2**20


@given(st.integers(0, 40), st.lists(st.booleans(), max_size=60), st.lists(st.booleans(), max_size=60))
def test_a_saved_state_continues(exponent: int, before: list[bool], rest: list[bool]) -> None:
    scale = after(DynamicLossScale(2.0**exponent, clean_steps=1970), before)
    restored = DynamicLossScale.from_state_dict(json.loads(json.dumps(scale.state_dict())))
    assert restored == scale
    assert after(restored, rest) == after(scale, rest)
