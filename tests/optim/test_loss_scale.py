"""How the loss scale moves, or stays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.optim.loss_scale import DynamicLossScale, LossScale, StaticLossScale, initial_loss_scale


def after(scale: LossScale, skips: list[bool]) -> LossScale:
    for skipped in skips:
        scale = scale.update(skipped)
    return scale


def test_a_dynamic_loss_scale_starts_at_two_to_the_twentieth_and_halves_at_a_skip() -> None:
    assert DynamicLossScale().scale == 2**20
    assert after(DynamicLossScale(), [True]).scale == 2**19
    assert after(DynamicLossScale(), [True] * 50).scale == 1


def test_a_dynamic_loss_scale_doubles_after_2000_steps_without_a_skip() -> None:
    assert after(DynamicLossScale(), [False] * 1999).scale == 2**20
    assert after(DynamicLossScale(), [False] * 2000).scale == 2**21
    assert after(DynamicLossScale(), [False] * 4000).scale == 2**22
    assert after(DynamicLossScale(), [False] * 1999 + [True] + [False] * 1999).scale == 2**19
    assert after(DynamicLossScale(), [False] * 1999 + [True] + [False] * 2000).scale == 2**20


@given(st.lists(st.booleans(), max_size=60))
def test_a_static_loss_scale_never_moves(skips: list[bool]) -> None:
    assert after(StaticLossScale(1024.0), skips) == StaticLossScale(1024.0)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("factor", [0.0, 4096.0])
def test_only_fp16_is_scaled(precision: str, factor: float) -> None:
    scale = initial_loss_scale(precision, factor)
    assert scale.scale == 1
    assert after(scale, [True] * 3 + [False] * 3000).scale == 1


def test_the_recipes_factor_decides_between_dynamic_and_static() -> None:
    assert initial_loss_scale("fp16", 0.0) == DynamicLossScale()
    assert initial_loss_scale("fp16", 4096.0) == StaticLossScale(4096.0)


@given(st.integers(0, 40), st.lists(st.booleans(), max_size=60), st.lists(st.booleans(), max_size=60))
def test_a_saved_dynamic_loss_scale_continues(exponent: int, before: list[bool], rest: list[bool]) -> None:
    scale = after(DynamicLossScale(2.0**exponent, clean_steps=1970), before)
    restored = DynamicLossScale().restored(json.loads(json.dumps(scale.state_dict())))
    assert restored == scale
    assert after(restored, rest) == after(scale, rest)


@pytest.mark.parametrize("stored", [DynamicLossScale(2.0**13, 77), StaticLossScale(128.0)])
def test_the_recipe_decides_how_a_saved_loss_scale_is_used(stored: LossScale) -> None:
    state = json.loads(json.dumps(stored.state_dict()))
    assert initial_loss_scale("bf16", 0.0).restored(state) == StaticLossScale(1.0)
    assert initial_loss_scale("fp16", 512.0).restored(state) == StaticLossScale(512.0)
    dynamic = initial_loss_scale("fp16", 0.0).restored(state)
    assert isinstance(dynamic, DynamicLossScale)
    assert dynamic.scale == stored.scale
