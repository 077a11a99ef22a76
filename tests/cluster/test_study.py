"""A study as one job array of a real Slurm: each element is a link of its own run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from bertjobs.run.directory import RunDirectory
from tests.cluster.slurm import Cluster
from tests.conftest import Bertjobs, wait_until

NANO = ("submit", "--recipe", "laptop-scratch", "--phase", "1", "--run", "st")


def test_an_array_of_three_of_which_one_fails(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    blocked = cluster.submit(["-N4", "--exclusive", "--wrap", "sleep 600"], cwd=tmp_path)
    cluster.wait_queue(blocked, "RUNNING")
    steps = ("--set", "phase1.steps=4", "--set", "phase1.validate_every=4", "--set", "phase1.checkpoint_every=2")
    done = bertjobs(*NANO, *steps, "--data", speeches_data, "--seeds", 3, environ=cluster.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [RunDirectory(tmp_path / "results" / f"st-{number}") for number in (1, 2, 3)]
    jobs = [run.events()[0]["job"] for run in runs]
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_1", f"{array}_2", f"{array}_3"]
    waiting = json.loads(bertjobs("study", "st", "--json", environ=cluster.environment).stdout)
    assert [one["state"] for one in waiting["members"]] == ["PENDING"] * 3
    clash = bertjobs("resume", "st-2", environ=cluster.environment)
    assert "is PENDING as job" in clash.stderr

    runs[1].phase(1).checkpoints.rmdir()
    runs[1].phase(1).checkpoints.write_text("in the way")
    cluster.run(["scancel", str(blocked)])
    assert [cluster.wait(job) for job in jobs] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert all((run.phase(1).logs / f"{job}-0.out").exists() for run, job in zip(runs, jobs, strict=True))
    text = bertjobs("study", "st", environ=cluster.environment).stdout
    assert "study st: 2 of 3 runs done" in text
    assert "st-2 failed: " in text

    runs[1].phase(1).checkpoints.unlink()
    resumed = bertjobs("resume", "st", environ=cluster.environment)
    assert resumed.returncode == 0, resumed.stderr
    job = [event["job"] for event in runs[1].events() if event["event"] == "submitted"][-1]
    assert job.endswith("_2")
    assert f"queued run st-2 as job {job}" in resumed.stdout
    assert cluster.wait(job) == "COMPLETED"
    result = json.loads(bertjobs("study", "st", "--json", environ=cluster.environment).stdout)
    assert result["spreads"][0]["done"] == 3


def test_an_element_is_requeued_alone_and_the_study_is_cancelled_by_name(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path, unhurried: dict[str, str]
) -> None:
    endless = ("--set", "phase1.steps=100000", "--set", "phase1.checkpoint_every=5")
    words = (*NANO, *endless, "--data", speeches_data, "--seeds", 2, "--at-once", 2)
    done = bertjobs(*words, environ={**cluster.environment, **unhurried})
    assert done.returncode == 0, done.stderr
    runs = [RunDirectory(tmp_path / "results" / f"st-{number}") for number in (1, 2)]
    jobs = [run.events()[0]["job"] for run in runs]
    for run in runs:
        wait_until(partial(_has_checkpoint, run))
    cluster.run(["scontrol", "requeue", jobs[1]])
    wait_until((runs[1].phase(1).logs / f"{jobs[1]}-1.out").exists)
    assert not (runs[0].phase(1).logs / f"{jobs[0]}-1.out").exists(), "the other trains on"
    cancelled = bertjobs("cancel", "st", "--json", environ=cluster.environment)
    assert cancelled.returncode == 0, cancelled.stderr
    named = json.loads(cancelled.stdout)["cancelled"]
    assert set(named) == {"st-1", "st-2"}
    assert jobs[0] in named["st-1"]
    assert jobs[1] in named["st-2"]
    wait_until(lambda: not cluster.run(["squeue", "-h", "-o", "%i"]).stdout.strip())
    assert "--array=1,2%2" in bertjobs("resume", "st", "--dry-run", environ=cluster.environment).stdout


@pytest.mark.slow
def test_one_element_is_cancelled_alone(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path, unhurried: dict[str, str]
) -> None:
    """By its run's name, or by `scancel` of all its jobs: a spare would continue it. The others train on."""
    endless = ("--set", "phase1.steps=100000", "--set", "phase1.checkpoint_every=5")
    words = (*NANO, *endless, "--data", speeches_data, "--seeds", 3)
    assert bertjobs(*words, environ={**cluster.environment, **unhurried}).returncode == 0
    runs = [RunDirectory(tmp_path / "results" / f"st-{number}") for number in (1, 2, 3)]
    jobs = [run.events()[0]["job"] for run in runs]
    for run in runs:
        wait_until(partial(_has_checkpoint, run))
    cancelled = bertjobs("cancel", "st-2", "--json", environ=cluster.environment)
    assert jobs[1] in json.loads(cancelled.stdout)["cancelled"]
    wait_until(lambda: _spares(runs[2]))
    cluster.run(["scancel", *_spares(runs[2]), jobs[2]])
    assert [cluster.wait(job) for job in jobs[1:]] == ["CANCELLED"] * 2
    before = len(runs[0].phase(1).metrics.read_text().splitlines())
    wait_until(lambda: len(runs[0].phase(1).metrics.read_text().splitlines()) > before)
    rows = json.loads(bertjobs("study", "st", "--json", environ=cluster.environment).stdout)["members"]
    assert [row["state"] for row in rows] == ["RUNNING", "CANCELLED", "CANCELLED"]
    assert [row["has_failed"] for row in rows] == [False, True, True]
    assert all(row["why"].startswith("cancelled: job ") for row in rows[1:])
    assert bertjobs("cancel", "st", environ=cluster.environment).returncode == 0
    wait_until(lambda: not cluster.run(["squeue", "-h", "-o", "%i"]).stdout.strip())


def _spares(run: RunDirectory) -> list[str]:
    return [event["job"] for event in run.events() if event["event"] == "submitted" and event.get("spare")]


def _has_checkpoint(run: RunDirectory) -> bool:
    return any(run.phase(1).checkpoints.glob("step-*"))
