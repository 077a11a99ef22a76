"""Jobs as sacct and squeue print them."""

from __future__ import annotations

import time

import pytest

from bertjobs.slurm.jobs import (
    Job,
    JobStart,
    elements_of_squeue,
    jobs_of_sacct,
    jobs_of_squeue,
    pending_of_squeue,
    starts_of_sacct,
    submitted_id,
)

SACCT = """\
7|PREEMPTED|0:0|None|node[1-2]|00:30:00|1800000000|1800000060
7.batch|CANCELLED|0:15||node1||1800000000|1800000060
7.0|CANCELLED by 0|75:0||node[1-2]||1800000000|1800000060
7|FAILED|70:0|None|node[3-4]|00:30:00|1800000100|1800000200
7.batch|FAILED|70:0||node3||1800000100|1800000200
7.0|OUT_OF_MEMORY|0:125||node[3-4]||1800000100|1800000200
8|CANCELLED by 1000|0:0|Dependency|None assigned|00:30:00|Unknown|1800000300
"""


def test_a_job_of_sacct_has_its_starts_and_steps() -> None:
    jobs = jobs_of_sacct(SACCT)
    seven, eight = jobs["7"], jobs["8"]
    assert (seven.state, seven.past, seven.exit_code, seven.nodes) == ("FAILED", ("PREEMPTED",), 70, ("node[3-4]",))
    assert seven.steps == ("CANCELLED", "CANCELLED", "FAILED", "OUT_OF_MEMORY")
    assert (eight.state, eight.reason, eight.nodes, eight.past) == ("CANCELLED", "Dependency", (), ())


def test_squeue_s_newer_answer_wins() -> None:
    text = "8|PENDING|(DependencyNeverSatisfied)||30:00|N/A\n9|RUNNING|None|node1|1-00:00:00|1800000000\n"
    jobs = jobs_of_squeue(text, jobs_of_sacct(SACCT))
    assert (jobs["8"].state, jobs["8"].reason, jobs["8"].start) == ("PENDING", "(DependencyNeverSatisfied)", "")
    assert (jobs["9"].state, jobs["9"].reason, jobs["9"].nodes) == ("RUNNING", "", ("node1",))
    assert jobs["7"].source == "sacct"


def test_lines_of_another_format_are_ignored() -> None:
    assert jobs_of_sacct("Slurm accounting storage is disabled\n\n7|RUNNING\n") == {}


def test_starts_are_those_of_the_job_not_of_its_steps() -> None:
    starts = starts_of_sacct(SACCT)
    assert starts["7"] == (
        JobStart("PREEMPTED", 1.8e9, 1.8e9 + 60, "node[1-2]"),
        JobStart("FAILED", 1.8e9 + 100, 1.8e9 + 200, "node[3-4]"),
    )
    assert starts["8"] == (JobStart("CANCELLED", None, 1.8e9 + 300, ""),)
    assert starts.keys() == {"7", "8"}


def test_sacct_s_starts_are_read_in_their_order() -> None:
    rows = (
        "7|REQUEUED|0:0|None|node1|01:00:00|1800000000|1800000060",
        "7|PENDING|0:0|Priority|None assigned|01:00:00|Unknown|Unknown",
    )
    first, second = starts_of_sacct("\n".join(rows))["7"]
    assert first == JobStart("REQUEUED", 1.8e9, 1.8e9 + 60, "node1")
    assert second == JobStart("PENDING")


def test_a_job_cancelled_right_after_its_submission_has_not_begun() -> None:
    """Slurm then notes the time of the cancel as its start, too: seen in 22.05."""
    row = "8|CANCELLED by 1000|0:0|Dependency|None assigned|00:30:00|1800000300|1800000300"
    assert starts_of_sacct(row)["8"] == (JobStart("CANCELLED", None, 1.8e9 + 300, ""),)


def test_when_a_job_starts_is_shown_in_this_machine_s_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-1")
    time.tzset()
    try:
        assert Job("7", start="1800000000").start_text == "2027-01-15 09:00"
    finally:
        monkeypatch.undo()
        time.tzset()
    assert Job("7").start_text == ""


def test_elements_of_arrays_are_found_by_their_name() -> None:
    text = (
        "12_3|RUNNING|bertjobs-prepare|None\n"
        "12_4|PENDING|bertjobs-prepare|Resources\n"
        "15|PENDING|bertjobs-prepare|ReqNodeNotAvail, UnavailableNodes:n|1\n"
        "16|RUNNING|a|b|None\n"
        "17+0|RUNNING|bertjobs-prepare|None\n"
        "17+1|RUNNING|bertjobs-prepare|None\n"
    )
    jobs = elements_of_squeue(text, "bertjobs-prepare")
    assert {id: (job.state, job.reason) for id, job in jobs.items()} == {
        "12_3": ("RUNNING", ""),
        "12_4": ("PENDING", "Resources"),
        "15": ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n|1"),
        "17": ("RUNNING", ""),
    }


def test_the_components_of_a_heterogeneous_job_are_one_job() -> None:
    """As Slurm 22.05 prints them."""
    sacct = (
        "17+0|REQUEUED|0:0|None|node[1-2]|1-00:00:00|100|105\n"
        "17+0.batch|CANCELLED|0:15||node1||100|106\n"
        "17+1|REQUEUED|0:0|None|node3|1-00:00:00|100|105\n"
        "17+1.0|COMPLETED|0:0||node3||100|105\n"
        "17+0|RUNNING|0:0|None|node[2-3]|1-00:00:00|200|Unknown\n"
        "17+1|RUNNING|0:0|None|node4|1-00:00:00|200|Unknown\n"
    )
    jobs, starts = jobs_of_sacct(sacct), starts_of_sacct(sacct)
    assert jobs.keys() == starts.keys() == {"17"}
    assert (jobs["17"].state, jobs["17"].past, jobs["17"].nodes) == ("RUNNING", ("REQUEUED",), ("node[2-3],node4",))
    assert [(start.state, start.nodes) for start in starts["17"]] == [
        ("REQUEUED", "node[1-2],node3"),
        ("RUNNING", "node[2-3],node4"),
    ]
    squeue = "17+0|RUNNING|None|node[2-3]|1-00:00:00|200\n17+1|RUNNING|None|node4|1-00:00:00|200\n"
    queued = jobs_of_squeue(squeue, jobs)
    assert queued.keys() == {"17"}
    assert queued["17"].nodes == ("node[2-3],node4",)
    waiting = jobs_of_squeue("18+0|PENDING|None||1:00|N/A\n18+1|PENDING|None||1:00|N/A\n", {})
    assert waiting.keys() == {"18"}
    assert waiting["18"].nodes == ()
    pending = pending_of_squeue("18+0|afterany:17(unfulfilled)|r-phase1\n18+1|(null)|r-phase1\n19|(null)|x\n")
    assert [(job.id, job.dependency) for job in pending] == [("18", "afterany:17(unfulfilled)"), ("19", "")]


@pytest.mark.parametrize(
    ("printed", "id"),
    [
        ("17\n", "17"), ("17;cluster\n", "17"), ("17+0\n", "17"), ("", ""), ("no id here\n", ""),
        ("Welcome to juno: 3 nodes are down\n\n17;juno\n", "17"), ("17\nYou have used 80 of 100 hours\n", "17"),
    ],
)  # fmt: skip
def test_a_job_s_id_is_found_whatever_a_site_prints_around_it(printed: str, id: str) -> None:
    assert submitted_id(printed) == id
