"""A run that two jobs would train: one trains it, whichever way the other came about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from bertjobs.run.directory import RunDirectory
from bertjobs.run.owner import Owners
from tests.cluster.slurm import Cluster
from tests.cluster.test_by_hand import RUN_SUB, environment
from tests.cluster.unreliable import UnreliableCommands


@pytest.fixture
def environ(speeches_data: Path, tmp_path: Path) -> dict[str, str]:
    return environment(speeches_data, tmp_path, RECIPE="laptop-scratch", PHASE="1")


def assert_trained_once(directory: RunDirectory, steps: int = 20) -> None:
    """Phase 1 is done, no step was made twice, and no attempt began before the one before it had ended."""
    assert directory.phase(1).done().step == steps
    lines = [json.loads(line) for line in directory.phase(1).metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    starts = [event for event in directory.events() if event["event"] == "started" and event["phase"] == 1]
    assert len(starts) == 1
    owners = Owners(directory.owners)
    assert owners.is_released(owners.last())


def logs(folder: Path) -> str:
    return "\n".join(file.read_text() for file in sorted(folder.glob("slurm-*.out")))


@pytest.mark.parametrize(
    "array", [pytest.param(False, id="two-sbatch"), pytest.param(True, id="job-array", marks=pytest.mark.slow)]
)
def test_of_two_jobs_of_a_run_by_hand_one_trains_it(
    cluster: Cluster, environ: dict[str, str], tmp_path: Path, array: bool
) -> None:
    if array:
        job = cluster.submit(["-N1", "--array=0-1", RUN_SUB], env=environ, cwd=tmp_path)
        jobs = [f"{job}_0", f"{job}_1"]
    else:
        jobs = [cluster.submit(["-N1", RUN_SUB], env=environ, cwd=tmp_path) for _ in range(2)]
    assert [cluster.wait(job) for job in jobs] == ["COMPLETED", "COMPLETED"], logs(tmp_path)
    assert_trained_once(RunDirectory(tmp_path / "results" / "laptop-scratch"))
    assert logs(tmp_path).count("run laptop-scratch is being trained by job ") == 1
    assert "leaves it alone" in logs(tmp_path)


def submit(environment: Mapping[str, str], folder: Path, data: Path, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "bertjobs", "submit", "--recipe", "laptop-scratch", "--phase", "1", "--data", data,
             "--results", folder / "results", *more]  # fmt: skip
    return subprocess.Popen(
        [str(word) for word in words], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_of_two_submits_at_the_same_moment_one_queues_the_run(
    cluster: Cluster, speeches_data: Path, tmp_path: Path
) -> None:
    both = [submit(cluster.environment, tmp_path, speeches_data) for _ in range(2)]
    answers = [process.communicate() for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 64], answers
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    (queued,) = [event for event in directory.events() if event["event"] == "submitted"]
    assert cluster.wait(queued["job"]) == "COMPLETED"
    assert_trained_once(directory)


def test_a_job_that_sbatch_queued_without_an_answer_is_found(
    cluster: Cluster, speeches_data: Path, tmp_path: Path
) -> None:
    """sbatch queues the job and then loses the controller's answer, as it does under load."""
    commands = UnreliableCommands(tmp_path / "commands", cluster.environment)
    commands.fail_once("sbatch")
    process = submit(commands.environment, tmp_path, speeches_data)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert commands.has_failed("sbatch")
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    (queued,) = [event for event in directory.events() if event["event"] == "submitted"]
    assert f"queued phase 1 as job {queued['job']}" in out
    assert cluster.wait(queued["job"]) == "COMPLETED"
    assert_trained_once(directory)
    assert os.path.commonpath([directory.root, tmp_path]) == str(tmp_path)


def test_a_job_that_submitit_has_no_id_of_is_cancelled(cluster: Cluster, speeches_data: Path, tmp_path: Path) -> None:
    commands = UnreliableCommands(tmp_path / "commands", cluster.environment)
    commands.fail_once("sbatch")
    process = submit(commands.environment, tmp_path, speeches_data, "--backend", "submitit")
    _, err = process.communicate()
    assert process.returncode == 70, err
    assert "sbatch could not reach the cluster" in err
    assert commands.has_failed("sbatch")
    assert cluster.run(["squeue", "-h", "-t", "PENDING,RUNNING", "-o", "%i"]).stdout == ""
    assert not (tmp_path / "results").exists()
