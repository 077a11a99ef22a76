"""What counts as an event of the journal, and as a line about a step."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.run.events import OF_AN_ATTEMPT, events_in
from bertjobs.run.journal import read_story
from bertjobs.run.restarts import beyond_budget, chain_attempts, no_progress
from bertjobs.run.series import lines_of_steps

STARTED = {"time_unix_s": 1.7e9, "event": "started", "phase": 1, "job": "7", "attempt": 2, "step": 30, "world_size": 4}


def test_an_event_of_ours_is_left_as_it_is() -> None:
    ended = {**STARTED, "event": "ended", "exit_code": None, "cause": "crashed", "error": {"what": "x", "rank": 3}}
    assert events_in([STARTED, ended, {**STARTED, "rack": [1]}]) == [STARTED, ended, {**STARTED, "rack": [1]}]


@pytest.mark.parametrize(
    "line",
    [7, None, [], "started", {}, {"event": "started"}, {**STARTED, "event": 3}, {**STARTED, "time_unix_s": "now"},
     {**STARTED, "time_unix_s": float("nan")}, {**STARTED, "time_unix_s": 1e30}, {**STARTED, "job": ["7"]},
     {**STARTED, "job": ""}],
)  # fmt: skip
def test_what_is_no_event_is_left_out(line: Any) -> None:
    assert events_in([line, STARTED]) == [STARTED]


def test_a_field_of_another_type_is_as_good_as_absent() -> None:
    (event,) = events_in([{**STARTED, "attempt": "2", "step": -1, "world_size": 1.5, "chain": 3, "cause": {}}])
    assert event == {name: STARTED[name] for name in ("time_unix_s", "event", "phase", "job")} | {"attempt": 0}
    (event,) = events_in([{**STARTED, "error": {"what": ["deep"], "where": "x"}}])
    assert event["error"] == {"where": "x"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("phase", "job", "attempt", "step", "world_size", "chain", "cause", "exit_code", "error", "told_by", "pid",
         "host", "spare", "backend", "why", "spent_by")  # fmt: skip
ODD = st.fixed_dictionaries(
    {"event": st.sampled_from([*OF_AN_ATTEMPT, "submitted", "cancelled"]) | JSON, "time_unix_s": st.just(1.7e9) | JSON},
    optional={**dict.fromkeys(NAMES, JSON), "phase": st.just(1) | JSON, "job": st.just("7") | JSON},
)


@given(st.lists(ODD | JSON, max_size=6))
def test_no_journal_is_too_odd_for_its_readers(lines: list[Any]) -> None:
    events = events_in(json.loads(json.dumps(lines)))
    story = read_story(events)
    assert all(attempt.seconds >= 0 for attempt in story.attempts)
    assert all(isinstance(attempt.has_saved, bool) for attempt in story.attempts)
    assert sum(len(job.attempts) for job in story.jobs.values()) == len(story.attempts)
    chain = chain_attempts(events, 1, "7")
    beyond_budget(chain, {"crashed": 0})
    no_progress(chain, 3)


def test_a_line_about_a_step_has_numbers_where_they_are_needed() -> None:
    line = {"step": 3, "time_unix_s": 1.7e9, "loss_nats": float("nan"), "step_time_s": 0.5}
    fields = ("time_unix_s", "loss_nats", "step_time_s")
    odd = [{**line, name: value} for name in ("step", *fields) for value in (None, "x", [], True, 10**400)]
    odd += [{**line, "step_time_s": value} for value in (-1, float("inf"), float("nan"))]
    odd += [{**line, "step": 0}, {**line, "step": 1.0}]
    odd += [{name: value for name, value in line.items() if name != "loss_nats"}, 7, None, [line]]
    assert lines_of_steps([line, *odd], *fields) == [line]
