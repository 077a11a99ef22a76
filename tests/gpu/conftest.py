"""Tests that need a GPU; where torch sees none, all are skipped. scripts/gpu_check.sh runs them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.train.precision import deterministic_environment, use_deterministic
from tests.train.conftest import Trial, alone, data

__all__ = ["alone", "data"]

GPU = torch.device("cuda")
INHERITED = ("CUDA_VISIBLE_DEVICES", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH")
STEPS = 40
PHASE = {"global_batch": 32, "steps": STEPS, "lr": 0.01, "warmup": 0.2, "micro_batch": 8, "checkpoint_every": 15,
         "validate_every": 20}  # fmt: skip
RECIPE = {"system": "gpu-node", "model": "bert-tiny", "precision": "fp32", "num_workers": 2, "phases": {1: PHASE}}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PLAIN = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512, **NO_DROPOUT}

NewTrial = Callable[..., Trial]


@pytest.fixture(scope="session", autouse=True)
def _gpu() -> Iterator[None]:
    """A GPU, and what deterministic products need in the environment before the first one."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in deterministic_environment(os.environ).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """What a run sets in torch is reset after its test, and what was compiled before it: torch compiles a function for
    few shapes only, and a run has those of its own packs."""
    torch.compiler.reset()
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
    use_deterministic(False)


@pytest.fixture
def new_trial(data: DataManifest, tmp_path: Path) -> NewTrial:
    """Makes a run on GPUs in a folder of its own; the arguments are settings of its recipe.

    Model "plain" is bert-tiny without dropout.
    """

    def make(name: str, **settings: Any) -> Trial:
        folder = tmp_path / name
        content = {
            "systems": {"gpu-node": {"gpu": "any", "gpus_per_node": 8}},
            "models": {"plain": PLAIN},
            "recipes": {"trial": {**RECIPE, **settings}},
        }
        torch.compiler.reset()  # a run in this process finds nothing compiled, as in one of its own
        (folder / "bertjobs").mkdir(parents=True)
        (folder / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump(content))
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return Trial(folder, data.folder, folder / "results", inherited)

    return make


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever waits for the GPU raises RuntimeError."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
