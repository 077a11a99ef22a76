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


@pytest.mark.slow
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
    small = {"PRECISION": "fp32", "GPUS": "0", "STEPS_THIS_RUN": "1", "VOCABULARY": "any"}
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


@pytest.mark.slow
def test_without_a_number_of_tasks_there_is_one_per_gpu(
    cluster: Cluster, environ: dict[str, str], tmp_path: Path
) -> None:
    """16 tasks start on nodes that gave the job 8 GPUs and one CPU each; torch sees none of the simulated GPUs."""
    env = {**environ, "VOCABULARY": "any"}
    job = cluster.submit(["-N2", "--gpus-per-node=8", RUN_SUB], env=env, cwd=tmp_path)
    assert cluster.wait(job) == "FAILED"
    assert cluster.run(["sacct", "-nXP", "-o", "ExitCode", "-j", str(job)]).stdout.strip() == "70:0"
    assert "0 of 8 GPUs seen" in _logs(tmp_path)
    steps = cluster.run(["sacct", "-nP", "-o", "JobID,NTasks", "-j", str(job)]).stdout.split()
    assert f"{job}.0|16" in steps


def test_the_shortest_line_says_in_one_sentence_what_to_add(
    cluster: Cluster, environ: dict[str, str], tmp_path: Path
) -> None:
    """The nodes have GPUs, and the job has not asked for any."""
    job = cluster.submit(["-N4", RUN_SUB], env={**environ, "BATCHSIZE": "2048", "PHASE": "1"}, cwd=tmp_path)
    assert cluster.wait(job) == "FAILED"
    assert cluster.run(["sacct", "-nXP", "-o", "ExitCode", "-j", str(job)]).stdout.strip() == "64:0"
    assumed, sentence = (tmp_path / f"slurm-{job}.out").read_text().splitlines()
    assert assumed.startswith("recipe dgxa100-40g is assumed: RECIPE is not set, and nvidia-smi names no GPU")
    assert sentence == (
        "error: recipe dgxa100-40g trains on GPUs, and this job has none of the 8 that its node has: add "
        "--gpus-per-node=8 to sbatch, or set GPUS=0 to train on CPUs"
    )


@pytest.mark.slow
def test_an_exclusive_job_uses_the_gpus_that_it_has_without_asking(
    cluster: Cluster, environ: dict[str, str], tmp_path: Path
) -> None:
    """The shortest line with --exclusive: 32 tasks start, each with its node's eight GPUs; torch sees none of them."""
    env = {**environ, "BATCHSIZE": "2048", "PHASE": "1", "VOCABULARY": "any"}
    job = cluster.submit(["-N4", "--exclusive", RUN_SUB], env=env, cwd=tmp_path)
    assert cluster.wait(job) == "FAILED"
    assert "0 of 8 GPUs seen" in _logs(tmp_path)
    steps = cluster.run(["sacct", "-nP", "-o", "JobID,NTasks,AllocTRES", "-j", str(job)]).stdout.split()
    (step,) = [line for line in steps if line.startswith(f"{job}.0|")]
    assert step.startswith(f"{job}.0|32|")
    assert "gres/gpu=32" in step


def test_a_batch_that_is_not_the_recipe_s_is_said_in_the_first_lines(
    cluster: Cluster, environ: dict[str, str], tmp_path: Path
) -> None:
    env = {**environ, "RECIPE": "laptop-scratch", "BATCHSIZE": "16", "PHASE": "1", "STEPS_THIS_RUN": "1"}
    job = cluster.submit(["-N2", RUN_SUB], env=env, cwd=tmp_path)
    cluster.wait(job)
    (log,) = tmp_path.glob(f"results/*/phase1/logs/{job}-0.out")
    first = "".join(log.read_text().splitlines(keepends=True)[:6])
    assert "warning: the global batch is 32, but recipe laptop-scratch has 64" in first
    assert "BATCHSIZE=32" in first


def test_from_another_folder_the_message_is_what_to_type(
    cluster: Cluster, environ: dict[str, str], tmp_path: Path
) -> None:
    """The script lies in a checkout, sbatch is called elsewhere, and the nodes' own Python has no bertjobs."""
    tools, python = tmp_path / "tools", tmp_path / "checkout" / ".venv" / "bin" / "python"
    for program in (tools / "python3", python):
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/bash\nexit 1\n")
        program.chmod(0o755)
    script = tmp_path / "checkout" / "run.sub"
    script.write_bytes(RUN_SUB.read_bytes())
    (tmp_path / "elsewhere").mkdir()
    env = {**environ, "BERTJOBS_PYTHON": "", "PATH": f"{tools}:{cluster.environment['PATH']}"}
    job = cluster.submit(["-N1", script], env=env, cwd=tmp_path / "elsewhere")
    assert cluster.wait(job) == "FAILED"
    assert (tmp_path / "elsewhere" / f"slurm-{job}.out").read_text() == (
        f"error: python3 has no bertjobs: submit in its folder, or type BERTJOBS_PYTHON={python} sbatch ...\n"
    )


def test_a_signalled_job_resumes_by_requeue_and_phase_2_waits_for_its_end(
    cluster: Cluster, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bertjobs.yml").write_text("recipes: {laptop-scratch: {phases: {1: {steps: 40}}}}\n")
    job = cluster.submit(["-N1", RUN_SUB], env={**environ, "RECIPE": "laptop-scratch", "PHASE": "1"}, cwd=tmp_path)
    behind = cluster.submit(
        ["-N1", f"--dependency=afterany:{job}", RUN_SUB],
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
    assert directory.phase(1).done().step == 40


@pytest.mark.slow
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
