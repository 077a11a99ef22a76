"""How attempts ended, and when there may be one more."""

from __future__ import annotations

from typing import Any

import pytest

from bertjobs.run.restarts import (
    beyond_budget,
    cause_by_slurm,
    causes,
    chain_events,
    explanation,
    in_circles,
    is_open,
)


def started(step: int, attempt: int = 0, job: str = "7", phase: int = 1) -> dict[str, Any]:
    return {"event": "started", "phase": phase, "job": job, "attempt": attempt, "step": step}


def ended(cause: str, attempt: int = 0, job: str = "7", phase: int = 1) -> dict[str, Any]:
    return {"event": "ended", "phase": phase, "job": job, "attempt": attempt, "cause": cause}


def test_only_the_starts_and_ends_of_the_job_s_phase_count() -> None:
    """A job that was queued by hand is a chain of its own."""
    mine = [started(0), ended("SIGUSR2")]
    others = [{"event": "submitted", "phase": 1, "job": "7"}, started(0, job="8"), ended("crashed", phase=2)]
    assert chain_events([others[0], mine[0], others[1], others[2], mine[1]], 1, "7") == mine


def test_the_jobs_of_a_submission_are_one_chain() -> None:
    first, second = started(0) | {"chain": "chain-1"}, started(5, job="8") | {"chain": "chain-1"}
    other = started(0, job="9") | {"chain": "chain-2"}
    assert chain_events([first, other, second], 1, "chain-1") == [first, second]


def test_what_slurm_says_explains_a_signal() -> None:
    events = [started(0), ended("SIGTERM")]
    assert explanation(events, "CANCELLED by 0") == "cancelled"
    assert explanation(events, "PREEMPTED") == "preempted"
    assert explanation(events, "REQUEUED") == "requeued"
    assert explanation(events, "COMPLETED") is None
    assert explanation([started(0), ended("bad input")], "CANCELLED") is None
    assert explanation([started(0)], "CANCELLED") is None
    explained = {"event": "explained", "phase": 1, "job": "7", "attempt": 0, "cause": "cancelled"}
    assert causes(events) == {("7", 0): "preempted"}
    assert causes([*events, explained]) == {("7", 0): "cancelled"}


def test_an_attempt_without_an_end_is_open() -> None:
    assert not is_open([])
    assert is_open([started(0)])
    assert not is_open([started(0), ended("crashed")])
    assert is_open([started(0), ended("crashed"), started(5, 1)])


@pytest.mark.parametrize(
    ("state", "cause"),
    [("NODE_FAIL", "node failed"), ("PREEMPTED", "preempted"), ("OUT_OF_MEMORY", "out of memory"),
     ("TIMEOUT", "time limit"), ("CANCELLED by 0", "cancelled"), ("REQUEUED", "crashed"), ("", "crashed")],
)  # fmt: skip
def test_slurm_s_states_have_causes(state: str, cause: str) -> None:
    assert cause_by_slurm(state) == cause


def attempts(*causes: str) -> list[dict[str, Any]]:
    return [event for n, cause in enumerate(causes) for event in (started(10 * n, n), ended(cause, n))]


def test_each_cause_has_a_budget_of_its_own() -> None:
    budgets = {"crashed": 2, "node failed": 1, "time limit": 3}
    assert beyond_budget(attempts("crashed", "crashed", "node failed"), budgets) is None
    assert "3 attempts ended by: crashed; the recipe allows 2" in str(
        beyond_budget(attempts(*["crashed"] * 3), budgets)
    )
    assert "2 attempts ended by: node failed" in str(beyond_budget(attempts(*["node failed"] * 2), budgets))
    assert "2 attempts ended by: node failed" in str(beyond_budget(attempts("node failed", "unfit nodes"), budgets))


def test_a_signal_counts_as_what_it_stands_for() -> None:
    assert beyond_budget(attempts("SIGUSR2", "SIGUSR2", "SIGTERM"), {"time limit": 2, "preempted": 1}) is None
    assert "time limit" in str(beyond_budget(attempts("SIGUSR2", "SIGUSR2"), {"time limit": 1}))


def test_after_two_crashes_at_the_same_place_there_must_be_progress() -> None:
    twice = [started(10), ended("crashed"), started(10, 1), ended("crashed", 1)]
    assert "began at step 10 too" in str(in_circles(twice, 10))
    assert in_circles(twice, 11) is None
    assert in_circles(twice[:2], 10) is None, "the newest checkpoint may have been damaged"
    assert in_circles([started(5), *twice[1:]], 10) is None
    assert in_circles([*twice[:3], ended("node failed", 1)], 10) is None
    assert in_circles([*twice[:3], ended("SIGTERM", 1)], 10) is None
