"""How attempts ended, and when another one is allowed."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from bertjobs.run.causes import Cause
from bertjobs.run.journal import Attempt
from bertjobs.run.restarts import (
    NotRestartedError,
    beyond_budget,
    cause_by_slurm,
    chain_attempts,
    explanation,
    is_open,
    no_progress,
)


def started(step: int, attempt: int = 0, job: str = "7", phase: int = 1) -> dict[str, Any]:
    return {"event": "started", "phase": phase, "job": job, "attempt": attempt, "step": step, "time_unix_s": 1.7e9}


def ended(cause: str, attempt: int = 0, job: str = "7", phase: int = 1) -> dict[str, Any]:
    return {"event": "ended", "phase": phase, "job": job, "attempt": attempt, "cause": cause, "time_unix_s": 1.7e9}


def test_only_the_starts_and_ends_of_the_job_s_phase_count() -> None:
    """A job that was queued by hand is its own chain."""
    submitted = {"event": "submitted", "phase": 1, "job": "7", "time_unix_s": 1.7e9}
    events = [submitted, started(0), started(0, job="8"), ended("crashed", phase=2), ended("SIGUSR2")]
    (attempt,) = chain_attempts(events, 1, "7")
    assert (attempt.job, attempt.phase, attempt.cause) == ("7", 1, Cause.SIGUSR2)


def test_the_jobs_of_a_submission_are_one_chain() -> None:
    first, second = started(0) | {"chain": "chain-1"}, started(5, job="8") | {"chain": "chain-1"}
    other = started(0, job="9") | {"chain": "chain-2"}
    assert [attempt.job for attempt in chain_attempts([first, other, second], 1, "chain-1")] == ["7", "8"]


def test_what_slurm_says_explains_a_signal() -> None:
    explained = {**ended("cancelled"), "event": "explained"}
    stopped = chain([started(0), ended("SIGTERM")])
    assert explanation(stopped, "CANCELLED by 0") == "cancelled"
    assert explanation(stopped, "PREEMPTED") == "preempted"
    assert explanation(stopped, "REQUEUED") == "requeued"
    assert explanation(stopped, "COMPLETED") is None
    assert explanation(chain([started(0), ended("bad input")]), "CANCELLED") is None
    assert explanation(chain([started(0)]), "CANCELLED") is None
    told = chain([started(0), ended("SIGTERM"), explained])
    assert explanation(told, "PREEMPTED") is None
    assert (stopped[0].counts_as, told[0].counts_as) == (Cause.SIGTERM, Cause.CANCELLED)


def test_an_attempt_without_an_end_is_open() -> None:
    assert not is_open(chain([]))
    assert is_open(chain([started(0)]))
    assert not is_open(chain([started(0), ended("crashed")]))
    assert is_open(chain([started(0), ended("crashed"), started(5, 1)]))


def test_only_the_first_end_of_an_attempt_counts() -> None:
    """If a rank hangs, whoever ends it later knows less."""
    twice = [started(10), ended("out of GPU memory"), ended("crashed")]
    assert refusal(twice, {"out_of_memory": 0, "crashed": 0})[1] is Cause.GPU_MEMORY
    assert beyond_budget(chain(twice), {"crashed": 0}) is None
    preempted = [started(10), ended("SIGTERM"), started(10, 1), ended("crashed", 1), ended("hang", 1)]
    assert no_progress(chain(preempted), 10) is None, "one attempt without progress is forgiven"


def test_an_end_of_an_unknown_word_is_a_crash() -> None:
    assert refusal([started(0), ended("struck by lightning")], {"crashed": 0})[1] is Cause.CRASHED


@pytest.mark.parametrize(
    ("state", "cause"),
    [("NODE_FAIL", Cause.NODE_FAILURE), ("PREEMPTED", Cause.PREEMPTED), ("OUT_OF_MEMORY", Cause.HOST_MEMORY),
     ("TIMEOUT", Cause.TIME_LIMIT), ("CANCELLED by 0", Cause.CANCELLED), ("REQUEUED", Cause.CRASHED),
     ("FAILED", Cause.CRASHED), ("", Cause.CRASHED)],
)  # fmt: skip
def test_slurm_s_states_have_causes(state: str, cause: Cause) -> None:
    assert cause_by_slurm(state) is cause


def chain(events: list[dict[str, Any]]) -> tuple[Attempt, ...]:
    return chain_attempts(events, 1, "7")


def attempts(*causes: str) -> list[dict[str, Any]]:
    return [event for n, cause in enumerate(causes) for event in (started(10 * n, n), ended(cause, n))]


def refusal(events: list[dict[str, Any]], budgets: dict[str, int]) -> tuple[str, Cause]:
    refused = beyond_budget(chain(events), budgets)
    assert refused is not None
    return refused.words, refused.spent_by


def test_each_cause_has_a_budget_of_its_own() -> None:
    budgets = {"crashed": 2, "node_failed": 1, "time_limit": 3, "out_of_memory": 1}
    assert beyond_budget(chain(attempts("crashed", "crashed", "node failure")), budgets) is None
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
    assert beyond_budget(chain(twice), {"crashed": 2}) is None
    repeated = [started(10), ended("crashed"), started(10, 1), ended("crashed", 1), ended("not restarted", 2)]
    assert no_progress(chain(repeated), 10) is not None, "nor does it allow the next attempt"


def test_a_signal_counts_as_what_it_stands_for() -> None:
    assert beyond_budget(chain(attempts("SIGUSR2", "SIGUSR2", "SIGTERM")), {"time_limit": 2, "preempted": 1}) is None
    assert "reached the time limit" in refusal(attempts("SIGUSR2", "SIGUSR2"), {"time_limit": 1})[0]


def test_two_crashes_at_the_same_step_need_progress_before_another_attempt() -> None:
    twice = [started(10), ended("out of GPU memory"), started(10, 1), ended("crashed", 1)]
    assert "also began at step 10" in str(no_progress(chain(twice), 10))
    assert no_progress(chain(twice), 11) is None
    assert no_progress(chain(twice[:2]), 10) is None, "the newest checkpoint may have been damaged"
    assert no_progress(chain([started(5), *twice[1:]]), 10) is None
    assert no_progress(chain(twice), 5) is None, "the checkpoint of step 10 has proved damaged"
    assert no_progress(chain([*twice[:3], ended("node failure", 1)]), 10) is None
    assert no_progress(chain([*twice[:3], ended("SIGTERM", 1)]), 10) is None


def test_a_refusal_reaches_another_process_whole() -> None:
    error = NotRestartedError("job 7 was not restarted", spent_by=Cause.GPU_MEMORY, where="jobs.jsonl", hint="look")
    copy = pickle.loads(pickle.dumps(error))
    assert copy.render() == error.render()
    assert (copy.cause, copy.spent_by, copy.exit_code) == (Cause.NOT_RESTARTED, Cause.GPU_MEMORY, 64)
    assert error.render().splitlines()[-2:] == ["  cause: not restarted", "  restarts used up by: out of GPU memory"]
