"""Runs that cannot continue end with the right code, name the cause, and lose nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import yaml

from bertjobs.data.check.shard_watch import ShardWatch
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.run.checkpoints import newest_valid, read_manifest, steps
from bertjobs.run.owner import Owner, Owners
from bertjobs.train.ranks import Ranks
from tests.train.conftest import PHASES, Ended, Trial, copied


def having_recipe(trial: Trial, folder: Path, **settings: object) -> Trial:
    """The trial with other settings in its recipe."""
    recipe = {"system": "cpu-node", "model": "bert-nano", "precision": "fp32", "phases": PHASES, **settings}
    (folder / "bertjobs").mkdir(parents=True)
    (folder / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump({"recipes": {"trial": recipe}}))
    return Trial(folder, trial.data, trial.results)


@pytest.fixture
def own_data(data: DataManifest, tmp_path: Path) -> Path:
    """A copy of the data that the test may damage."""
    return Path(shutil.copytree(data.folder, tmp_path / "data"))


def change_after(trial: Trial, step: int, shard: Path, how: Callable[[Path], None]) -> Thread:
    def act() -> None:
        trial.wait_for_step(1, step)
        how(shard)

    thread = Thread(target=act)
    thread.start()
    return thread


def flip(shard: Path) -> None:
    """Another file of the same size takes the shard's name; what is mapped stays as it was."""
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.with_name("new").write_bytes(content)
    shard.with_name("new").rename(shard)


