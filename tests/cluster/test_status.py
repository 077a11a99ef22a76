"""`bertjobs status`, `logs` and `cancel` with the answers of a real Slurm."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.client import Slurm
from tests.cluster.slurm import Cluster
from tests.conftest import Bertjobs, wait_until

RUN = "laptop-scratch"
Show = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "results" / RUN)


@pytest.fixture
def show(bertjobs: Bertjobs, cluster: Cluster) -> Show:
    """The phases, as `bertjobs status RUN --json` prints them."""
    return lambda *more: json.loads(bertjobs("status", RUN, "--json", *more, environ=cluster.environment).stdout)


@pytest.fixture
def submit(
    bertjobs: Bertjobs, cluster: Cluster, speeches_data: Path, directory: RunDirectory
) -> Callable[..., list[str]]:
    """Submits the run; gives its jobs."""

    def start(*arguments: object) -> list[str]:
        words = ("submit", "--recipe", RUN, "--data", speeches_data, *arguments)
        done = bertjobs(*words, environ=cluster.environment)
        assert done.returncode == 0, done.stderr
        return [event["job"] for event in directory.events() if event["event"] == "submitted"]

    return start


def test_a_job_cancelled_as_soon_as_it_was_queued_never_began(cluster: Cluster) -> None:
    """As a spare is whose phase ends just then."""
    job = str(cluster.submit(["--begin=now+3600", "--output=/dev/null", "--wrap=true"]))
    slurm = Slurm(cluster.environment)
    slurm.cancel([job])
    wait_until(lambda: slurm.ask([job]).starts)
    assert [(start.state, start.began_unix_s) for start in slurm.ask([job]).starts[job]] == [("CANCELLED", None)]


@pytest.mark.slow
def test_a_run_that_waits_runs_and_is_done(
    submit: Callable[..., list[str]], cluster: Cluster, bertjobs: Bertjobs, show: Show
) -> None:
    first, second = submit("--sbatch=--begin=now+3600", "--nodes", 2)
    one, two = show()
    assert (one["state"], one["job"], two["state"], two["job"]) == ("PENDING", first, "PENDING", second)
    assert "its start time has not come yet" in one["reason"]
    assert "it waits for another job to end (Dependency)" in two["reason"]
    assert one["start_unix_s"] == pytest.approx(time.time() + 3600, abs=300)
    text = bertjobs("status", RUN, environ=cluster.environment).stdout
    assert re.search(rf"^phase 1: PENDING, job {first} \(source: (sacct\+)?squeue\)$", text, re.MULTILINE), text
    assert "waits       its start time has not come yet" in text

    for job in (first, second):
        cluster.run(["scontrol", "update", f"JobId={job}", "StartTime=now"])
    watch = bertjobs("status", RUN, "--watch", "1", environ=cluster.environment)
    assert watch.returncode == 0
    seen = re.findall(r"^phase 2: (.+), job", watch.stdout, re.MULTILINE)
    assert (seen[0], seen[-1]) == ("PENDING", "DONE"), watch.stdout
    for row, job in zip(show(), (first, second), strict=True):
        assert (row["state"], row["source"]) == ("DONE", "run directory")
        ended = [entry for entry in row["timeline"] if entry["attempt"] is not None][-1]
        assert (ended["job"], ended["words"], ended["first_step"]) == (job, "done", 1)
        assert ended["last_step"] == row["steps"]
    assert "step 20/20" in bertjobs("logs", RUN, "--phase", 1, "--rank", 0, environ=cluster.environment).stdout


def test_a_running_run_is_shown_and_cancelled_with_all_that_waits(
    submit: Callable[..., list[str]], cluster: Cluster, bertjobs: Bertjobs, show: Show, directory: RunDirectory
) -> None:
    first, second = submit("--set", "phase1.steps=100000")
    # A job that the journal does not know, as if the journal's disk had been full.
    logs = directory.phase(1).logs
    unknown = cluster.submit(
        [f"--job-name={RUN}-spare", f"--dependency=afterany:{first}", f"--output={logs}/slurm-%j.out", "--wrap=sleep 9"]
    )
    foreign = cluster.submit([f"--job-name={RUN}-spare", "--begin=now+3600", "--output=/dev/null", "--wrap=true"])
    wait_until(lambda: directory.phase(1).metrics.exists())
    assert Slurm(cluster.environment).jobs_of_run(RUN, directory.root).keys() >= {first, second, str(unknown)}
    one, two = show()
    assert (one["state"], one["job"], one["late_s"]) == ("RUNNING", first, None)
    assert one["timeline"][0]["state"] == "running"
    assert one["timeline"][0]["nodes"] == "node1"
    assert (two["state"], two["job"]) == ("PENDING", second)
    wait_until(lambda: show()[0]["end_unix_s"])

    done = bertjobs("cancel", RUN, "--json", environ=cluster.environment)
    assert done.returncode == 0, done.stderr
    cancelled = json.loads(done.stdout)["cancelled"]
    assert {first, second, str(unknown)} <= set(cancelled)
    assert cancelled.index(first) > cancelled.index(second)
    assert [cluster.wait(job) for job in cancelled] == ["CANCELLED"] * len(cancelled)
    queue = cluster.run(["squeue", "-h", "-o", "%i"]).stdout.split()
    assert queue == [str(foreign)], "nothing is left of the run, and nothing else was touched"
    one, _ = show()
    assert (one["state"], one["timeline"][0]["words"]) == ("CANCELLED", "cancelled: stopped with a checkpoint")
    assert one["timeline"][0]["last_step"] == one["steps_done"]
