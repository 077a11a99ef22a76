"""Nodes with different numbers of ranks, as one heterogeneous job of a real Slurm."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bertjobs.files.json_lines import read_lines
from bertjobs.run.directory import RunDirectory
from tests.cluster.slurm import Cluster
from tests.conftest import Bertjobs, wait_until

STEPS = 40


@pytest.fixture
def run(bertjobs: Bertjobs, cluster: Cluster, speeches_data: Path, tmp_path: Path):
    def submitted(name: str, *words: object) -> RunDirectory:
        sets = {"steps": STEPS, "global_batch": 12, "validate_every": 0}
        settings = [word for key, value in sets.items() for word in ("--set", f"phase1.{key}={value}")]
        done = bertjobs(
            *("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--phase", 1, "--model", "bert-nano"),
            *("--run", name, *settings, *words),
            environ=cluster.environment,
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


def test_a_running_heterogeneous_job_is_one_job_of_its_run(run, cluster: Cluster, bertjobs: Bertjobs) -> None:
    groups = run("groups", "--groups", "1x1,1x2", "--set", "phase1.steps=100000")
    job = job_of(groups)
    cluster.wait_queue(job, "RUNNING")
    wait_until(groups.phase(1).metrics.exists)
    (row,) = json.loads(bertjobs("status", "groups", "--json", environ=cluster.environment).stdout)
    assert (row["state"], {entry["job"] for entry in row["timeline"]}) == ("RUNNING", {job})
    cancelled = bertjobs("cancel", "groups", environ=cluster.environment)
    assert cancelled.returncode == 0, cancelled.stderr
    wait_until(lambda: not cluster.run(["squeue", "-h", "-o", "%i"]).stdout.strip())


def processes_on(node: str) -> list[int]:
    """The ranks that run on a node of the cluster, all of whose nodes are this machine."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                environ = (folder / "environ").read_bytes().split(b"\0")
                words = (folder / "cmdline").read_bytes()
                if f"SLURMD_NODENAME={node}".encode() in environ and words.endswith(b"-m\0bertjobs.train\0"):
                    found.append(int(folder.name))
    return found


@contextmanager
def three_times_as_slow(processes: list[int]) -> Iterator[None]:
    ended = threading.Event()

    def slow_down() -> None:
        while not ended.is_set():
            for number, wait_s in ((signal.SIGSTOP, 0.02), (signal.SIGCONT, 0.01)):
                for process in processes:
                    with suppress(ProcessLookupError):
                        os.kill(process, number)
                time.sleep(wait_s)

    thread = threading.Thread(target=slow_down)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.mark.slow
def test_a_node_that_becomes_slow_is_named_within_20_steps_and_given_less(run, cluster: Cluster) -> None:
    groups = run(
        *("groups", "--groups", "1x2,1x1", "--model", "bert-tiny", "--set", "phase1.steps=80"),
        *("--set", "phase1.global_batch=48", "--set", "phase1.micro_batch=2"),
    )
    job, metrics = job_of(groups), groups.phase(1).metrics
    wait_until(lambda: metrics.exists() and len(read_lines(metrics)) >= 15)
    (process,) = processes_on("node2")
    began = len(read_lines(metrics))
    with three_times_as_slow([process]):
        assert cluster.wait(job) == "COMPLETED"
    events = list(groups.events())
    named = [event for event in events if event["event"] == "slow rank" and event["step"] >= began - 5]
    assert (named[0]["node"], named[0]["rank"]) == ("node2", 2)
    assert named[0]["times"] > 1.5
    log = (groups.phase(1).logs / f"{job}-0.out").read_text()
    place = log.index("rank 2 of 3 on node2 takes")
    assert f"step {began + 20}/80" not in log[:place]
    dealt = [event["packs"] for event in events if event["event"] == "dealt"]
    assert dealt[-1][2] < min(dealt[-1][:2])
