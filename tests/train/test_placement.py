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
    assert (placement.nodes, placement.tasks_on_node, placement.ranks_of_nodes) == (2, 8, (8, 8))
    assert (placement.master, placement.port) == ("node1", 20077)
    assert (placement.job, placement.attempt, placement.scheduler) == ("77", 1, "slurm")


def test_the_first_attempt_has_no_restart_count() -> None:
    environ = {name: value for name, value in SLURM.items() if name != "SLURM_RESTART_COUNT"}
    assert read_placement(environ).attempt == 0


def test_a_local_run_inside_an_allocation_is_a_local_run() -> None:
    local = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODES": "1", "BERTJOBS_JOB": "local-3"}
    placement = read_placement({**SLURM, **local})
    assert (placement.rank, placement.world_size, placement.tasks_on_node) == (1, 2, 2)
    assert (placement.job, placement.attempt, placement.scheduler) == ("local-3", 0, "local")


def test_slurm_s_variables_win_over_those_that_an_image_or_a_shell_sets() -> None:
    """pyxis sets RANK and LOCAL_RANK in each task of images with PYTORCH_VERSION; a shell may have WORLD_SIZE left."""
    leftover = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    assert read_placement({**SLURM, **leftover}) == read_placement(SLURM)


def test_torchrun_inside_an_allocation_is_torchrun() -> None:
    ours = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none"}
    assert read_placement({**SLURM, **ours}).world_size == 4


def test_who_owns_the_run_is_the_job_or_the_local_launcher() -> None:
    assert read_placement(SLURM).owner == ("77", 1)
    local = {"BERTJOBS_JOB": "local-3", "BERTJOBS_ATTEMPT": "2", "BERTJOBS_OWNER": "host-123"}
    assert read_placement(local).owner == ("host-123", 0)


def test_nodes_may_have_different_numbers_of_ranks() -> None:
    """As in the step of a heterogeneous job; SLURM_NTASKS_PER_NODE is the last component's there."""
    uneven = {"SLURM_NTASKS": "7", "SLURM_NNODES": "3", "SLURM_STEP_TASKS_PER_NODE": "2(x2),3"}
    third = read_placement({**SLURM, **uneven, "SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_NODEID": "2"})
    assert (third.nodes, third.tasks_on_node, third.ranks_of_nodes) == (3, 3, (2, 2, 3))
    second = read_placement({**SLURM, **uneven, "SLURM_PROCID": "2", "SLURM_LOCALID": "0"})
    assert second.tasks_on_node == 2
    with pytest.raises(InputError, match="rank 3, number 2 on its node, cannot be among 7 tasks on 3 nodes"):
        read_placement({**SLURM, **uneven, "SLURM_PROCID": "3", "SLURM_LOCALID": "2", "SLURM_NODEID": "1"})


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
