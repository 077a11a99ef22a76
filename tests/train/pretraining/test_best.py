"""A phase whose result is its best checkpoint by the held-out loss, and the phase after it, which starts from that."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import EXIT_CONTINUE, EXIT_DONE
from bertjobs.files.json_lines import read_lines
from bertjobs.launch.watch.status import run_status
from bertjobs.report.summary import summarise
from bertjobs.run.checkpoints import folder_name, step_of, steps
from bertjobs.slurm.client import Slurm
from tests.train.conftest import PHASES, Trial

# Without a decay at such a rate, the loss falls for a few steps, and then rises.
HIGH = {**PHASES[1], "lr": 0.5, "warmup": 0.0, "steps": 12, "validate_every": 1, "keep_best": True}
RECIPE = {"system": "cpu-node", "model": "bert-nano", "precision": "fp32", "num_workers": 1, "keep_checkpoints": 1,
          "decay": "constant"}  # fmt: skip
RECIPES = {
    "trial": {**RECIPE, "phases": {1: HIGH, 2: PHASES[2]}},
    "early": {**RECIPE, "phases": {1: {**HIGH, "early_stop": 2}, 2: PHASES[2]}},
}


@pytest.fixture
def trial(data: DataManifest, tmp_path: Path) -> Trial:
    (tmp_path / "home" / "bertjobs").mkdir(parents=True)
    (tmp_path / "home" / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump({"recipes": RECIPES}))
    return Trial(tmp_path / "home", data.folder, tmp_path / "results")


def held_out(trial: Trial) -> dict[int, float]:
    return {line["step"]: line["mlm_loss_nats"] for line in read_lines(trial.phase(1).validation)}


def kept(trial: Trial) -> list[int]:
    return [step_of(folder) for folder in steps(trial.phase(1).checkpoints)]


def result(trial: Trial) -> int:
    done = trial.phase(1).done()
    assert done is not None
    return done.step


def code(trial: Trial, phase: int) -> tuple[int, str]:
    (end,) = trial.run(phase, 1)
    return end.code, end.out + end.err


def test_the_next_phase_starts_from_the_best_checkpoint(trial: Trial) -> None:
    ended, words = code(trial, 1)
    assert ended == EXIT_DONE, words
    losses = held_out(trial)
    assert list(losses) == list(range(1, 13))
    best = min(losses, key=lambda step: losses[step])
    assert 1 < best < 12, losses
    assert result(trial) == best
    assert kept(trial) == [best, 12]
    (row,) = run_status(trial.directory, Slurm({"PATH": ""}), time.time())
    assert (row.checkpoint, row.result) == (folder_name(12), folder_name(best))
    (phase,) = summarise(trial.directory).phases
    assert phase.held_out is not None
    assert (phase.held_out.step, phase.held_out.mlm_loss_nats) == (best, losses[best])
    assert phase.checkpoint == trial.phase(1).checkpoints / folder_name(best)

    ended, words = code(trial, 2)
    assert ended == EXIT_DONE, words
    assert folder_name(best) in words


def test_the_best_one_is_known_after_a_stop(trial: Trial) -> None:
    ended, words = code(trial.having(STEPS_THIS_RUN=10), 1)
    assert ended == EXIT_CONTINUE, words
    losses = held_out(trial)
    best = min(losses, key=lambda step: losses[step])
    assert best < 10
    assert kept(trial) == [best, 10]
    ended, words = code(trial, 1)
    assert ended == EXIT_DONE, words
    losses = held_out(trial)
    assert result(trial) == min(losses, key=lambda step: losses[step])


def test_a_phase_ends_early_when_the_held_out_loss_no_longer_falls(trial: Trial) -> None:
    ended, words = code(trial.having(RECIPE="early"), 1)
    assert ended == EXIT_DONE, words
    losses: dict[int, Any] = held_out(trial)
    best = min(losses, key=lambda step: losses[step])
    assert result(trial) == best
    assert max(losses) == best + 2 < 12
