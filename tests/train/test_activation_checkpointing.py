"""A run that recomputes its activations is the same as one that keeps them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.train.conftest import Trial
from tests.train.forked import attempt, output_of


@pytest.mark.parametrize(("world_size", "precision"), [(1, "bf16"), (2, "fp32")])
def test_two_micro_batches_over_ranks_give_the_same_bits(
    trial: Trial, tmp_path: Path, world_size: int, precision: str
) -> None:
    """With dropout, accumulation, and ranks that all-reduce in the last backward pass."""
    content = yaml.safe_load((trial.home / "bertjobs" / "recipes.yml").read_text())
    content["recipes"]["trial"]["activation_checkpointing"] = True
    home = tmp_path / "home"
    (home / "bertjobs").mkdir(parents=True)
    (home / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump(content))
    trial = trial.having(STEPS_THIS_RUN=3, PRECISION=precision)
    runs = [trial, replace(trial, home=home, results=tmp_path / "again")]
    weights = []
    for number, run in enumerate(runs):
        logs = tmp_path / f"logs-{number}"
        assert attempt(run, 1, world_size, logs)[0] == 75, output_of(logs)
        weights.append((run.phase(1).checkpoints / "step-00000003" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert "activation_checkpointing: true" in runs[1].directory.lockfile.read_text()
