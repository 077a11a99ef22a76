"""How many jobs a phase takes under a time limit."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from bertjobs.launch.plan.job_count import Links, links


def test_a_phase_of_ten_hours_in_jobs_of_four() -> None:
    # 14,400 s less 120 s of start-up and 120 s of lead: 1,416 steps of 10 s, and 3,600 of them to do.
    assert links(3600, 10.0, 14_400.0) == Links(count=3, steps_each=1416, seconds=3 * 120 + 36_000)


def test_without_a_limit_one_job_does_all() -> None:
    assert links(7038, 4.0, math.inf) == Links(1, 7038, 120 + 4 * 7038)


def test_a_limit_that_leaves_no_time_for_a_step_never_ends() -> None:
    assert links(10, 60.0, 299.0) is None
    assert links(10, 60.0, 300.0) == Links(10, 1, 10 * 180.0)
    assert links(10, 60.0, 60.0) is None


@given(
    steps=st.integers(1, 10_000),
    step_s=st.floats(0.01, 1000),
    limit_s=st.floats(1, 1e6),
    lead_s=st.floats(0, 600),
    start_up_s=st.floats(0, 600),
)
def test_that_many_jobs_do_all_steps_and_one_fewer_does_not(
    steps: int, step_s: float, limit_s: float, lead_s: float, start_up_s: float
) -> None:
    jobs = links(steps, step_s, limit_s, lead_s=lead_s, start_up_s=start_up_s)
    if jobs is None:
        assert start_up_s + step_s + lead_s > limit_s * (1 - 1e-9)
        return
    assert (jobs.count - 1) * jobs.steps_each < steps <= jobs.count * jobs.steps_each
    assert start_up_s + jobs.steps_each * step_s + lead_s <= limit_s * (1 + 1e-9)
    assert jobs.seconds >= steps * step_s
