"""How attempts ended, and when there may be one more."""

from __future__ import annotations

from typing import Any

import pytest

from bertjobs.run.attempts import cause_by_slurm, is_open, own_events, refusal


def started(step: int, attempt: int = 0, job: str = "7", phase: int = 1) -> dict[str, Any]:
    return {"event": "started", "phase": phase, "job": job, "attempt": attempt, "step": step}


def ended(cause: str, attempt: int = 0, job: str = "7", phase: int = 1) -> dict[str, Any]:
    return {"event": "ended", "phase": phase, "job": job, "attempt": attempt, "cause": cause}


def test_only_the_starts_and_ends_of_the_job_s_phase_count() -> None:
    mine = [started(0), ended("SIGUSR2")]
    others = [{"event": "submitted", "phase": 1, "job": "7"}, started(0, job="8"), ended("crashed", phase=2)]
    assert own_events([others[0], mine[0], others[1], others[2], mine[1]], 1, "7") == mine


def test_an_attempt_without_an_end_is_open() -> None:
    assert not is_open([])
    assert is_open([started(0)])
    assert not is_open([started(0), ended("crashed")])
    assert is_open([started(0), ended("crashed"), started(5, 1)])


@pytest.mark.parametrize(
    ("state", "cause"),
    [("NODE_FAIL", "node failed"), ("PREEMPTED", "preempted"), ("OUT_OF_MEMORY", "out of memory"),
     ("TIMEOUT", "time limit"), ("CANCELLED by 0", "crashed"), ("REQUEUED", "crashed"), ("", "crashed")],
)  # fmt: skip
def test_slurm_s_states_have_causes(state: str, cause: str) -> None:
    assert cause_by_slurm(state) == cause


def attempts(*causes: str) -> list[dict[str, Any]]:
    return [event for n, cause in enumerate(causes) for event in (started(10 * n, n), ended(cause, n))]


def test_each_cause_has_a_budget_of_its_own() -> None:
    budgets = {"crashed": 2, "node failed": 1, "time limit": 3}
    assert refusal(attempts("crashed", "crashed", "node failed"), budgets, 30) is None
    assert "3 attempts ended by: crashed; the recipe allows 2" in str(refusal(attempts(*["crashed"] * 3), budgets, 30))
    assert "2 attempts ended by: node failed" in str(refusal(attempts(*["node failed"] * 2), budgets, 20))


def test_a_signal_counts_as_what_it_stands_for() -> None:
    assert refusal(attempts("SIGUSR2", "SIGUSR2", "SIGTERM"), {"time limit": 2, "preempted": 1}, 30) is None
    assert "time limit" in str(refusal(attempts("SIGUSR2", "SIGUSR2"), {"time limit": 1}, 20))


def test_after_a_crash_there_must_be_progress() -> None:
    assert "began at step 10 too" in str(refusal([started(10), ended("crashed")], {"crashed": 9}, 10))
    assert refusal([started(10), ended("crashed")], {"crashed": 9}, 11) is None
    assert refusal([started(10), ended("node failed")], {"node failed": 9}, 10) is None
    assert refusal([started(10), ended("SIGTERM")], {}, 10) is None
