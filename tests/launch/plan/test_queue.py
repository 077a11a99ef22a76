"""Whether a job would ever start: its partitions, and what sbatch says of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bertjobs.launch.plan.queue import Queue, ask_queue, queue_problems, shell_problems
from bertjobs.slurm.cluster import Partition
from bertjobs.slurm.start_estimate import StartEstimate
from tests.launch.conftest import Tool
from tests.launch.plan.runs import PARTITIONS, SINFO, resolved, words


@pytest.mark.parametrize(
    ("sets", "partition", "time", "says"),
    [
        ({"nodes": 4}, "", "", []),
        ({"nodes": 4}, "", "1-00:00:00", []),
        ({"nodes": 8}, "", "", ["the run asks for 8 nodes, but partition batch has 4"]),
        ({"nodes": 4}, "", "1-00:00:01", ["allows 1-00:00:00: the job would wait forever", "set --time 1-00:00:00"]),
        ({"nodes": 4}, "", "0", ["would wait forever"]),
        ({"nodes": 4}, "", "soon", ["not a time as Slurm writes it: 'soon'"]),
        ({"nodes": 1}, "shrt", "", ["no partition 'shrt'", "'short'"]),
        ({"nodes": 1}, "short", "", ["8 GPUs per node, but nodes of partition short have 4"]),
        ({"nodes": 1, "gpus": 4}, "short", "", []),
        ({"nodes": 1, "gpus": "a100:4"}, "short", "", []),
        (
            {"nodes": 1, "gpus": "h100:4"},
            "short",
            "",
            ["no GPUs of type 'h100'; its types: a100 (4 per node)", "--gpus a100:4"],
        ),
        ({"nodes": 1, "gpus": "a100:8"}, "short", "", ["asks for 8 a100 GPUs per node, but nodes of partition short"]),
        ({"nodes": 1, "gpus": "a100:8"}, "batch", "", ["its types: none", "leave the type out"]),
        (
            {"nodes": 4, "gpus": 4},
            "short",
            "60",
            ["4 nodes, but partition short has 2", "partition short allows 0:30:00"],
        ),
        ({"nodes": 4}, "short,batch", "60", []),
        ({"nodes": 1, "gpus": 0}, "closed", "", ["partition closed is down"]),
    ],
)
def test_a_partition_that_would_never_start_the_job(
    sets: dict[str, int], partition: str, time: str, says: list[str]
) -> None:
    spec = resolved("dgxa100-80g", **sets)
    text = words(queue_problems(spec, Queue(partition, time, PARTITIONS, StartEstimate())))
    assert bool(text) == bool(says)
    for part in says:
        assert part in text


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ("2x4/partition=short,1x8", []),
        ("2xa100:4/partition=short,2x4", []),
        ("2x8/partition=short,4x4", ["8 GPUs per node, but nodes of partition short have 4", "2x8/partition=short"]),
        ("3x4/partition=short,1x4", ["the run asks for 3 nodes, but partition short has 2"]),
        ("2xh100:4/partition=short,2x4", ["partition short has no GPUs of type 'h100'"]),
        ("2x4/partition=shrt,2x4", ["no partition 'shrt'", "where: groups", "'short'"]),
        ("4x4,2x8", ["the groups ask for 6 nodes together, but partition batch has 4", "groups 4x4, 2x8"]),
        ("2x4,1x8", []),
    ],
)
def test_each_group_of_nodes_is_seen_in_its_own_partition(groups: str, says: list[str]) -> None:
    text = words(queue_problems(resolved("dgxa100-80g", groups=groups), Queue("batch", "", PARTITIONS)))
    assert bool(text) == bool(says)
    for part in says:
        assert part in text


def test_sbatch_s_refusal_is_reported_unless_the_reason_is_known_already() -> None:
    spec = resolved("h200")
    refused = StartEstimate(refusal="Invalid account")
    (problem,) = queue_problems(spec, Queue("", "", PARTITIONS, refused))
    assert problem.what == "sbatch refuses: Invalid account"
    assert "Invalid account" not in words(queue_problems(spec, Queue("nosuch", "", PARTITIONS, refused)))


def test_nodes_that_are_drained_are_a_warning_and_nodes_that_do_not_exist_are_not() -> None:
    """sbatch itself queues a job for drained nodes, and refuses one that no node can ever run."""
    drained = StartEstimate(refusal="Requested node configuration is not available")
    (problem,) = queue_problems(resolved("dgxa100-80g", nodes=4), Queue("", "", PARTITIONS, drained))
    assert problem.is_warning
    assert "not all of them can be used now" in problem.what
    too_many = queue_problems(resolved("dgxa100-80g", nodes=8), Queue("", "", PARTITIONS, drained))
    assert [one.is_warning for one in too_many] == [False]


def test_nothing_is_known_of_nodes_where_the_cluster_has_no_default_partition() -> None:
    refused = StartEstimate(refusal="Requested node configuration is not available")
    others = tuple(partition for partition in PARTITIONS if not partition.default)
    (problem,) = queue_problems(resolved("dgxa100-80g"), Queue("", "", others, refused))
    assert not problem.is_warning


def test_the_time_limit_that_a_job_gets() -> None:
    def limit(partition: str, time: str, partitions: tuple[Partition, ...] = PARTITIONS) -> float | None:
        return Queue(partition, time, partitions).limit_s

    assert limit("", "") == 86400
    assert limit("short", "") == 600
    assert limit("short", "20") == 1200
    assert limit("closed", "") == math.inf
    assert limit("short", "unlimited") == math.inf
    assert limit("nosuch", "") is None
    assert limit("", "", ()) is None
    assert limit("", "2:00:00", ()) == 7200
    assert Queue("", "", PARTITIONS, of_groups=("short", "")).limit_s == 600, "one component's limit ends all"
    assert Queue("nosuch", "", PARTITIONS, of_groups=("short",)).limit_s == 600


def test_slurm_is_asked_without_the_variables_of_a_surrounding_job(tmp_path: Path, tool: Tool) -> None:
    tool("sinfo", f"echo 'sinfo: some warning' >&2; printf '%s' '{SINFO}'")
    tool(
        "sbatch", 'while read -r line; do [[ $line ]] && echo "error: $line $1 ${SLURM_JOB_ID-none}"; done >&2; exit 1'
    )
    environ = {"PATH": f"{tmp_path / 'bin'}", "SLURM_JOB_ID": "7"}
    queue = ask_queue("the script\n", "batch", "60", environ)
    assert queue == Queue("batch", "60", PARTITIONS, StartEstimate(refusal="the script --test-only none"))


def test_if_slurm_is_absent_or_its_output_odd_nothing_is_known(tmp_path: Path, tool: Tool) -> None:
    environ = {"PATH": str(tmp_path / "bin")}
    assert ask_queue("", "", "", environ) == Queue()
    tool("sinfo", "echo nonsense")
    tool("sbatch", "echo 5")
    assert ask_queue("", "", "", environ) == Queue()


def test_what_the_shell_says_in_vain_is_a_warning() -> None:
    problems = shell_problems({"SBATCH_PARTITION": "gpu", "SBATCH_RESERVATION": "course", "SLURM_CLUSTERS": "other"})
    assert all(problem.is_warning for problem in problems)
    assert ["SBATCH_RESERVATION has no effect" in problem.what for problem in problems] == [True, False]
    assert "log in to that cluster" in str(problems[1].hint)
