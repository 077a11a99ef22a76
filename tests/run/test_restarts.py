"""How attempts ended, and when another one is allowed."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from bertjobs.run.causes import Cause
from bertjobs.run.restarts import (
    NotRestartedError,
    beyond_budget,
    cause_by_slurm,
    causes,
    chain_events,
    explanation,
    is_open,
    no_progress,
)


def started(step: int, attempt: int = 0, job: str = "7", phase: int = 1) -> dict[str, Any]:
    return {"event": "started", "phase": phase, "job": job, "attempt": attempt, "step": step}


def ended(cause: str, attempt: int = 0, job: str = "7", phase: int = 1) -> dict[str, Any]:
    return {"event": "ended", "phase": phase, "job": job, "attempt": attempt, "cause": cause}


def test_only_the_starts_and_ends_of_the_job_s_phase_count() -> None:
    """A job that was queued by hand is its own chain."""
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
    assert causes(events) == {("7", 0): Cause.SIGTERM}
    assert causes([*events, explained]) == {("7", 0): "cancelled"}


def test_an_attempt_without_an_end_is_open() -> None:
    assert not is_open([])
    assert is_open([started(0)])
    assert not is_open([started(0), ended("crashed")])
    assert is_open([started(0), ended("crashed"), started(5, 1)])


@pytest.mark.parametrize(
    ("state", "cause"),
    [("NODE_FAIL", Cause.NODE_FAILURE), ("PREEMPTED", Cause.PREEMPTED), ("OUT_OF_MEMORY", Cause.HOST_MEMORY),
     ("TIMEOUT", Cause.TIME_LIMIT), ("CANCELLED by 0", Cause.CANCELLED), ("REQUEUED", Cause.CRASHED),
     ("FAILED", Cause.CRASHED), ("", Cause.CRASHED)],
)  # fmt: skip
def test_slurm_s_states_have_causes(state: str, cause: Cause) -> None:
    assert cause_by_slurm(state) is cause


def attempts(*causes: str) -> list[dict[str, Any]]:
    return [event for n, cause in enumerate(causes) for event in (started(10 * n, n), ended(cause, n))]


def refusal(events: list[dict[str, Any]], budgets: dict[str, int]) -> tuple[str, Cause]:
    refused = beyond_budget(events, budgets)
    assert refused is not None
    return refused.words, refused.spent_by


def test_each_cause_has_a_budget_of_its_own() -> None:
    budgets = {"crashed": 2, "node_failed": 1, "time_limit": 3, "out_of_memory": 1}
    assert beyond_budget(attempts("crashed", "crashed", "node failure"), budgets) is None
    assert refusal(attempts(*["crashed"] * 3), budgets) == (
        "3 attempts crashed; the recipe allows 2 restarts after a crash",
        Cause.CRASHED,
    )
    for second in ("node failure", "unfit node", "node failed", "unfit nodes"):
        words, cause = refusal(attempts("node failure", second), budgets)
        assert words == "2 attempts lost a node; the recipe allows 1 restart after a node failure"
        assert cause in (Cause.NODE_FAILURE, Cause.UNFIT_NODE)
    words, cause = refusal(attempts("out of host memory", "out of GPU memory"), budgets)
    assert words == "2 attempts ran out of memory; the recipe allows 1 restart after running out of memory"
    assert cause is Cause.GPU_MEMORY, "the last attempt that counts"
    assert refusal(attempts("hang", "lost rank", "gradients not finite"), budgets)[1] is Cause.GRADIENTS


def test_attempts_that_never_began_do_not_count() -> None:
    twice = [*attempts("crashed", "crashed"), ended("not restarted", 2)]
    assert beyond_budget(twice, {"crashed": 2}) is None
    repeated = [started(10), ended("crashed"), started(10, 1), ended("crashed", 1), ended("not restarted", 2)]
    assert no_progress(repeated, 10) is not None, "nor does it allow the next attempt"


def test_a_signal_counts_as_what_it_stands_for() -> None:
    assert beyond_budget(attempts("SIGUSR2", "SIGUSR2", "SIGTERM"), {"time_limit": 2, "preempted": 1}) is None
    assert "reached the time limit" in refusal(attempts("SIGUSR2", "SIGUSR2"), {"time_limit": 1})[0]


def test_two_crashes_at_the_same_step_need_progress_before_another_attempt() -> None:
    twice = [started(10), ended("out of GPU memory"), started(10, 1), ended("crashed", 1)]
    assert "also began at step 10" in str(no_progress(twice, 10))
    assert no_progress(twice, 11) is None
    assert no_progress(twice[:2], 10) is None, "the newest checkpoint may have been damaged"
    assert no_progress([started(5), *twice[1:]], 10) is None
    assert no_progress(twice, 5) is None, "the checkpoint of step 10 has proved damaged"
    assert no_progress([*twice[:3], ended("node failure", 1)], 10) is None
    assert no_progress([*twice[:3], ended("SIGTERM", 1)], 10) is None


def test_a_refusal_reaches_another_process_whole() -> None:
    error = NotRestartedError("job 7 was not restarted", spent_by=Cause.GPU_MEMORY, where="jobs.jsonl", hint="look")
    copy = pickle.loads(pickle.dumps(error))
    assert copy.render() == error.render()
    assert (copy.cause, copy.spent_by, copy.exit_code) == (Cause.NOT_RESTARTED, Cause.GPU_MEMORY, 64)
    assert error.render().splitlines()[-2:] == ["  cause: not restarted", "  restarts used up by: out of GPU memory"]
