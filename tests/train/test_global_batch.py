"""The loss and gradient of a step are those of the global batch, however it is cut (contract 5)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.launch.local import free_port
from bertjobs.train.placement import read_placement
from bertjobs.train.ranks import Ranks
from tests.train.forked import CONTEXT, exit_codes
from tests.train.one_step import GLOBAL_BATCH, one_step, write_step


@pytest.fixture(scope="module")
def whole(data: DataManifest) -> dict[str, Tensor]:
    """The step as one micro-batch on one rank."""
    return one_step(data.folder, Ranks(read_placement({})), GLOBAL_BATCH)


def assert_same_step(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name in expected.keys() - {"masked"}:
        torch.testing.assert_close(actual[name], expected[name].to(actual[name].dtype), atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("micro_batches", [4, 8])
def test_several_micro_batches_give_the_step_of_one(
    data: DataManifest, whole: dict[str, Tensor], micro_batches: int
) -> None:
    cut = one_step(data.folder, Ranks(read_placement({})), GLOBAL_BATCH // micro_batches)
    assert len(set(cut["masked"].tolist())) > 1, "the micro-batches must hold different numbers of masked tokens"
    assert int(cut["masked"].sum()) == int(whole["masked"])
    assert_same_step(cut, whole)


@pytest.mark.parametrize(("size", "micro_batch"), [(2, 2), (2, 1), (4, 1)])
def test_several_ranks_give_the_step_of_one(
    data: DataManifest, whole: dict[str, Tensor], tmp_path: Path, size: int, micro_batch: int
) -> None:
    own = {"WORLD_SIZE": str(size), "MASTER_PORT": str(free_port())}
    processes = []
    for rank in range(size):
        environ = {**own, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(
            CONTEXT.Process(target=write_step, args=(environ, data.folder, micro_batch, tmp_path / "step"))
        )
        processes[-1].start()
    assert exit_codes(processes) == [0] * size
    steps = [load_file(tmp_path / f"step-{rank}") for rank in range(size)]
    masked = {int(step["masked"].sum()) for step in steps}
    assert len(masked) > 1, "the ranks must hold different numbers of masked tokens"
    for step in steps:
        assert_same_step(step, whole)
