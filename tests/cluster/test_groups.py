"""Nodes with different numbers of ranks, as one heterogeneous job of a real Slurm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from bertjobs.files.json_lines import read_lines
from bertjobs.run.directory import RunDirectory
from tests.cluster.slurm import Cluster
from tests.conftest import Bertjobs, wait_until

STEPS = 20


@pytest.fixture
def run(bertjobs: Bertjobs, cluster: Cluster, speeches_data: Path, tmp_path: Path):
    def submitted(name: str, *words: object, environ: Mapping[str, str] = MappingProxyType({})) -> RunDirectory:
        sets = {"steps": STEPS, "global_batch": 12, "validate_every": 0}
        settings = [word for key, value in sets.items() for word in ("--set", f"phase1.{key}={value}")]
        done = bertjobs(
            *("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--phase", 1),
            *("--run", name, *settings, *words),
            environ={**cluster.environment, **environ},
        )
        assert done.returncode == 0, done.stderr
        return RunDirectory(tmp_path / "results" / name)

    return submitted


def job_of(directory: RunDirectory, number: int = 0) -> str:
    return [event["job"] for event in directory.events() if event["event"] == "submitted"][number]


def losses(directory: RunDirectory) -> list[float]:
    return [line["loss_nats"] for line in read_lines(directory.phase(1).metrics)]


def test_groups_train_as_one_job_and_resume_as_others_with_the_losses_of_equal_nodes(
    run, cluster: Cluster, bertjobs: Bertjobs
) -> None:
    alike = run("alike")
    groups = run("groups", "--groups", "1x1,1x2", "--steps-this-run", STEPS // 2)
    job = job_of(groups)
    assert cluster.wait(job) == "FAILED"  # stopped early: 75
    log = (groups.phase(1).logs / f"{job}-0.out").read_text()
    assert "world size 3 = 1 node x 1 task + 1 node x 2 tasks" in log

    sets = ("--set", "groups=2x1,1x2", "--set", "steps_this_run=0")
    again = bertjobs("resume", "groups", *sets, environ=cluster.environment)
    assert again.returncode == 0, again.stderr
    job = job_of(groups, -1)
    assert cluster.wait(job) == "COMPLETED"
    assert "world size 4 = 2 nodes x 1 task + 1 node x 2 tasks" in (groups.phase(1).logs / f"{job}-0.out").read_text()
    assert cluster.wait(job_of(alike)) == "COMPLETED"
    assert losses(groups) == pytest.approx(losses(alike), abs=1e-5)
    assert len(losses(groups)) == STEPS


def test_a_running_heterogeneous_job_is_one_job_of_its_run(
    run, cluster: Cluster, bertjobs: Bertjobs, unhurried: dict[str, str]
) -> None:
    groups = run("groups", "--groups", "1x1,1x2", "--set", "phase1.steps=100000", environ=unhurried)
    job = job_of(groups)
    cluster.wait_queue(job, "RUNNING")
    wait_until(groups.phase(1).metrics.exists)
    (row,) = json.loads(bertjobs("status", "groups", "--json", environ=cluster.environment).stdout)
    assert (row["state"], {entry["job"] for entry in row["timeline"]}) == ("RUNNING", {job})
    cancelled = bertjobs("cancel", "groups", environ=cluster.environment)
    assert cancelled.returncode == 0, cancelled.stderr
    wait_until(lambda: not cluster.run(["squeue", "-h", "-o", "%i"]).stdout.strip())
