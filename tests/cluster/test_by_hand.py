"""`sbatch run.sub` typed by hand, without bertjobs in the submitting shell."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bertjobs.run.directory import RunDirectory
from tests.cluster.slurm import Cluster
from tests.conftest import wait_until

RUN_SUB = Path(__file__).parent.parent.parent / "run.sub"


def environment(data: Path, folder: Path, **settings: str) -> dict[str, str]:
    """What a person exports before ``sbatch run.sub``."""
    return {
        "BERTJOBS_PYTHON": sys.executable,  # of the compute nodes; sbatch itself runs no Python
        "DATADIR": str(data),
        "RESULTS": str(folder / "results"),
        **settings,
    }


@pytest.fixture
def environ(speeches_data: Path, tmp_path: Path) -> dict[str, str]:
    return environment(speeches_data, tmp_path)


def test_phase_2_follows_phase_1(cluster: Cluster, environ: dict[str, str], tmp_path: Path) -> None:
    for phase in ("1", "2"):
        job = cluster.submit(
            ["-N2", RUN_SUB],
            env={**environ, "RECIPE": "laptop-scratch", "BATCHSIZE": "32", "PHASE": phase},
            cwd=tmp_path,
        )
        assert cluster.wait(job) == "COMPLETED", _logs(tmp_path)
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    assert directory.phase(1).done().step == 20
    assert directory.phase(2).done().step == 5
    assert "rank batch (BATCHSIZE) 32 x 2 ranks" in _logs(tmp_path)
    assert f"starting from {directory.phase(1).checkpoints}" in _logs(tmp_path)


def test_phase_2_started_before_phase_1_exits_with_64_and_says_why(
    cluster: Cluster, environ: dict[str, str], tmp_path: Path
) -> None:
    job = cluster.submit(["-N2", RUN_SUB], env={**environ, "RECIPE": "laptop-scratch", "PHASE": "2"}, cwd=tmp_path)
    assert cluster.wait(job) == "FAILED"
    assert cluster.run(["sacct", "-nXP", "-o", "ExitCode", "-j", str(job)]).stdout.strip() == "64:0"
    log = _logs(tmp_path)
    assert "error: phase 2 starts from phase 1, which is not done: there is no DONE.json" in log
    assert "Traceback" not in log


@pytest.mark.slow  # a real step of so many sequences takes a minute or more
def test_nvidia_s_own_command_line_works_unchanged(cluster: Cluster, environ: dict[str, str], tmp_path: Path) -> None:
    """32 ranks take one real step of 65,536 sequences; only what makes the model small is added to the line."""
    (tmp_path / "bertjobs.yml").write_text("recipes: {dgxa100-40g: {vocabulary: any}}\n")
    small = {"MODEL": "bert-nano", "PRECISION": "fp32", "GPUS": "0", "STEPS_THIS_RUN": "1"}
    line = {"BATCHSIZE": "2048", "LR": "6e-3", "GRADIENT_STEPS": "128", "PHASE": "1"}
    job = cluster.submit(["-N4", "--ntasks-per-node=8", RUN_SUB], env={**environ, **small, **line}, cwd=tmp_path)
    assert cluster.wait(job) == "FAILED"  # Slurm's word for an exit code that is not 0
    assert cluster.run(["sacct", "-nXP", "-o", "ExitCode", "-j", str(job)]).stdout.strip() == "75:0"
    log = _logs(tmp_path)
    assumed = "recipe dgxa100-40g is assumed: RECIPE is not set, and the run uses no GPU (GPUS=0)\n"
    assert (tmp_path / f"slurm-{job}.out").read_text().startswith(assumed)
    assert "run bert-large: recipe dgxa100-40g, phase 1" in log
    assert "world size 32 = 4 nodes x 8 tasks" in log
    assert "global batch 65536 = rank batch (BATCHSIZE) 2048 x 32 ranks" in log
    assert "gradient steps (GRADIENT_STEPS) 128 x micro-batch 16" in log
    assert "learning rate (LR) 0.006" in log
    assert "phase 1 step 1/7038" in log
    assert (tmp_path / "results" / "bert-large" / "phase1" / "checkpoints" / "step-00000001" / "MANIFEST.json").exists()


def test_without_a_number_of_tasks_there_is_one_per_gpu(
    cluster: Cluster, environ: dict[str, str], tmp_path: Path
) -> None:
    """16 tasks start on nodes that gave the job 8 GPUs and one CPU each; torch sees none of the simulated GPUs."""
    (tmp_path / "bertjobs.yml").write_text("recipes: {dgxa100-40g: {vocabulary: any}}\n")
    job = cluster.submit(["-N2", "--gpus-per-node=8", RUN_SUB], env={**environ, "MODEL": "bert-nano"}, cwd=tmp_path)
    assert cluster.wait(job) == "FAILED"
    assert cluster.run(["sacct", "-nXP", "-o", "ExitCode", "-j", str(job)]).stdout.strip() == "70:0"
    assert "0 of 8 GPUs seen" in _logs(tmp_path)
    steps = cluster.run(["sacct", "-nP", "-o", "JobID,NTasks", "-j", str(job)]).stdout.split()
    assert f"{job}.0|16" in steps


def test_a_signalled_job_resumes_by_requeue_and_phase_2_waits_for_its_end(
    cluster: Cluster, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bertjobs.yml").write_text("recipes: {laptop-scratch: {phases: {1: {steps: 60}}}}\n")
    job = cluster.submit(["-N2", RUN_SUB], env={**environ, "RECIPE": "laptop-scratch", "PHASE": "1"}, cwd=tmp_path)
    behind = cluster.submit(
        ["-N2", f"--dependency=afterany:{job}", RUN_SUB],
        env={**environ, "RECIPE": "laptop-scratch", "PHASE": "2"},
        cwd=tmp_path,
    )
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    wait_until(directory.phase(1).metrics.exists)
    cluster.run(["scancel", "--signal=USR2", str(job)])  # what --signal=USR2@LEAD sends: to the tasks only
    assert cluster.wait(job) == "COMPLETED", _logs(tmp_path)
    assert cluster.wait(behind) == "COMPLETED", _logs(tmp_path)
    ends = [event for event in directory.events() if event["event"] == "ended"]
    assert [(event["phase"], event["cause"], event["attempt"]) for event in ends] == [
        (1, "SIGUSR2", 0),
        (1, "done", 1),
        (2, "done", 0),
    ]
    assert directory.phase(1).done().step == 60


def test_a_preempted_job_comes_back_and_resumes(cluster: Cluster, environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bertjobs.yml").write_text("recipes: {laptop-scratch: {phases: {1: {steps: 60}}}}\n")
    job = cluster.submit(["-N2", RUN_SUB], env={**environ, "RECIPE": "laptop-scratch", "PHASE": "1"}, cwd=tmp_path)
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    wait_until(directory.phase(1).metrics.exists)
    urgent = cluster.submit(["-p", "urgent", "-N4", "--exclusive", "--wrap", "true"], cwd=tmp_path)
    assert cluster.wait(urgent) == "COMPLETED"
    assert cluster.wait(job) == "COMPLETED", _logs(tmp_path)
    ends = [event for event in directory.events() if event["event"] == "ended"]
    assert [(event["cause"], event["attempt"]) for event in ends] == [("SIGTERM", 0), ("done", 1)]
    assert f"continuing from {directory.phase(1).checkpoints}" in _logs(tmp_path)
    steps = [json.loads(line)["step"] for line in directory.phase(1).metrics.read_text().splitlines()]
    assert steps == list(range(1, 61))


def _logs(folder: Path) -> str:
    files = [*folder.glob("slurm-*.out"), *folder.glob("results/*/phase*/logs/*.out")]
    return "\n".join(file.read_text() for file in files)
