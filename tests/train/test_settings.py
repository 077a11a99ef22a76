"""Weights, data and settings that do not fit a run are refused before anything is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.run.checkpoints import steps
from tests.train.checkpoint.test_damage import assert_refused
from tests.train.conftest import Ended, Trial, truncate


@pytest.fixture
def weights(phase_one_done: Trial, tmp_path: Path) -> Path:
    """A model folder that the test may damage."""
    folder = tmp_path / "weights"
    shutil.copytree(phase_one_done.phase(1).checkpoints / "step-00000030", folder)
    return folder


def test_a_run_may_start_from_given_weights(trial: Trial, weights: Path, alone: Callable[..., Ended]) -> None:
    end = alone(trial.having(INIT_CHECKPOINT=weights, STEPS_THIS_RUN=1), 1)
    assert end.code == 75, end
    assert f"starting from {weights}; random: nothing" in end.out


def test_a_global_batch_that_is_not_the_recipe_s_is_said_first(trial: Trial, alone: Callable[..., Ended]) -> None:
    end = alone(trial.having(BATCHSIZE=6, STEPS_THIS_RUN=1), 1)
    assert end.code == 75, end
    keep = "to keep that, leave BATCHSIZE out, or set BATCHSIZE=12"
    assert f"warning: the global batch is 6, but recipe trial has 12: {keep}" in end.out.splitlines()[:6]
    assert "warning" not in alone(trial.having(RUN="other", BATCHSIZE=12, STEPS_THIS_RUN=1), 1).out


def test_weights_of_another_shape(trial: Trial, weights: Path, alone: Callable[..., Ended]) -> None:
    end = alone(trial.having(INIT_CHECKPOINT=weights, MODEL="bert-tiny"), 1)
    assert_refused(end, "hidden_size is 32 in the folder and 128 in model 'bert-tiny'")
    assert not trial.results.exists()


def test_weights_that_are_truncated(trial: Trial, weights: Path, alone: Callable[..., Ended]) -> None:
    truncate(weights / "model.safetensors")
    assert_refused(alone(trial.having(INIT_CHECKPOINT=weights), 1), "the weights cannot be read", "model.safetensors")
    assert not trial.results.exists()


def test_weights_that_do_not_exist(trial: Trial, tmp_path: Path, alone: Callable[..., Ended]) -> None:
    assert_refused(alone(trial.having(INIT_CHECKPOINT=tmp_path / "nowhere"), 1), "config.json is missing", "nowhere")


def test_weights_of_another_vocabulary(
    trial: Trial, other_data: DataManifest, weights: Path, alone: Callable[..., Ended]
) -> None:
    end = alone(replace(trial, data=other_data.folder).having(INIT_CHECKPOINT=weights), 1)
    assert_refused(end, "trained with another vocabulary", str(weights / "vocab.txt"))
    assert not trial.results.exists()


@pytest.mark.parametrize("phase", [1, 2])
def test_a_run_does_not_continue_on_data_of_another_vocabulary(
    stopped_once: Trial,
    phase_one_done: Trial,
    other_data: DataManifest,
    alone: Callable[..., Ended],
    phase: int,
) -> None:
    run = stopped_once if phase == 1 else phase_one_done
    assert_refused(alone(replace(run, data=other_data.folder), phase), "trained with another vocabulary")


def test_data_of_another_vocabulary_than_the_recipes(trial: Trial, alone: Callable[..., Ended]) -> None:
    end = alone(trial.having(RECIPE="laptop", BATCHSIZE=2), 1)
    assert_refused(end, "the shards were made with another vocabulary")
    assert not trial.results.exists()


@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [("LR", "0.02", "phase1.lr"), ("SEED", "43", "seed"), ("PRECISION", "bf16", "precision"),
     ("MODEL", "bert-tiny", "model.hidden_size"), ("BATCHSIZE", "6", "phase1.global_batch")],
)  # fmt: skip
def test_a_phase_that_has_begun_does_not_continue_with_other_settings(
    stopped: Trial, alone: Callable[..., Ended], name: str, value: str, setting: str
) -> None:
    lockfile = stopped.directory.lockfile.read_text()
    assert_refused(alone(stopped.having(**{name: value}), 1), "started with other settings", setting)
    assert stopped.directory.lockfile.read_text() == lockfile


def test_phase_2_may_not_change_what_phase_1_was_trained_with(done: Trial, alone: Callable[..., Ended]) -> None:
    lockfile = done.directory.lockfile.read_text()
    assert_refused(alone(done.having(MODEL="bert-tiny"), 2), "started with other settings", "model.hidden_size")
    assert done.directory.lockfile.read_text() == lockfile


def test_phase_2_may_have_settings_of_its_own(done: Trial, alone: Callable[..., Ended]) -> None:
    assert alone(done.having(LR="0.001", BATCHSIZE=2), 2).code == 0
    spec = read_lockfile(done.directory.lockfile)
    assert [phase.lr for phase in spec.phases] == [0.01, 0.001]
    assert [phase.global_batch for phase in spec.phases] == [12, 2]


def test_a_run_continues_given_only_its_name(stopped: Trial, alone: Callable[..., Ended]) -> None:
    end = alone(stopped.having(RECIPE="", DATADIR="", STEPS_THIS_RUN=1), 1)
    assert end.code == 75, end
    assert "recipe trial" in end.out


def test_a_run_that_does_not_exist_needs_a_recipe(trial: Trial, alone: Callable[..., Ended]) -> None:
    assert_refused(alone(trial.having(RECIPE=""), 1), "recipe")


def test_a_worker_trains_one_phase(trial: Trial, alone: Callable[..., Ended]) -> None:
    assert_refused(alone(trial.having(PHASE="all"), 1), "a worker trains one phase")


def test_another_number_of_ranks_with_the_same_global_batch_continues(stopped: Trial, phase_one_done: Trial) -> None:
    # With STEPS_THIS_RUN the runs are comparable: the same three global batches on one rank and on two.
    first, second = stopped.having(NODES=2, STEPS_THIS_RUN=3).run(1, 2, {1: {"LOCAL_RANK": "0"}})
    assert (first.code, second.code) == (75, 0), first
    assert "world size 2 = 2 nodes x 1 task" in first.out
    assert read_lockfile(stopped.directory.lockfile).nodes == 2
    assert [folder.name for folder in steps(stopped.phase(1).checkpoints)][-1] == "step-00000028"
    for line, expected in zip(stopped.metrics(1), phase_one_done.metrics(1), strict=False):
        assert line["loss_nats"] == pytest.approx(expected["loss_nats"], rel=0.02)
