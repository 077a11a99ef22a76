"""A run that submitit queues on a real Slurm, carried across its time limits like any other."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertjobs.launch.start import write_run
from bertjobs.launch.submitit.backend import queue_submitit
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.options import SlurmOptions
from tests.cluster.slurm import Cluster
from tests.conftest import wait_until

STEPS = 60
Queue = Callable[..., tuple[RunDirectory, dict[int, str]]]


@pytest.fixture
def queue(cluster: Cluster, speeches_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """Queues laptop-scratch by submitit; gives the run's directory and its jobs."""
    monkeypatch.chdir(tmp_path)

    def start(**flags: Any) -> tuple[RunDirectory, dict[int, str]]:
        flags = {"recipe": "laptop-scratch", "model": "bert-nano", "nodes": 2, "data": str(speeches_data), **flags}
        flags |= {"results": str(tmp_path / "a#b"), "run": "first"}
        spec = resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec
        first, *rest = spec.phases
        spec = replace(spec, phases=(replace(first, steps=STEPS, checkpoint_every=20), *rest))
        directory = write_run(spec)
        chosen = SlurmOptions(time="5")
        return directory, queue_submitit(directory, spec, chosen, environ=cluster.environment, chain="chain-1")

    return start


def steps_of(directory: RunDirectory, phase: int) -> list[int]:
    path = directory.phase(phase).metrics
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def logs(directory: RunDirectory) -> str:
    files = [*sorted(directory.root.glob("phase*/logs/*.out")), *sorted(directory.root.glob("submitit/*.sh"))]
    return "\n".join(f"--- {file}\n{file.read_text(errors='replace')}" for file in files)


def causes(directory: RunDirectory) -> list[tuple[int, str]]:
    return [(event["attempt"], event["cause"]) for event in directory.events() if event["event"] == "ended"]


@pytest.mark.slow
def test_a_job_of_submitit_s_is_requeued_at_its_time_limit(cluster: Cluster, queue: Queue) -> None:
    """Phase 2 waits for phase 1, which is stopped halfway."""
    directory, jobs = queue()
    assert cluster.run(["squeue", "-ho", "%E", "-j", jobs[2]]).stdout.startswith(f"afterany:{jobs[1]}")
    wait_until(lambda: len(steps_of(directory, 1)) > 5)
    cluster.run(["scancel", f"--signal={signal.SIGUSR2.name.removeprefix('SIG')}", jobs[1]])
    wait_until((directory.phase(1).logs / f"{jobs[1]}-1.out").exists)

    assert [cluster.wait(job) for job in jobs.values()] == ["COMPLETED", "COMPLETED"], logs(directory)
    assert steps_of(directory, 1) == list(range(1, STEPS + 1))
    assert directory.phase(2).done() is not None
    assert causes(directory) == [(0, "SIGUSR2"), (1, "done"), (0, "done")]
    first = (directory.phase(1).logs / f"{jobs[1]}-0.out").read_text()
    assert "0: submitit INFO" in first
    assert "continuing: requeue" in (directory.phase(1).logs / f"slurm-{jobs[1]}.out").read_text()
    ours = [line for line in first.splitlines() if "slurmstepd" not in line]
    assert all(re.match(r"[01]: .", line) for line in ours), first


@pytest.mark.slow
def test_a_job_that_slurm_requeues_writes_a_checkpoint_first(cluster: Cluster, queue: Queue) -> None:
    """As in a preemption, Slurm itself starts it again; submitit alone would disregard TERM."""
    directory, jobs = queue(phase=1)
    wait_until(lambda: len(steps_of(directory, 1)) > 5)
    cluster.run(["scontrol", "requeue", jobs[1]])
    assert cluster.wait(jobs[1]) == "COMPLETED", logs(directory)
    assert steps_of(directory, 1) == list(range(1, STEPS + 1))
    assert causes(directory) == [(0, "SIGTERM"), (1, "done")]
    assert (directory.phase(1).logs / f"{jobs[1]}-1.out").exists()


def test_bad_input_ends_the_job_with_its_code_and_cancels_the_jobs_that_follow(cluster: Cluster, queue: Queue) -> None:
    directory, jobs = queue(precision="tf32")
    assert [cluster.wait(job) for job in jobs.values()] == ["FAILED", "CANCELLED"], logs(directory)
    assert cluster.run(["sacct", "-nXP", "-o", "ExitCode", "-j", jobs[1]]).stdout.strip() == "64:0"
    assert "a CPU does not support tf32" in (directory.phase(1).logs / f"{jobs[1]}-0.out").read_text()
