"""What is decided about job arrays, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.prepare.on_slurm import Element, Failure, SlurmArrays, failures_of, stripe
from bertjobs.data.prepare.sbatch import Queued, SlurmOptions, job_environment, max_array_size, parse_queue
from bertjobs.errors import InputError

BEGIN, DONE = ({"event": event, "number": 4, "node": "n1"} for event in ("begin", "done"))
FAILED = {"event": "failed", "number": 4, "node": "n1", "said": "error: bad", "exit_code": 64}
REFUSED = {"event": "failed", "number": None, "node": "n1", "said": "error: 3 tasks are not done", "exit_code": 70}


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=200), st.integers(1, 50))
def test_shares_hold_each_task_once_and_are_equal_within_one(numbers: list[int], jobs: int) -> None:
    shares = stripe(numbers, jobs)
    assert len(shares) == min(jobs, len(numbers))
    assert sorted(number for share in shares for number in share) == sorted(numbers)
    assert {len(share) for share in shares} <= {len(numbers) // jobs, len(numbers) // jobs + 1}
    assert all(shares)


@pytest.mark.parametrize(
    ("configuration", "size"),
    [("MaxArrayTasks = 7\nMaxArraySize            = 1001\n", 1001), ("MaxArraySize = 0\n", 1), ("", 1001)],
)
def test_the_size_of_arrays_is_read_from_the_configuration(configuration: str, size: int) -> None:
    assert max_array_size(configuration) == size


def test_a_surrounding_job_is_left_behind_and_the_package_is_found() -> None:
    environ = {"SLURM_JOB_ID": "1", "SBATCH_QOS": "x", "PMIX_RANK": "0", "SLURM_CONF": "/c", "HOME": "/h"}
    kept = {"SLURM_CONF": "/c", "HOME": "/h"}
    assert job_environment(environ, Path("/usr/lib/site-packages")) == kept
    assert job_environment(environ, Path("/src"))["PYTHONPATH"] == "/src"
    assert job_environment({**environ, "PYTHONPATH": "/a"}, Path("/src"))["PYTHONPATH"] == "/src:/a"


def test_the_queue_holds_our_jobs_only() -> None:
    text = (
        "12|3|RUNNING|bertjobs-prepare|None\n"
        "12|4|PENDING|bertjobs-prepare|Resources\n"
        "15|N/A|PENDING|bertjobs-prepare|ReqNodeNotAvail, UnavailableNodes:n|1\n"
        "16|N/A|RUNNING|a|b|None\n"
    )
    assert parse_queue(text) == {
        "12_3": Queued("RUNNING", "None"),
        "12_4": Queued("PENDING", "Resources"),
        "15": Queued("PENDING", "ReqNodeNotAvail, UnavailableNodes:n|1"),
    }


@pytest.mark.parametrize(
    ("journal", "early", "expected"),
    [
        ([BEGIN], True, [Failure(4, "12_3", "n1")]),
        ([BEGIN, FAILED], True, [Failure(4, "12_3", "n1", "error: bad", 64)]),
        ([BEGIN, FAILED, BEGIN, DONE], True, []),
        ([REFUSED], True, []),
        ([REFUSED], False, [Failure(n, "12_3", "n1", "error: 3 tasks are not done", 70) for n in (4, 9)]),
        ([], True, [Failure(4, "12_3", ""), Failure(9, "12_3", "")]),
    ],
    ids=["killed", "failed", "done, not seen yet", "queued early", "inputs not seen", "never began"],
)
def test_a_task_counts_as_failed_only_where_it_is_at_fault(
    journal: list[dict[str, Any]], early: bool, expected: list[Failure]
) -> None:
    element = Element("12_3", "pairs", (1, 4, 9), early)
    assert failures_of(element, {4, 9, 11}, journal) == expected


def test_options_become_those_of_sbatch() -> None:
    options = SlurmOptions(partition="p", time="1-0", memory="2G", cpus=3, sbatch=("--exclude=n9", "exclusive"))
    assert options.parameters(["n2", "n1"]) == {
        "partition": "p", "time": "1-0", "mem": "2G", "cpus-per-task": 3, "exclude": "n9,n1,n2", "exclusive": True,
        "requeue": True,
    }  # fmt: skip
    assert "requeue" not in SlurmOptions(sbatch=("no-requeue",)).parameters()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SlurmOptions(jobs=0), "0 is too small"),
        (SlurmOptions(sbatch=("array=1-4",)), "prepare sets sbatch's --array itself"),
        (SlurmOptions(sbatch=("x y=1",)), "no option of sbatch"),
        (SlurmOptions(sbatch=("comment=a\nrm -r /",)), "no value for sbatch"),
        (SlurmOptions(partition="a\nrm -r /"), "no value for sbatch"),
        (SlurmOptions(), "sbatch was not found on the PATH"),
    ],
)
def test_bad_options_are_refused_before_any_work(options: SlurmOptions, words: str) -> None:
    with pytest.raises(InputError, match=words), SlurmArrays(options, {"PATH": "/nowhere"}):
        pass
