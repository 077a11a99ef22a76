"""The measured lead time of a stop."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.train.checkpoint.stop_time import FIXED_S, MARGIN, RECENT, WARM_UP, Lead

SECONDS = st.floats(0, 1e4)


def after(steps: list[float], checkpoints: list[float], asked: float | None = None) -> Lead:
    lead = Lead(asked)
    for seconds in steps:
        lead.after_step(seconds)
    for seconds in checkpoints:
        lead.after_checkpoint(seconds)
    return lead


@given(st.lists(SECONDS, max_size=60), st.lists(SECONDS, max_size=5))
def test_the_lead_covers_the_longest_recent_step_and_the_longest_checkpoint(
    steps: list[float], checkpoints: list[float]
) -> None:
    counted = (steps[WARM_UP:] or steps)[-RECENT:]
    expected = MARGIN * (max(counted, default=0) + max(checkpoints, default=0)) + FIXED_S
    assert after(steps, checkpoints).seconds == pytest.approx(expected)


def test_a_validation_may_come_before_the_checkpoint() -> None:
    lead = after([2.0, 2.0, 2.0], [40.5], asked=120)
    assert lead.warning() is None
    lead.after_validation(60.0)
    lead.after_validation(50.0)
    assert lead.seconds == MARGIN * (2 + 60 + 40.5) + FIXED_S
    assert "validation 60.0 s" in str(lead.warning())


@given(st.lists(SECONDS, min_size=1, max_size=5))
def test_checkpoints_never_shorten_the_lead(checkpoints: list[float]) -> None:
    leads = [after([1.0], checkpoints[:count]).seconds for count in range(len(checkpoints) + 1)]
    assert all(earlier <= later for earlier, later in pairwise(leads))


def test_steps_of_the_warm_up_count_only_while_there_are_no_others() -> None:
    assert after([60.0], []).seconds == MARGIN * 60 + FIXED_S
    assert after([60.0, 30.0, 2.0], []).seconds == MARGIN * 2 + FIXED_S


def test_a_lead_that_is_too_short_gets_a_warning_with_one_that_suffices() -> None:
    long = after([9.0, 9.0, 2.0], [40.5], asked=60)
    assert long.words() == "a stop needs 69 s: 1.5 x (step 2.0 s + checkpoint 40.5 s) + 5 s"
    warning = long.warning()
    assert warning is not None
    assert "60 s before the time limit" in warning
    assert "--signal=USR2@69" in warning
    assert after([2.0], [40.5], asked=69).warning() is None
    assert after([2.0], [40.5]).warning() is None