@pytest.mark.parametrize("how", [flip, Path.unlink])
def test_a_shard_that_is_corrupted_during_the_run_ends_it_with_a_checkpoint(
    trial: Trial,
    own_data: Path,
    how: Callable[[Path], None],
    alone: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("bertjobs.train.pretraining.batches.ShardWatch", partial(ShardWatch, interval_s=0.05))
    phases = {1: {**PHASES[1], "steps": 5000, "checkpoint_every": 5000, "validate_every": 0}}
    long = having_recipe(Trial(trial.home, own_data, trial.results), tmp_path / "home", phases=phases)
    file = DataManifest.read(own_data).phase(1).train.files[0]
    shard = DataManifest.read(own_data).phase(1).train.folder / file.name
    thread = change_after(long, 3, shard, how)
    end = alone(long, 1)
    thread.join()
    assert end.code == 64, end
    assert file.name in end.err
    assert file.sha256 in end.err
    assert "Traceback" not in end.err
    folder, damaged = newest_valid(long.phase(1).checkpoints)
    assert folder is not None
    assert not damaged
    assert read_manifest(folder).step == len(long.metrics(1)) >= 3
    assert long.directory.events()[-1]["exit_code"] == 64


def test_if_bad_shards_are_skipped_the_run_asks_to_be_continued(
    trial: Trial, own_data: Path, alone: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bertjobs.train.pretraining.batches.ShardWatch", partial(ShardWatch, interval_s=0.05))
    phases = {1: {**PHASES[1], "steps": 5000, "checkpoint_every": 5000, "validate_every": 0}}
    long = having_recipe(
        Trial(trial.home, own_data, trial.results), tmp_path / "home", phases=phases, on_bad_shard="skip"
    )
    split = DataManifest.read(own_data).phase(1).train
    thread = change_after(long, 3, split.folder / split.files[0].name, flip)
    assert alone(long, 1).code == 75
    thread.join()
    assert long.directory.events()[-1]["cause"] == "bad shard"
    again = alone(long.having(STEPS_THIS_RUN=2), 1)
    assert again.code == 75
    assert f"{split.files[0].name}" in again.out
    assert "rows are left out" in again.out


def test_25_steps_without_a_finite_gradient_end_the_run_with_a_diagnosis(
    trial: Trial, alone: Callable[..., Ended], tmp_path: Path
) -> None:
    scaled = having_recipe(trial, tmp_path / "home", precision="fp16", loss_scale=2e9)
    end = alone(scaled, 1)
    assert end.code == 70, end
    assert "25 steps in a row had gradients that are not finite" in end.err
    assert "Traceback" not in end.err
    assert [line["skipped_steps"] for line in scaled.metrics(1)] == list(range(1, 26))
    (file,) = scaled.phase(1).root.glob("diagnosis-*.json")
    diagnosis = json.loads(file.read_text())
    assert diagnosis["step"] == 25
    assert diagnosis["gradients"]
    assert not diagnosis["parameters"]
    assert len(diagnosis["sequences"]) == PHASES[1]["global_batch"]
    assert all(".safetensors" in name for name in diagnosis["sequences"])


def test_phase_2_may_start_from_an_unfinished_phase_1_if_asked(stopped: Trial, alone: Callable[..., Ended]) -> None:
    refused = alone(stopped, 2)
    assert refused.code == 64
    assert "PREVIOUS_PHASE=latest" in refused.err
    end = alone(stopped.having(PREVIOUS_PHASE="latest"), 2)
    assert end.code == 0, end
    assert f"starting from {stopped.phase(1).checkpoints / 'step-00000025'}, moments carried" in end.out


def test_phase_2_may_reset_the_moments(done: Trial, alone: Callable[..., Ended], tmp_path: Path) -> None:
    phases = {1: PHASES[1], 2: {**PHASES[2], "optimizer_state": "reset"}}
    carried = copied(done, tmp_path / "carried")
    assert alone(carried, 2).code == 0
    reset = having_recipe(done, tmp_path / "home", phases=phases)
    end = alone(reset, 2)
    assert end.code == 0, end
    assert "moments reset" in end.out
    assert reset.weights(2) != carried.weights(2)


def test_sharded_optimizer_states_give_the_same_weights(trial: Trial, tmp_path: Path) -> None:
    whole = Trial(trial.home, trial.data, tmp_path / "whole")
    assert [rank.code for rank in whole.run(1, 2)] == [0, 0]
    sharded = having_recipe(trial, tmp_path / "home", optimizer={"shard_states": True})
    stopped = sharded.having(STEPS_THIS_RUN=12).run(1, 2)
    assert [rank.code for rank in stopped] == [75, 0], stopped
    last = steps(sharded.phase(1).checkpoints)[-1]
    assert len(list(last.glob("training_state-*-of-00002.safetensors"))) == 2
    rest = sharded.run(1, 2)
    assert [rank.code for rank in rest] == [0, 0], rest
    assert sharded.weights(1) == whole.weights(1)


def test_compressed_gradients_train_nearly_the_same(trial: Trial, tmp_path: Path) -> None:
    whole = Trial(trial.home, trial.data, tmp_path / "whole")
    assert [rank.code for rank in whole.run(1, 2)] == [0, 0]
    compressed = having_recipe(trial, tmp_path / "home", gradient_compression="bf16")
    assert [rank.code for rank in compressed.run(1, 2)] == [0, 0]
    assert compressed.weights(1) != whole.weights(1)
    for line, expected in zip(compressed.metrics(1), whole.metrics(1), strict=True):
        assert line["loss_nats"] == pytest.approx(expected["loss_nats"], rel=0.02)


@pytest.mark.parametrize(("settings", "bucket_mb"), [({}, 25.0), ({"ddp_bucket_mb": 100}, 100.0)])
def test_the_recipe_sets_how_much_is_sent_at_a_time(
    trial: Trial,
    alone: Callable[..., Ended],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, int],
    bucket_mb: float,
) -> None:
    given: list[float] = []

    def wrapped(_: Ranks, model: torch.nn.Module, __: object, **way: Any) -> torch.nn.Module:
        given.append(way["bucket_mb"])
        return model

    monkeypatch.setattr(Ranks, "wrapped", wrapped)
    end = alone(having_recipe(trial, tmp_path / "home", **settings).having(STEPS_THIS_RUN=1), 1)
    assert end.code == 75, end
    assert given == [bucket_mb]


def test_the_recipe_sets_how_the_learning_rate_falls(trial: Trial, alone: Callable[..., Ended], tmp_path: Path) -> None:
    phases = {2: {**PHASES[2], "steps": 5, "end_lr": 0.001}}
    run = having_recipe(trial, tmp_path / "home", phases=phases, decay="linear", decay_power=2)
    end = alone(run, 2)
    assert end.code == 0, end
    rates = [line["learning_rate"] for line in run.metrics(2)]
    assert rates == pytest.approx([0, 0.0025, 0.005, 0.001 + 0.004 * (2 / 3) ** 2, 0.001 + 0.004 / 9])


def test_a_job_that_crashes_again_where_it_began_is_not_started_a_third_time(
    stopped: Trial, alone: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stopped.having(BERTJOBS_JOB="7")
    with monkeypatch.context() as patch:
        patch.setattr("bertjobs.train.loop.train_step", lambda *_: 1 / 0)
        assert alone(job, 1).code == 70
        assert alone(job.having(BERTJOBS_ATTEMPT=1), 1).code == 70
        refused = alone(job.having(BERTJOBS_ATTEMPT=2), 1)
    assert refused.code == 64
    assert "job 7 was not restarted" in refused.err
    assert "also began at step 25" in refused.err
    assert alone(job, 1).code == 0, "started by hand, it may continue"


def test_an_attempt_that_could_not_write_its_end_counts_as_a_crash_unless_slurm_was_asked(
    stopped: Trial, alone: Callable[..., Ended]
) -> None:
    job = stopped.having(BERTJOBS_JOB="7", STEPS_THIS_RUN=1)
    assert alone(job, 1).code == 75
    lines = stopped.directory.journal.read_text().splitlines()
    stopped.directory.journal.write_text("".join(f"{line}\n" for line in lines[:-1]))  # as if it had been killed
    assert alone(job.having(BERTJOBS_ATTEMPT=1), 1).code == 75
    ends = [event for event in stopped.directory.events() if event["event"] == "ended" and event["job"] == "7"]
    assert [(end["attempt"], end["cause"]) for end in ends] == [(0, "crashed"), (1, "STEPS_THIS_RUN")]


ANOTHER = Owner("99", 0, "node9", 0, "slurm")


def test_a_run_that_another_job_trains_is_left_alone(trial: Trial, alone: Callable[..., Ended]) -> None:
    directory = trial.phase(1).root.parent
    Owners(directory / "owners").take(ANOTHER, lambda _: None)
    end = alone(trial, 1)
    assert end.code == 0, end
    assert "is being trained by job 99 (attempt 0) on node9" in end.out
    assert not trial.phase(1).root.exists()
    assert not (directory / "jobs.jsonl").exists()


def test_an_attempt_that_seemed_dead_and_was_followed_stops_and_writes_nothing_more(
    trial: Trial, alone: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bertjobs.train.loop.BEAT_S", 0.0)
    phases = {1: {**PHASES[1], "steps": 5000, "checkpoint_every": 5000, "validate_every": 0}}
    long = having_recipe(trial, tmp_path / "home", phases=phases)

    def take_over() -> None:
        long.wait_for_step(1, 3)
        Owners(long.phase(1).root.parent / "owners").take(ANOTHER, lambda _: None)

    thread = Thread(target=take_over)
    thread.start()
    end = alone(long, 1)
    thread.join()
    assert end.code == 0, end
    assert "was taken over by job 99 (attempt 0) on node9" in end.out
    assert steps(long.phase(1).checkpoints) == []
    events = [json.loads(line)["event"] for line in (long.phase(1).root.parent / "jobs.jsonl").read_text().splitlines()]
    assert events == ["started"], "the journal is the other attempt's"
