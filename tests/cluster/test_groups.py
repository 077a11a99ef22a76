"""Nodes with different numbers of ranks, as one heterogeneous job of a real Slurm."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from bertjobs.files.json_lines import read_lines
from bertjobs.run.directory import RunDirectory
from tests.cluster.slow_steps import SlowPasses
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


@pytest.mark.slow  # Slurm takes minutes until it starts such a job again
def test_a_heterogeneous_job_that_is_requeued_continues(run, cluster: Cluster, unhurried: dict[str, str]) -> None:
    sets = ("--set", "phase1.steps=40", "--set", "phase1.checkpoint_every=5")
    groups = run("groups", "--groups", "1x1,1x2", *sets, environ=unhurried)
    wait_until(lambda: len(losses(groups)) > 10)
    cluster.run(["scontrol", "requeue", job_of(groups)])
    assert cluster.wait(job_of(groups)) == "COMPLETED"
    ends = [(event["attempt"], event["cause"]) for event in groups.events() if event["event"] == "ended"]
    assert ends == [(0, "SIGTERM"), (1, "done")]
    assert [line["step"] for line in read_lines(groups.phase(1).metrics)] == list(range(1, 41))


FAST_S, SLOW_S = 0.04, 0.12
"""Seconds that a rank sleeps in each forward pass: one group is slowed threefold."""


def rate(directory: RunDirectory) -> float:
    """Steps per second, the best of a run: other work on the machine only slows them."""
    return 1 / min(line["step_time_s"] for line in read_lines(directory.phase(1).metrics))


@pytest.mark.slow
def test_a_slowed_group_computes_less_so_that_a_step_is_shorter(
    run, cluster: Cluster, bertjobs: Bertjobs, tmp_path: Path
) -> None:
    """Two fast ranks on a node, and a slow one on another; killed, and continued with the other grouping, where a rank
    becomes slow."""
    packs = ("--set", "phase1.steps=36", "--set", "phase1.global_batch=96", "--set", "phase1.micro_batch=1",
             "--set", "phase1.checkpoint_every=4")  # fmt: skip
    both = (*packs, "--groups", "1x2,1x1")
    passes = {
        name: SlowPasses(tmp_path / f"{name}-passes", {}, *seconds)
        for name, seconds in {
            "fast": (FAST_S,) * 2,
            "slow": (SLOW_S,),
            "equal": (FAST_S, FAST_S, SLOW_S),
            "dealt": (FAST_S, FAST_S, SLOW_S),
            "other": (SLOW_S, FAST_S, FAST_S),
        }.items()
    }

    def queued(name: str, *words: object) -> RunDirectory:
        return run(name, *words, environ=passes[name].environment)

    def trained(name: str, *words: object) -> RunDirectory:
        directory = queued(name, *words)
        assert cluster.wait(job_of(directory)) in ("COMPLETED", "FAILED")  # FAILED: stopped early, 75
        return directory

    fast = trained("fast", *packs, "--nodes", 1, "--tasks-per-node", 2)
    slow = trained("slow", *packs, "--nodes", 1, "--tasks-per-node", 1, "--steps-this-run", 2)
    equal = trained("equal", *both, "--set", "rebalance=false", "--steps-this-run", 5)
    dealt = queued("dealt", *both)
    wait_until(lambda: len(losses(dealt)) >= 12)
    cluster.run(["scancel", "--full", "--signal=KILL", job_of(dealt)])
    cluster.wait(job_of(dealt))
    against_equal, of_the_sum = rate(dealt) / rate(equal), rate(dealt) / (rate(fast) + rate(slow))
    print(f"{against_equal:.2f} times the rate of equal shares, {of_the_sum:.1%} of the sum of the groups' rates")
    assert against_equal >= 1.6
    assert of_the_sum >= 0.8  # 0.95 and more where nothing else runs: -s shows it

    cancelled = bertjobs("cancel", "dealt", environ=cluster.environment)  # its spare too
    assert cancelled.returncode == 0, cancelled.stderr
    environ = {**cluster.environment, **passes["other"].environment}
    again = bertjobs("resume", "dealt", "--set", "groups=1x1,1x2", "--set", "steps_this_run=0", environ=environ)
    assert again.returncode == 0, again.stderr
    wait_until(lambda: len(losses(dealt)) >= 16)
    became_slow = len(losses(dealt))
    passes["other"].set(SLOW_S, 3 * SLOW_S, FAST_S)
    assert cluster.wait(job_of(dealt, -1)) == "COMPLETED"
    named = next(event for event in dealt.events() if event["event"] == "slow rank" and event["rank"] == 1)
    times = [line["time_unix_s"] for line in read_lines(dealt.phase(1).metrics)]
    assert became_slow <= sum(time <= named["time_unix_s"] for time in times) <= became_slow + 20
    assert losses(dealt) == pytest.approx(losses(fast), abs=1e-5)
    assert losses(equal) == pytest.approx(losses(fast)[:5], abs=1e-5)


@pytest.fixture
def labelled(cluster: Cluster) -> Iterator[None]:
    """The first node is of another kind than the two after it, so Slurm lists it first."""
    kinds = {"node1": "a100", "node2": "v100", "node3": "v100"}
    for node, kind in kinds.items():
        cluster.run(["scontrol", "update", f"NodeName={node}", f"AvailableFeatures={kind}", f"ActiveFeatures={kind}"])
    yield
    for node in kinds:
        cluster.run(["scontrol", "update", f"NodeName={node}", "AvailableFeatures=", "ActiveFeatures="])


def allocated(cluster: Cluster, job: str) -> list[tuple[str, str]]:
    """The partition and the nodes of each component of a job."""
    return [(partition, nodes) for partition, nodes in cluster.accounted(job, "Partition", "NodeList")]


@pytest.mark.slow
@pytest.mark.usefixtures("labelled")
def test_groups_get_the_nodes_that_they_ask_for(run, cluster: Cluster) -> None:
    counted = run("counted", "--groups", "2x1@v100,1x1@a100", "--set", "phase1.steps=5")
    assert cluster.wait(job_of(counted)) == "COMPLETED"
    assert allocated(cluster, job_of(counted)) == [("batch", "node[1-3]")]

    packs = ("--set", "phase1.steps=5", "--set", "phase1.global_batch=48", "--set", "phase1.micro_batch=2")
    ordered = run("ordered", "--groups", "2x1@v100/0.5,1x1@a100/partition=urgent", *packs)
    assert cluster.wait(job_of(ordered)) == "COMPLETED"
    assert allocated(cluster, job_of(ordered)) == [("batch", "node[2-3]"), ("urgent", "node1")]
    (first_deal,) = [event for event in ordered.events() if event["event"] == "dealt" and event["step"] == 1]
    assert first_deal["packs"][2] > max(first_deal["packs"][:2])
