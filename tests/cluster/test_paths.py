"""Folders with odd names, and damaged files, on a real Slurm."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.client import Slurm
from tests.cluster.slurm import Cluster
from tests.cluster.test_by_hand import RUN_SUB, environment
from tests.conftest import Bertjobs, run_bertjobs, wait_until

ODD = 'it\'s my "100%j" $HOME; #1 [a] {b} *?!&|<>`id`, x=~ Bücher 本'
SMALL = "recipes: {laptop-scratch: {phases: {1: {steps: 4}, 2: {steps: 2}}}}\n"


@pytest.fixture
def odd(tmp_path: Path, speeches_data: Path) -> Path:
    """A folder with an odd name, with the data in it and the interpreter behind a link."""
    folder = tmp_path / ODD
    folder.mkdir()
    shutil.copytree(speeches_data, folder / "data", copy_function=os.link)
    return folder


def test_a_run_below_an_odd_folder_is_queued_trained_seen_and_cancelled(
    cluster: Cluster, odd: Path, unhurried: dict[str, str]
) -> None:
    (odd / "my recipes.yml").write_text(SMALL)

    def typed(*words: object, **environ: str) -> str:
        done = run_bertjobs(words, odd, {**cluster.environment, **environ})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    submit = ("--recipes", "my recipes.yml", "--recipe", "laptop-scratch", "--data", "data", "--results=-runs %j")
    typed("submit", *submit)
    directory = RunDirectory(odd / "-runs %j" / "laptop-scratch")
    jobs = [event["job"] for event in directory.events() if event["event"] == "submitted"]
    assert [cluster.wait(job) for job in jobs] == ["COMPLETED", "COMPLETED"], typed("logs", directory.root)
    assert directory.phase(2).done() is not None
    names = {path.name for path in directory.phase(1).logs.iterdir()}
    assert names == {f"slurm-{jobs[0]}.out", f"{jobs[0]}-0.out"}
    rows = json.loads(typed("status", "--results=-runs %j", "--json"))
    assert [(row["phase"], row["state"], row["damage"]) for row in rows] == [(1, "DONE", []), (2, "DONE", [])]

    typed("submit", *submit, "--run", "long", "--phase", 1, "--set", "phase1.steps=100000", **unhurried)
    job = RunDirectory(directory.root.parent / "long").events()[0]["job"]
    cluster.wait_queue(job, "RUNNING")
    long = directory.root.parent / "long"
    assert Slurm({**os.environ, **cluster.environment}).jobs_of_run("long", long) == {job: "long-phase1"}
    (long / "jobs.jsonl").unlink()  # only the queue knows of it: found by what it writes
    cancelled = typed("cancel", "long", "--results=-runs %j")
    assert job in cancelled, cancelled + cluster.sacct_state(job) + typed("logs", "long", "--results=-runs %j")
    assert cluster.wait(job) == "CANCELLED"


@pytest.mark.slow
def test_a_run_by_hand_below_an_odd_folder(cluster: Cluster, odd: Path) -> None:
    settings = environment(odd / "data", odd, RECIPE="laptop-scratch", PHASE="1", BATCHSIZE="32")
    job = cluster.submit(["-N2", RUN_SUB], env={**settings, "RESULTS": "-runs %j"}, cwd=odd)
    log = odd / "-runs %j" / "laptop-scratch" / "phase1" / "logs" / f"{job}-0.out"
    assert cluster.wait(job) == "COMPLETED", log.read_text() if log.exists() else list(odd.rglob("*.out"))
    assert "phase 1 is done" in log.read_text()


def test_a_run_by_hand_that_fails_before_it_writes_its_settings_is_seen_and_explained(
    cluster: Cluster, bertjobs: Bertjobs, tmp_path: Path
) -> None:
    settings = environment(tmp_path / "nowhere", tmp_path, RECIPE="laptop-scratch", RUN="dgx1-16g", PHASE="1")
    job = cluster.submit(["-N2", RUN_SUB], env=settings, cwd=tmp_path)
    assert cluster.wait(job) == "FAILED"
    status = bertjobs("status", environ=cluster.environment)
    assert (status.returncode, status.stderr) == (0, "")
    (row,) = [line for line in status.stdout.splitlines() if line.startswith("dgx1-16g ")]
    assert "NO run.yml" in row
    assert str(job) in row
    doctor = bertjobs("doctor", "dgx1-16g", environ=cluster.environment)
    assert doctor.returncode == 0, doctor.stderr
    assert f"job {job} (attempt 0) ended before it wrote run.yml: data folder" in doctor.stdout
    assert "bad input" in doctor.stdout
    assert "did you mean" not in doctor.stdout + doctor.stderr


def test_a_run_with_damaged_settings_is_cancelled_and_hides_no_other(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path, unhurried: dict[str, str]
) -> None:
    endless = ("--phase", 1, "--set", "phase1.steps=100000")
    words = ("submit", "--recipe", "laptop-scratch", "--data", speeches_data, *endless)
    jobs = {}
    for run in ("hurt", "well"):
        done = bertjobs(*words, "--run", run, environ={**cluster.environment, **unhurried})
        assert done.returncode == 0, done.stderr
        jobs[run] = RunDirectory(tmp_path / "results" / run).events()[0]["job"]
    hurt = RunDirectory(tmp_path / "results" / "hurt")
    wait_until(hurt.phase(1).metrics.exists)  # or else it might read the empty file, and end
    hurt.lockfile.write_bytes(b"")
    rows = {row["run"]: row for row in json.loads(bertjobs("status", "--json", environ=cluster.environment).stdout)}
    assert (rows["hurt"]["state"], rows["hurt"]["job"]) == ("UNREADABLE", jobs["hurt"])
    assert rows["well"]["state"] in ("RUNNING", "PENDING")
    cancelled = bertjobs("cancel", "hurt", environ=cluster.environment)
    assert (cancelled.returncode, cancelled.stderr) == (0, "")
    assert jobs["hurt"] in cancelled.stdout
    assert cluster.wait(jobs["hurt"]) == "CANCELLED"
