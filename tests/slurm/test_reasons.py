"""squeue's reasons in plain words."""

from __future__ import annotations

import pytest

from bertjobs.slurm.jobs import Job
from bertjobs.slurm.reasons import FAULTS, job_line, must_be_changed, reason_command, reason_words


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("(Priority)", "jobs with a higher priority are ahead of it ((Priority))"),
        (
            "ReqNodeNotAvail, UnavailableNodes:node[1-2]",
            "nodes that it needs are down, drained or reserved (ReqNodeNot",
        ),
        ("AssocGrpGRES", "your account has reached its limit (AssocGrpGRES)"),
        ("AssocMaxJobsLimit", "as many jobs as your account allows at once; it starts when one of them ends"),
        ("QOSMaxJobsPerUserLimit", "as many jobs as its QOS allows at once"),
        (
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            "nodes that it needs are down, drained or reserved",
        ),
        ("ReqNodeNotAvail, Reserved for maintenance", "a shorter --time may fit before it"),
        ("launch failed requeued held", "Slurm holds it until it is released (launch failed requeued held)"),
        ("launch_failed_requeued_held", "Slurm holds it until it is released (launch_failed_requeued_held)"),
        ("(user env retrieval failed requeued held)", "could not read your login environment"),
        ("JobHoldMaxRequeue", "requeued as often as the cluster allows"),
        ("PartitionTimeLimit", "more time than its partition allows; it will not start as it is (PartitionTimeLimit)"),
        ("DependencyNeverSatisfied", "it will never start"),
        ("ANewOne", "Slurm says ANewOne"),
        ("", "has not said why"),
        ("( )", "has not said why"),
    ],
)
def test_a_reason_is_put_into_words(reason: str, words: str) -> None:
    assert words in reason_words(reason)


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("launch failed requeued held", "scontrol release 7"),
        ("launch_failed_requeued_held", "scontrol release 7"),
        ("(JobHeldUser)", "scontrol release 7"),
        ("ReqNodeNotAvail, Reserved for maintenance", "scontrol show reservation"),
        ("ReqNodeNotAvail, UnavailableNodes:node[1-2]", "sinfo -R"),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", "sinfo -R"),
        ("AssocMaxJobsLimit", ""),
        ("JobHeldAdmin", ""),
        ("Priority", ""),
        ("", ""),
    ],
)
def test_what_to_type_about_a_job_that_waits(reason: str, command: str) -> None:
    assert reason_command(Job("7", state="PENDING", reason=reason)) == command


def test_a_held_job_is_released_whatever_the_reason() -> None:
    assert reason_command(Job("7", state="REQUEUE_HOLD", reason="BeginTime")) == "scontrol release 7"


@pytest.mark.parametrize("reason", FAULTS)
def test_waiting_does_not_help_with_some_reasons(reason: str) -> None:
    assert must_be_changed(reason)
    assert must_be_changed(f"({reason})")


@pytest.mark.parametrize("reason", ["Resources", "Dependency", "QOSMaxJobsPerUserLimit", ""])
def test_other_reasons_go_away_by_themselves(reason: str) -> None:
    assert not must_be_changed(reason)


def test_a_job_in_one_line() -> None:
    job = Job("7", state="PENDING", source="squeue", reason="Priority", exit_code=70)
    assert job_line(job) == "job 7: PENDING, reason Priority, exit code 70 (source: squeue)"
