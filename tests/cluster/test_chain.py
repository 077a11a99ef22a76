"""A job resumes by itself whatever happens to it, and the journal names the cause."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjobs.run.directory import RunDirectory
from tests.cluster.process import ranks_of
from tests.cluster.slurm import Cluster
from tests.cluster.test_by_hand import RUN_SUB, _logs, environment
from tests.conftest import Bertjobs, wait_until

STEPS = 60


@pytest.fixture
def environ(speeches_data: Path, tmp_path: Path) -> dict[str, str]:
    recipe = {"restarts_crashed": 1, "phases": {1: {"steps": STEPS, "checkpoint_every": 5}}}
    (tmp_path / "bertjobs.yml").write_text(json.dumps({"recipes": {"laptop-scratch": recipe}}))
    return environment(speeches_data, tmp_path, RECIPE="laptop-scratch", PHASE="1")


def ends(directory: RunDirectory) -> list[tuple[int, str]]:
    return [(event["attempt"], event["cause"]) for event in directory.events() if event["event"] == "ended"]


@pytest.mark.slow
def test_a_job_that_crashes_is_restarted_as_often_as_the_recipe_allows(
    cluster: Cluster, environ: dict[str, str], tmp_path: Path
) -> None:
    """Each attempt writes a newer checkpoint, and then a rank is killed; at last a person starts the phase again."""
    job = cluster.submit(["-N2", RUN_SUB], env=environ, cwd=tmp_path)
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    checkpoints = directory.phase(1).checkpoints
    for attempt in range(2):
        wait_until((directory.phase(1).logs / f"{job}-{attempt}.out").exists)
        before = set(checkpoints.glob("step-*"))
        wait_until(lambda before=before: set(checkpoints.glob("step-*")) - before)
        ranks_of(cluster.folder, str(job))[1 - attempt][1].send(signal.SIGKILL)
    assert cluster.wait(job, timeout=120) == "FAILED", _logs(tmp_path)
    assert cluster.run(["sacct", "-nXP", "-o", "ExitCode", "-j", str(job)]).stdout.strip() == "70:0"
    assert not (directory.phase(1).logs / f"{job}-2.out").exists(), "a third attempt is not needed to find that out"
    assert "2 attempts crashed; the recipe allows 1 restart after a crash" in _logs(tmp_path)
    first, second = ends(directory)[:2]
    assert first in [(0, "lost rank"), (0, "crashed")], "rank 0 records it, unless it is killed first"
    assert second == (1, "crashed"), "no process was left to record it"

    again = cluster.submit(["-N2", RUN_SUB], env=environ, cwd=tmp_path)
    assert cluster.wait(again) == "COMPLETED", _logs(tmp_path)
    steps = [json.loads(line)["step"] for line in directory.phase(1).metrics.read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))


@pytest.fixture
def fragile(cluster: Cluster) -> Iterator[str]:
    """A partition whose preempted jobs are cancelled, not requeued."""
    nodes = cluster.run(["sinfo", "-h", "-p", "batch", "-o", "%N"]).stdout.strip()
    options = [f"Nodes={nodes}", "PriorityTier=1", "PreemptMode=CANCEL", "MaxTime=1-0", "State=UP"]
    cluster.run(["scontrol", "create", "PartitionName=fragile", *options])
    yield "fragile"
    cluster.clear()
    cluster.run(["scontrol", "delete", "PartitionName=fragile"])


def spares(directory: RunDirectory) -> list[str]:
    return [event["job"] for event in directory.events() if event["event"] == "submitted" and event.get("spare")]


@pytest.mark.slow
def test_where_preempted_jobs_are_cancelled_a_new_one_resumes(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path, fragile: str
) -> None:
    done = bertjobs(
        *("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--nodes", 2, "--phase", 1),
        *("--partition", fragile, "--set", f"phase1.steps={STEPS}", "--set", "phase1.checkpoint_every=5"),
        environ=cluster.environment,
    )
    assert done.returncode == 0, done.stderr
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    (first,) = [event["job"] for event in directory.events() if event["event"] == "submitted"]
    wait_until(lambda: any(directory.phase(1).checkpoints.glob("step-*")))
    urgent = cluster.submit(["-p", "urgent", "-N4", "--exclusive", "--wrap", "true"], cwd=tmp_path)
    assert cluster.wait(urgent) == "COMPLETED"
    assert cluster.wait(first) == "PREEMPTED"
    wait_until(lambda: any(event.get("cause") == "done" for event in directory.events()))
    assert directory.phase(1).done() is not None
    ends = [(event["job"], event["cause"]) for event in directory.events() if event["event"] in ("ended", "explained")]
    second = spares(directory)[0]
    assert ends == [(first, "SIGTERM"), (first, "preempted"), (second, "done")]
    wait_until(lambda: not cluster.run(["squeue", "-h", "-o", "%i"]).stdout.strip())  # nothing waits forever


def test_a_run_that_is_cancelled_leaves_nothing_behind(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path, unhurried: dict[str, str]
) -> None:
    done = bertjobs(
        *("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--set", "phase1.steps=100000"),
        *("--set", "phase1.checkpoint_every=5"),
        environ={**cluster.environment, **unhurried},
    )
    assert done.returncode == 0, done.stderr
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    wait_until(lambda: any(directory.phase(1).checkpoints.glob("step-*")))
    cancelled = bertjobs("cancel", "laptop-scratch", environ=cluster.environment)
    assert cancelled.returncode == 0, cancelled.stderr
    wait_until(lambda: not cluster.run(["squeue", "-h", "-o", "%i"]).stdout.strip())
    assert spares(directory) == []


def test_bad_input_cancels_the_jobs_that_follow(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    """The data are gone by the time the job starts."""
    own = tmp_path / "data"
    own.symlink_to(speeches_data)
    blocked = cluster.submit(["-N4", "--exclusive", "--wrap", "sleep 600"], cwd=tmp_path)
    cluster.wait_queue(blocked, "RUNNING")
    done = bertjobs("submit", "--recipe", "laptop-scratch", "--data", own, environ=cluster.environment)
    assert done.returncode == 0, done.stderr
    own.unlink()
    cluster.run(["scancel", str(blocked)])
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    first, second = [event["job"] for event in directory.events() if event["event"] == "submitted"]
    assert cluster.wait(first) == "FAILED"
    assert cluster.wait(second) == "CANCELLED"
