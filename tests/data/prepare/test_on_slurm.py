"""What is decided about job arrays, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.prepare.array_options import ArrayOptions
from bertjobs.data.prepare.on_slurm import Element, SlurmArrays, TaskFailure, failures_of, is_spent, stripe
from bertjobs.errors import InputError
from bertjobs.slurm.options import SlurmOptions

BEGIN, DONE = ({"event": event, "number": 4, "node": "n1"} for event in ("begin", "done"))
FAILED = {"event": "failed", "number": 4, "node": "n1", "said": "error: bad", "exit_code": 64}
REFUSED = {"event": "failed", "number": None, "node": "n1", "said": "error: 3 tasks are not done", "exit_code": 70}


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=200), st.integers(1, 50))
def test_shares_hold_each_task_once_and_differ_by_one_at_most(numbers: list[int], jobs: int) -> None:
    shares = stripe(numbers, jobs)
    assert len(shares) == min(jobs, len(numbers))
    assert sorted(number for share in shares for number in share) == sorted(numbers)
    assert {len(share) for share in shares} <= {len(numbers) // jobs, len(numbers) // jobs + 1}
    assert all(shares)


@pytest.mark.parametrize(
    ("journal", "early", "expected"),
    [
        ([BEGIN], True, [TaskFailure(4, "12_3", "n1")]),
        ([BEGIN, FAILED], True, [TaskFailure(4, "12_3", "n1", "error: bad", 64)]),
        ([BEGIN, FAILED, BEGIN, DONE], True, []),
        ([REFUSED], True, []),
        ([REFUSED], False, [TaskFailure(n, "12_3", "n1", "error: 3 tasks are not done", 70) for n in (4, 9)]),
        ([], True, [TaskFailure(4, "12_3", ""), TaskFailure(9, "12_3", "")]),
    ],
    ids=["killed", "failed", "done, not seen yet", "queued early", "inputs not seen", "never began"],
)
def test_a_task_counts_as_failed_only_if_it_is_at_fault(
    journal: list[dict[str, Any]], early: bool, expected: list[TaskFailure]
) -> None:
    element = Element("12_3", "pairs", (1, 4, 9), early)
    assert failures_of(element, {4, 9, 11}, journal) == expected


@pytest.mark.parametrize(
    ("exit_codes", "spent"),
    [([70], False), ([None, 70], False), ([70, 70, 70], True), ([64], True), ([70, 64], True)],
)
def test_bad_input_is_not_tried_again_and_other_failures_are(exit_codes: list[int | None], spent: bool) -> None:
    failures = [TaskFailure(4, "12_3", "n1", "error: bad", code) for code in exit_codes]
    assert is_spent(failures, 3) == spent


def test_options_become_those_of_sbatch() -> None:
    asked = SlurmOptions(partition="p", time="1-0", memory="2G", cpus=3, extra=("--exclude=n9", "--exclusive"))
    options = ArrayOptions(asked)
    assert options.parameters(["n2", "n1"]) == {
        "partition": "p", "time": "1-0", "mem": "2G", "cpus-per-task": "3", "exclude": "n9,n1,n2", "exclusive": True,
        "requeue": True,
    }  # fmt: skip
    assert options.processes == 3
    assert ArrayOptions(SlurmOptions(extra=("--no-requeue",))).parameters() == {
        "cpus-per-task": "1",
        "no-requeue": True,
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ArrayOptions(jobs=0), "0 is too small"),
        (ArrayOptions(SlurmOptions(cpus=0)), "0 is too small"),
        (ArrayOptions(SlurmOptions(extra=("--array=1-4",))), "sbatch's array cannot be given here"),
        (ArrayOptions(SlurmOptions(extra=("x y=1",))), "not an option of sbatch"),
        (ArrayOptions(SlurmOptions(extra=("--comment=a\nrm -r /",))), "line break"),
        (ArrayOptions(SlurmOptions(partition="a\nrm -r /")), "line break"),
        (ArrayOptions(), "sbatch was not found on the PATH"),
    ],
)
def test_bad_options_are_refused_before_any_work(options: ArrayOptions, words: str) -> None:
    with pytest.raises(InputError, match=words), SlurmArrays(options, {"PATH": "/nowhere"}):
        pass
