"""What users of Slurm launchers complain about (docs/launcher-complaints.md), on a real Slurm."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjobs.run.directory import RunDirectory
from tests.cluster.slurm import Cluster
from tests.conftest import wait_until

RUN_SUB = Path(__file__).parents[2] / "run.sub"
SECRET = "s3cr3t_do_not_write_me"
GIVEN = "SLURM_CPUS_PER_TASK OMP_NUM_THREADS MASTER_PORT MOUNTS CUDA_VISIBLE_DEVICES"

Submit = Callable[..., int]


@pytest.fixture
def by_hand(cluster: Cluster, tmp_path: Path) -> Submit:
    """``sbatch OPTIONS run.sub`` with a worker that records what it is given, then does what the test says."""

    def submit(worker: str, *options: str, **environ: str) -> int:
        lines = "\n".join(f'echo "{name}=${name}"' for name in GIVEN.split())
        file = tmp_path / "worker"
        file.write_text(f"#!/bin/bash\n(echo PARENT=$(</proc/$PPID/comm)\n{lines}) >$SLURM_PROCID.given\n{worker}\n")
        file.chmod(0o755)
        return cluster.submit(
            [*options, RUN_SUB],
            env={"BERTJOBS_PYTHON": str(file), "BERTJOBS_LINK": sys.executable, "GPUS": "0", **environ},
            cwd=tmp_path,
        )

    return submit


def given(folder: Path, rank: int = 0) -> dict[str, str]:
    """What a rank was given."""
    return dict(line.split("=", 1) for line in (folder / f"{rank}.given").read_text().splitlines())


def logs(folder: Path) -> dict[str, str]:
    """The worker's logs of all attempts."""
    return {file.name: file.read_text() for file in folder.glob("results/bert-large/phase1/logs/*")}


def test_each_rank_has_the_cpus_that_the_job_asked_for(cluster: Cluster, by_hand: Submit, tmp_path: Path) -> None:
    job = by_hand("exit 0", "-N2", "--ntasks-per-node=2", "--cpus-per-task=4")
    assert cluster.wait(job) == "COMPLETED"
    assert [given(tmp_path, rank)["SLURM_CPUS_PER_TASK"] for rank in range(4)] == ["4"] * 4
    assert given(tmp_path)["OMP_NUM_THREADS"] == "4"
    steps = cluster.run(["sacct", "-nP", "-o", "JobID,NTasks,AllocCPUS", "-j", str(job)]).stdout.split()
    assert f"{job}.0|4|16" in steps


@pytest.mark.parametrize("options", [["--gpus-per-task=1"], ["--gpus-per-node=2", "--gpu-bind=single:1"]])
def test_the_ranks_of_a_node_see_each_other_s_gpus(
    cluster: Cluster, by_hand: Submit, tmp_path: Path, options: list[str]
) -> None:
    job = by_hand("exit 0", "-N2", "--ntasks-per-node=2", *options, GPUS="")
    assert cluster.wait(job) == "COMPLETED"
    assert [given(tmp_path, rank)["CUDA_VISIBLE_DEVICES"] for rank in range(4)] == ["0,1"] * 4


def test_nothing_stands_between_slurm_and_a_rank(cluster: Cluster, by_hand: Submit, tmp_path: Path) -> None:
    """A shell there would keep signals to itself."""
    assert cluster.wait(by_hand("exit 0", "-N1", "--ntasks-per-node=2")) == "COMPLETED"
    assert [given(tmp_path, rank)["PARENT"] for rank in (0, 1)] == ["slurmstepd", "slurmstepd"]


def test_a_rank_that_ends_alone_ends_the_job(cluster: Cluster, by_hand: Submit) -> None:
    job = by_hand("((SLURM_PROCID)) && exit 3; exec sleep 600", "-N2")
    assert cluster.wait(job) == "FAILED"
    assert cluster.run(["sacct", "-nXP", "-o", "ExitCode", "-j", str(job)]).stdout.strip() == "70:0"


def test_a_value_with_commas_arrives_whole(cluster: Cluster, by_hand: Submit, tmp_path: Path) -> None:
    mounts = "/a:/b:ro,/c:/d,/e f:/g"
    assert cluster.wait(by_hand("exit 0", "-N1", MOUNTS=mounts)) == "COMPLETED"
    assert given(tmp_path)["MOUNTS"] == mounts


def test_a_port_that_is_taken_is_skipped(cluster: Cluster, by_hand: Submit, tmp_path: Path) -> None:
    job = by_hand("exit 0", "-N1", "--hold")
    usual = 20000 + job % 12000
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("0.0.0.0", usual))
        other.listen(8)
        cluster.run(["scontrol", "release", str(job)])
        assert cluster.wait(job) == "COMPLETED"
    assert given(tmp_path)["MASTER_PORT"] == str(usual + 1)
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert usual + 1 < ephemeral


