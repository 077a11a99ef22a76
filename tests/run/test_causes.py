"""The table of causes."""

from __future__ import annotations

import json
import pickle

import pytest

from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE, EXIT_DONE, EXIT_FAILURE, BertjobsError, InputError
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.run.causes import Cause, Restarts, Then, cause_of_state, read_cause


def test_the_recipe_has_a_setting_for_each_budget() -> None:
    spec = resolve(load_catalogue([builtin_file()]), flags={"recipe": "laptop"}, environ={}).spec
    assert {budget.setting for budget in Restarts} == set(spec.restarts)


@pytest.mark.parametrize("cause", Cause)
def test_each_row_is_consistent(cause: Cause) -> None:
    assert cause.plain
    assert cause.exit_code in (EXIT_DONE, EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_CONTINUE)
    if cause.exit_code in (EXIT_DONE, EXIT_BAD_INPUT):
        assert cause.then is Then.STOP, "another attempt would not fix bad input"
    if cause.then is Then.STOP:
        assert cause.budget is None, "only what is resumed is counted"
    if cause.needs_progress:
        assert cause.exit_code == EXIT_FAILURE, "a stop on request may be repeated"


@pytest.mark.parametrize("cause", Cause)
def test_a_word_is_read_as_it_was_written(cause: Cause) -> None:
    assert read_cause(json.loads(json.dumps({"cause": cause}))["cause"]) is cause


def test_words_of_older_journals_are_known() -> None:
    words = ("unfit nodes", "node failed", "disk full", "out of memory")
    assert [read_cause(word) for word in words] == [
        Cause.UNFIT_NODE,
        Cause.NODE_FAILURE,
        Cause.DISK,
        Cause.GPU_MEMORY,
    ]
    assert read_cause("out of memory", by_slurm=True) is Cause.HOST_MEMORY
    assert read_cause("something new") is None
    assert read_cause("") is None


def test_a_state_means_one_cause() -> None:
    states = [state for cause in Cause for state in cause.states]
    assert len(states) == len(set(states))
    assert cause_of_state("NODE_FAIL") is Cause.NODE_FAILURE
    assert cause_of_state("CANCELLED by 1000") is Cause.CANCELLED
    assert [cause_of_state(state) for state in ("FAILED", "COMPLETED", "UNKNOWN", "", " ")] == [None] * 5


def test_an_error_carries_its_cause_to_other_processes_and_into_the_log() -> None:
    error = InputError("shard 3 is missing", where="/data", hint="restore it", cause=Cause.DAMAGED_SHARD)
    copy = pickle.loads(pickle.dumps(error))
    assert copy.cause is Cause.DAMAGED_SHARD
    assert copy.render() == error.render()
    assert error.render().splitlines()[-1] == "  cause: damaged shard"
    assert "cause" not in BertjobsError("what").render()
