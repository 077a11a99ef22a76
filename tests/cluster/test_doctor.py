"""`bertjobs doctor` on runs of a real Slurm, from sacct, squeue and the logs."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from bertjobs.launch.doctor.diagnose import diagnose
from bertjobs.launch.doctor.evidence import collect
from bertjobs.launch.doctor.verdict import Standing, Verdict
from bertjobs.run.causes import Cause
from bertjobs.run.checkpoints import steps
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.client import Slurm
from tests.cluster.process import Process, environment_of, job_processes, ranks_of
from tests.cluster.slurm import Cluster
from tests.conftest import Bertjobs, wait_until

RUN = "laptop-scratch"
Submit = Callable[..., str]


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "results" / RUN)


@pytest.fixture
def submit(
    bertjobs: Bertjobs, cluster: Cluster, speeches_data: Path, directory: RunDirectory, unhurried: dict[str, str]
) -> Submit:
    """Submits phase 1 of a run that would take hours; gives the job."""

    def start(*arguments: object) -> str:
        endless = ("--set", "phase1.steps=100000", "--set", "phase1.checkpoint_every=100000")
        settings = ("--recipe", RUN, "--data", speeches_data, "--phase", 1, *endless)
        done = bertjobs("submit", *settings, *arguments, environ={**cluster.environment, **unhurried})
        assert done.returncode == 0, done.stderr
        return next(event["job"] for event in directory.events() if event["event"] == "submitted")

    return start


def verdict_on(directory: RunDirectory, cluster: Cluster) -> Verdict:
    evidence = collect(directory, Slurm(cluster.environment), RUN, time.time())
    assert not evidence.silence
    return diagnose(evidence)


def test_a_job_runs_and_is_cancelled(
    submit: Submit, cluster: Cluster, bertjobs: Bertjobs, directory: RunDirectory
) -> None:
    job = submit()
    wait_until(directory.phase(1).metrics.exists)
    running = verdict_on(directory, cluster)
    assert running.cause is Standing.RUNNING, running
    assert f"job {job}: RUNNING (source: squeue)" in running.evidence
    bertjobs("cancel", RUN, environ=cluster.environment)
    assert cluster.wait(job) == "CANCELLED"
    verdict = verdict_on(directory, cluster)
    assert verdict.cause is Cause.CANCELLED, verdict
    assert verdict.sentence == f"job {job} of phase 1 was cancelled"
    assert verdict.command == f"bertjobs resume {RUN}"


def test_a_job_that_reached_its_time_limit(submit: Submit, cluster: Cluster, directory: RunDirectory) -> None:
    job = submit("--time", "10", "--set", "phase1.checkpoint_every=1")
    wait_until(lambda: spares(directory))  # because there is a checkpoint
    cluster.run(["scancel", *spares(directory)])  # or else that one continues
    ranks = [process for _, process in ranks_of(cluster.folder, job).values()]
    with frozen(ranks):  # or else it stops by itself, and is continued
        cluster.run(["scontrol", "update", f"JobId={job}", "EndTime=now+1"])
        assert cluster.wait(job) == "TIMEOUT"
    verdict = verdict_on(directory, cluster)
    assert verdict.cause is Cause.TIME_LIMIT, verdict
    assert "DUE TO TIME LIMIT" in verdict.evidence[0]
    assert verdict.sentence.endswith(f"it resumes from {newest_checkpoint(directory)}")
    assert verdict.command == f"bertjobs resume {RUN}"


def spares(directory: RunDirectory) -> list[str]:
    return [event["job"] for event in directory.events() if event["event"] == "submitted" and event.get("spare")]


@contextmanager
def frozen(processes: Sequence[Process]) -> Iterator[None]:
    """As if their file system hung: they do nothing whatever signals come, until killed."""
    ended = threading.Event()

    def freeze() -> None:
        while not ended.wait(0.01):  # Slurm sends CONT before TERM
            for process in processes:
                process.send(signal.SIGSTOP)

    thread = threading.Thread(target=freeze)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def newest_checkpoint(directory: RunDirectory) -> str:
    return steps(directory.phase(1).checkpoints)[-1].name


def test_a_killed_rank_is_named_with_its_node(submit: Submit, cluster: Cluster, directory: RunDirectory) -> None:
    job = submit("--nodes", 2)
    wait_until(directory.phase(1).metrics.exists)
    rank_of(cluster, job, 1).send(signal.SIGKILL)
    assert cluster.wait(job) == "FAILED"
    verdict = verdict_on(directory, cluster)
    assert verdict.cause is Cause.HOST_MEMORY, verdict
    assert verdict.sentence.startswith("rank 1 on node2 was killed")


def rank_of(cluster: Cluster, job: str, rank: int) -> Process:
    for process in job_processes(cluster.folder):
        variables = environment_of(process)
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        if (variables.get("SLURM_JOB_ID"), variables.get("SLURM_PROCID")) == (
            job,
            str(rank),
        ) and b"srun" not in command:
            return process
    raise AssertionError(f"job {job} has no rank {rank}")


def test_a_preempted_job_waits_and_says_so(submit: Submit, cluster: Cluster, directory: RunDirectory) -> None:
    job = submit()
    wait_until(directory.phase(1).metrics.exists)
    urgent = cluster.submit(["-p", "urgent", "-N4", "--exclusive", "--wrap", "sleep 60"])
    cluster.wait_queue(job, "PENDING")
    wait_until(lambda: verdict_on(directory, cluster).cause is Standing.QUEUED)
    verdict = verdict_on(directory, cluster)
    assert any("its last attempt: preempted: " in line for line in verdict.evidence), verdict
    cluster.run(["scancel", str(urgent)])
    cluster.run(["scontrol", "update", f"JobId={job}", "StartTime=now"])
    cluster.wait_queue(job, "RUNNING")
    wait_until(lambda: Slurm(cluster.environment).jobs([job])[job].past == ("PREEMPTED",))


def test_a_dependency_that_can_never_be_met(submit: Submit, cluster: Cluster, directory: RunDirectory) -> None:
    failed = cluster.submit(["--wrap", "exit 1"])
    assert cluster.wait(failed) == "FAILED"
    job = submit(f"--sbatch=--dependency=afterok:{failed}")
    wait_until(lambda: verdict_on(directory, cluster).cause is not Standing.QUEUED)
    verdict = verdict_on(directory, cluster)
    assert verdict.cause is Standing.DEPENDENCY, verdict
    assert f"job {job} can never start" in verdict.sentence
    assert verdict.command == f"bertjobs cancel {RUN} && bertjobs resume {RUN}"


def test_a_waiting_job_says_what_it_waits_for(submit: Submit, cluster: Cluster, directory: RunDirectory) -> None:
    job = submit("--sbatch=--begin=now+1hour")
    verdict = verdict_on(directory, cluster)
    assert verdict.cause is Standing.QUEUED, verdict
    assert verdict.sentence.startswith(f"job {job} of phase 1 waits: its start time has not come yet")


def test_bad_input_is_reported_in_the_worker_s_words(submit: Submit, cluster: Cluster, directory: RunDirectory) -> None:
    cancelled = submit()
    cluster.run(["scancel", cancelled])
    cluster.wait(cancelled)
    job = cluster.submit([directory.phase(1).script], env={"GRADIENT_STEPS": "3"})
    assert cluster.wait(job) == "FAILED"
    verdict = verdict_on(directory, cluster)
    assert verdict.cause is Cause.BAD_INPUT, verdict
    assert verdict.sentence.startswith("BATCHSIZE 64 is not divisible by GRADIENT_STEPS 3")


def test_the_suggested_gradient_steps_are_accepted(
    submit: Submit, cluster: Cluster, bertjobs: Bertjobs, directory: RunDirectory
) -> None:
    """The nodes have no GPUs, so the test writes an out-of-memory error into the log."""
    job = submit()
    wait_until(directory.phase(1).metrics.exists)
    bertjobs("cancel", RUN, environ=cluster.environment)
    assert cluster.wait(job) == "CANCELLED"
    with open(directory.phase(1).logs / f"{job}-0.out", "a") as log:
        log.write("Traceback (most recent call last):\n  File x\ntorch.OutOfMemoryError: CUDA out of memory.\n")
    verdict = verdict_on(directory, cluster)
    assert verdict.cause is Cause.GPU_MEMORY, verdict
    assert verdict.command == f"bertjobs resume {RUN} --set phase1.gradient_steps=4"
    done = bertjobs(*verdict.command.split()[1:], environ=cluster.environment)
    assert done.returncode == 0, done.stderr
    again = [event["job"] for event in directory.events() if event["event"] == "submitted"][-1]
    log = directory.phase(1).logs / f"{again}-0.out"
    wait_until(lambda: log.exists() and "continuing from" in log.read_text())
    assert "gradient steps (GRADIENT_STEPS) 4 x micro-batch 16" in log.read_text()
