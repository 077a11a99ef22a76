"""`bertjobs submit` on a real Slurm, and what is seen of the run from outside."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bertjobs.run.directory import RunDirectory
from bertjobs.run.suspects import record, suspects
from tests.cluster.slurm import Cluster
from tests.conftest import Bertjobs, wait_until


@pytest.fixture
def submit(bertjobs: Bertjobs, cluster: Cluster, speeches_data: Path, tmp_path: Path):
    """Submits laptop-scratch to the cluster and gives (completed command, run directory, job ids)."""

    def start(*arguments: object, **environ: str):
        words = ("submit", "--recipe", "laptop-scratch", "--data", speeches_data)
        done = bertjobs(*words, *arguments, environ={**cluster.environment, **environ})
        assert done.returncode == 0, done.stderr
        directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
        jobs = [event["job"] for event in directory.events() if event["event"] == "submitted"]
        return done, directory, jobs

    return start


def test_both_phases_are_queued_and_complete(submit, cluster: Cluster, bertjobs: Bertjobs) -> None:
    done, directory, jobs = submit("--nodes", 2)
    assert "world size" not in done.stderr
    assert f"queued phase 1 as job {jobs[0]}" in done.stdout
    assert f"queued phase 2 as job {jobs[1]}" in done.stdout

    follow = bertjobs("logs", "laptop-scratch", "--follow", environ=cluster.environment)
    assert follow.returncode == 0
    assert "phase 1 step 20/20" in follow.stdout
    assert "phase 2 step 5/5" in follow.stdout

    assert [cluster.wait(job) for job in jobs] == ["COMPLETED", "COMPLETED"]
    assert directory.phase(1).done().step == 20
    assert directory.phase(2).done().step == 5
    log = (directory.phase(2).logs / f"{jobs[1]}-0.out").read_text()
    assert f"starting from {directory.phase(1).checkpoints / directory.phase(1).done().checkpoint}" in log
    assert "world size 2 = 2 nodes x 1 task" in log

    status = bertjobs("status", "--json", environ=cluster.environment)
    rows = json.loads(status.stdout)
    assert [(row["phase"], row["state"], row["steps_done"]) for row in rows] == [(1, "DONE", 20), (2, "DONE", 5)]
    logs = bertjobs("logs", "laptop-scratch", "--phase", 1, environ=cluster.environment)
    assert "phase 1 is done" in logs.stdout
    nothing = bertjobs("cancel", "laptop-scratch", environ=cluster.environment)
    assert nothing.stdout.strip() == "this run has no queued or running jobs"


def test_unfit_nodes_are_excluded(submit, cluster: Cluster, tmp_path: Path, unhurried: dict[str, str]) -> None:
    results = tmp_path / "results"
    results.mkdir()
    record(results, "node1", "a GPU is missing", fatal=True, run="other", job="7", now=time.time())
    _, directory, jobs = submit("--nodes", 2, "--phase", 1, "--set", "phase1.steps=100000", **unhurried)
    assert "#SBATCH --exclude=node1\n" in directory.phase(1).script.read_text()
    cluster.wait_queue(jobs[0], "RUNNING")
    assert cluster.run(["squeue", "-h", "-j", jobs[0], "-o", "%N"]).stdout.strip() == "node[2-3]"
    cluster.run(["scancel", jobs[0]])


def test_a_running_run_is_seen_cancelled_and_resumed(
    submit, cluster: Cluster, bertjobs: Bertjobs, unhurried: dict[str, str]
) -> None:
    asked = ("--time", "33", "--sbatch", "comment=mine")
    _, directory, jobs = submit("--set", "phase1.steps=100000", "--phase", 1, *asked, **unhurried)
    cluster.wait_queue(jobs[0], "RUNNING")
    wait_until(directory.phase(1).metrics.exists)
    (row,) = json.loads(bertjobs("status", "laptop-scratch", "--json", environ=cluster.environment).stdout)
    assert row["state"] == "RUNNING"
    assert row["steps_done"] >= 1
    assert row["step_age_s"] < 60

    cancelled = bertjobs("cancel", "laptop-scratch", environ=cluster.environment)
    assert jobs[0] in cancelled.stdout.removeprefix("cancelled ").strip().split(", "), cancelled.stdout
    assert cluster.wait(jobs[0]) == "CANCELLED"
    (row,) = json.loads(bertjobs("status", "laptop-scratch", "--json", environ=cluster.environment).stdout)
    assert row["state"] == "CANCELLED"
    assert row["checkpoint"], "the worker writes a checkpoint before it ends"
    assert bertjobs("logs", "laptop-scratch", environ=cluster.environment).stdout.count("checkpoint")

    resumed = bertjobs("resume", "laptop-scratch", "--time", "44", environ={**cluster.environment, **unhurried})
    assert resumed.returncode == 0, resumed.stderr
    assert "as submitted before: --comment=mine\n" in resumed.stderr
    script = directory.phase(1).script.read_text()
    assert "#SBATCH --time=44\n" in script
    assert "#SBATCH --comment=mine\n" in script
    second = [event["job"] for event in directory.events() if event["event"] == "submitted"][-1]
    log = directory.phase(1).logs / f"{second}-0.out"
    wait_until(lambda: log.exists() and "continuing from" in log.read_text())
    assert f"continuing from {directory.phase(1).checkpoints / row['checkpoint']}" in log.read_text()


def test_an_image_that_nothing_can_start_is_refused_before_anything_is_queued(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    before = cluster.run(["squeue", "-h", "-t", "all"]).stdout
    done = bertjobs(
        *("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--image", "x.sqsh"),
        environ=cluster.environment,
    )
    assert done.returncode == 64
    assert "srun here has no pyxis (--container-image), and neither apptainer nor singularity" in done.stderr
    assert cluster.run(["squeue", "-h", "-t", "all"]).stdout == before
    assert not (tmp_path / "results").exists()


def test_a_missing_partition_is_named_and_nothing_is_left(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    done = bertjobs(
        *("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--partition", "nosuch"),
        environ=cluster.environment,
    )
    assert done.returncode == 64
    assert "the cluster has no partition 'nosuch'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_gpus_are_requested_from_slurm(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    """The simulated GPUs are allocated; that no rank sees them is a fault of the nodes, reported in one clear error."""
    done = bertjobs(
        *("submit", "--recipe", "dgxa100-80g", "--nodes", 2, "--phase", 1, "--model", "bert-nano"),
        *("--data", speeches_data, "--recipes", _any_vocabulary(tmp_path)),
        environ=cluster.environment,
    )
    assert done.returncode == 0, done.stderr
    events = RunDirectory(tmp_path / "results" / "dgxa100-80g").events()
    (job,) = [event["job"] for event in events if event["event"] == "submitted"]
    assert cluster.wait(job) == "FAILED"
    ((allocated, code),) = cluster.accounted(job, "AllocTRES", "ExitCode")
    assert "gres/gpu=16" in allocated
    assert code == "70:0"
    log = (tmp_path / "results" / "dgxa100-80g" / "phase1" / "logs" / f"{job}-0.out").read_text()
    assert "refusing to train on these nodes" in log
    assert "0 of 8 GPUs seen" in log
    assert {suspect.node for suspect in suspects(tmp_path / "results", time.time())} == {"node1", "node2"}
    assert "Traceback" not in log


def _any_vocabulary(folder: Path) -> Path:
    file = folder / "own.yml"
    file.write_text("recipes: {dgxa100-80g: {vocabulary: any}}\n")
    return file
