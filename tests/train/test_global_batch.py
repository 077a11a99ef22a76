"""The loss and gradient of a step are those of the global batch, however it is cut (contract 5)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bertjobs.data.manifest import DataManifest
from bertjobs.launch.local import free_port
from bertjobs.train.placement import read_placement
from bertjobs.train.ranks import Ranks

from .conftest import PATIENCE_S
from .one_step import GLOBAL_BATCH, one_step

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(data: DataManifest) -> dict[str, Tensor]:
    """The step as one micro-batch on one rank."""
    return one_step(data.folder, Ranks(read_placement({})), GLOBAL_BATCH)


def assert_same_step(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected.keys() - {"masked"}:
        torch.testing.assert_close(found[name], expected[name].to(found[name].dtype), atol=1e-6, rtol=1e-6, msg=name)


def test_four_micro_batches_give_the_step_of_one(data: DataManifest, whole: dict[str, Tensor]) -> None:
    cut = one_step(data.folder, Ranks(read_placement({})), GLOBAL_BATCH // 4)
    assert len(set(cut["masked"].tolist())) > 1, "the micro-batches must hold different numbers of masked tokens"
    assert int(cut["masked"].sum()) == int(whole["masked"])
    assert_same_step(cut, whole)


def test_two_ranks_give_the_step_of_one(data: DataManifest, whole: dict[str, Tensor], tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tests.train.one_step", str(data.folder), "2", str(tmp_path / "step")]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=PATIENCE_S) for process in processes] == [0, 0]
    first, second = (load_file(tmp_path / f"step-{rank}") for rank in range(2))
    assert first["masked"].sum() != second["masked"].sum(), "the ranks must hold different numbers of masked tokens"
    for step in (first, second):
        assert_same_step(step, whole)
