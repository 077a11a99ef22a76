"""Which rank a process is, from Slurm's variables and from torch's."""

from __future__ import annotations

import pytest

from bertjobs.errors import InputError
from bertjobs.train.placement import read_placement

SLURM = {
    "SLURM_PROCID": "13", "SLURM_LOCALID": "5", "SLURM_NTASKS": "16", "SLURM_NNODES": "2", "SLURM_JOB_ID": "77",
    "SLURM_RESTART_COUNT": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "20077",
}  # fmt: skip


def test_slurm() -> None:
    placement = read_placement(SLURM)
    assert (placement.rank, placement.local_rank, placement.world_size) == (13, 5, 16)
    assert (placement.nodes, placement.tasks_per_node) == (2, 8)
    assert (placement.master, placement.port) == ("node1", 20077)
    assert (placement.job, placement.attempt, placement.scheduler) == ("77", 1, "slurm")


def test_the_first_attempt_has_no_restart_count() -> None:
    environ = {name: value for name, value in SLURM.items() if name != "SLURM_RESTART_COUNT"}
    assert read_placement(environ).attempt == 0


def test_a_local_run_inside_an_allocation_is_a_local_run() -> None:
    local = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODES": "1", "BERTJOBS_JOB": "local-3"}
    placement = read_placement({**SLURM, **local})
    assert (placement.rank, placement.world_size, placement.tasks_per_node) == (1, 2, 2)
    assert (placement.job, placement.attempt, placement.scheduler) == ("local-3", 0, "local")


def test_without_a_launcher_it_is_one_process() -> None:
    placement = read_placement({})
    assert (placement.rank, placement.world_size, placement.nodes, placement.master) == (0, 1, 1, "127.0.0.1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"SLURM_PROCID": "x"}, "SLURM_PROCID='x' is not a number"),
        ({"SLURM_RESTART_COUNT": "one"}, "SLURM_RESTART_COUNT='one' is not a number"),
        ({"SLURM_NTASKS": "15"}, "15 tasks cannot be spread evenly over 2 nodes"),
        ({"SLURM_NNODES": "0"}, "16 tasks cannot be spread evenly over 0 nodes"),
        ({"SLURM_PROCID": "16"}, "rank 16, number"),
        ({"SLURM_LOCALID": "8"}, "number 8 on its node"),
    ],
)
def test_impossible_numbers(change: dict[str, str], words: str) -> None:
    with pytest.raises(InputError) as error:
        read_placement({**SLURM, **change})
    assert words in str(error.value)