def test_each_attempt_keeps_its_log(cluster: Cluster, by_hand: Submit, tmp_path: Path) -> None:
    """The first attempt makes a checkpoint, so that the job is requeued; the logs' folder is made if it is missing."""
    step = "results/bert-large/phase1/checkpoints/step-00000001"
    job = by_hand(
        f"echo attempt ${{SLURM_RESTART_COUNT:-0}}; [[ -d {step} ]] && exit 0; mkdir -p {step}; exit 75", "-N1"
    )
    wait_until(lambda: f"{job}-1.out" in logs(tmp_path))
    assert cluster.wait(job) == "COMPLETED"
    texts = {name: text.rpartition(": ")[2] for name, text in logs(tmp_path).items()}
    assert texts == {f"{job}-0.out": "attempt 0\n", f"{job}-1.out": "attempt 1\n"}
    batch = (tmp_path / f"slurm-{job}.out").read_text()
    assert batch.count("phase 1 of run bert-large ended with code") == 2


def test_a_job_submitted_inside_a_job_is_its_own_and_no_secret_is_written(
    cluster: Cluster, speeches_data: Path, tmp_path: Path
) -> None:
    """From a job of another shape, with a token in the environment; sbatch takes options from SBATCH_* as well."""
    submit = (
        f"export SBATCH_EXCLUSIVE=1 SBATCH_TIMELIMIT=1; {sys.executable} -m bertjobs submit --recipe laptop-scratch "
        f"--data {speeches_data} --nodes 2 --phase 1 --set phase1.steps=2 --sbatch=--hold"
    )
    secrets = {"HF_TOKEN": SECRET, "WANDB_API_KEY": SECRET, "XDG_CONFIG_HOME": str(tmp_path)}
    outer = cluster.submit(["-N1", "--cpus-per-task=5", "-o", "outer.out", "--wrap", submit], env=secrets, cwd=tmp_path)
    assert cluster.wait(outer) == "COMPLETED", (tmp_path / "outer.out").read_text()

    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    (job,) = {event["job"] for event in directory.events() if event["event"] == "submitted"}
    shown = cluster.run(["scontrol", "show", "job", "-dd", job]).stdout
    for words in ("NumNodes=2", "CPUs/Task=1", "TimeLimit=1-00:00:00", "OverSubscribe=OK"):
        assert words in shown, shown
    written = cluster.run(["scontrol", "write", "batch_script", job, "-"]).stdout
    assert "export RUN=laptop-scratch" in written
    assert SECRET not in shown + written
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 4
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []

    cluster.run(["scontrol", "release", job])
    assert cluster.wait(job) == "COMPLETED"
    (log,) = directory.phase(1).logs.glob(f"{job}-0.out")
    assert "world size 2 = 2 nodes x 1 task" in log.read_text()
    files = [file for file in (tmp_path / "results").rglob("*") if file.is_file()]
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []


def submitted(cluster: Cluster, folder: Path, data: Path, **environ: str) -> tuple[str, str]:
    """A tiny run that `bertjobs submit` queues: the job's id, and what was printed."""
    words = ["--recipe", "laptop-scratch", "--phase", "1", "--data", str(data), "--results", str(folder / "results")]
    done = cluster.run([sys.executable, "-m", "bertjobs", "submit", *words], env=environ, cwd=folder)
    (queued,) = [
        event for event in RunDirectory(folder / "results" / "laptop-scratch").events() if event["event"] == "submitted"
    ]
    return str(queued["job"]), done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_for_drained_nodes_is_queued_and_waits_for_them(
    cluster: Cluster, speeches_data: Path, tmp_path: Path
) -> None:
    cluster.run(["scontrol", "update", "NodeName=node[1-4]", "State=DRAIN", "Reason=test"])
    try:
        job, printed = submitted(cluster, tmp_path, speeches_data)
        assert "warning: enough nodes exist, but not all of them can be used now" in printed
        assert cluster.squeue_state(job) == "PENDING"
    finally:
        cluster.run(["scontrol", "update", "NodeName=node[1-4]", "State=RESUME"])
    assert cluster.wait(job) == "COMPLETED"


def test_the_shell_s_own_defaults_for_sbatch_are_kept(cluster: Cluster, speeches_data: Path, tmp_path: Path) -> None:
    job, _ = submitted(cluster, tmp_path, speeches_data, SBATCH_TIMELIMIT="17")
    assert cluster.wait(job) == "COMPLETED"
    assert cluster.accounted(job, "Timelimit") == [["00:17:00"]]
