"""What a tracker is told: each settled step once, in order, whatever happens to the run in the meantime."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.track.mlflow import LONGEST_NAME, metric_name
from bertjobs.track.replay import Replay, flat_settings, read_replay, tracking_id
from tests.track.conftest import STEPS, T0, WrittenRun


def steps(replay: Replay) -> list[int]:
    return [point.step for point in replay.points]


def test_both_phases_are_one_series_with_held_out_losses(run: WrittenRun) -> None:
    run.finish()
    replay = read_replay(run.directory)
    assert steps(replay) == list(range(1, 81))
    assert replay.is_done
    by_step = {point.step: point for point in replay.points}
    first, validated, second = by_step[1], by_step[20], by_step[61]
    assert first.time_unix_s == T0 + 101
    assert first.values == {
        "train/phase": 1.0, "train/step_of_phase": 1.0, "train/loss_nats": 9.9, "train/gradient_norm": 1.5,
        "train/step_time_s": 0.5,
    }  # fmt: skip
    assert validated.values["held_out/mlm_loss_nats"] == pytest.approx(7.0)
    assert "held_out/mlm_loss_nats" in by_step[60].values
    assert (second.values["train/phase"], second.values["train/step_of_phase"]) == (2.0, 1.0)


def test_a_step_counts_once_a_checkpoint_holds_it(run: WrittenRun) -> None:
    run.start(1, 0)
    run.steps(1, 1, 15)
    assert steps(read_replay(run.directory)) == []
    run.checkpoint(1, 10)
    assert steps(read_replay(run.directory)) == list(range(1, 11))
    (run.checkpoint(1, 15) / "model.safetensors").unlink()
    assert steps(read_replay(run.directory)) == list(range(1, 11)), "it is damaged"


def test_skipped_steps_of_a_phase_move_the_next_one(run: WrittenRun) -> None:
    """With fp16 a phase makes more steps than it has updates: they have numbers too."""
    run.steps(1, 1, 63)
    run.done(1, 63)
    run.steps(2, 1, 5)
    run.checkpoint(2, 5)
    assert steps(read_replay(run.directory)) == list(range(1, 69))


def test_the_steps_after_the_best_checkpoint_are_told(run: WrittenRun) -> None:
    run.steps(1, 1, 60)
    run.validate(1, 60)
    run.checkpoint(1, 60)
    run.done(1, 40)
    run.steps(2, 1, 5)
    run.checkpoint(2, 5)
    replay = read_replay(run.directory)
    assert steps(replay) == list(range(1, 66))
    assert "held_out/mlm_loss_nats" in replay.points[59].values


def test_a_run_of_phase_2_alone_begins_at_its_first_step(run: WrittenRun) -> None:
    run.steps(2, 1, 5)
    run.checkpoint(2, 5)
    assert steps(read_replay(run.directory)) == [1, 2, 3, 4, 5]


def test_only_finite_numbers_are_told(run: WrittenRun) -> None:
    run.steps(1, 1, 1, gradient_norm=float("inf"), loss_nats=float("nan"), peak_share=None, note="x", flag=True)
    run.checkpoint(1, 1)
    (point,) = read_replay(run.directory).points
    assert set(point.values) == {"train/phase", "train/step_of_phase", "train/step_time_s"}


def test_settings_have_the_paths_of_set_and_attempts_are_tags(run: WrittenRun) -> None:
    run.finish()
    replay = read_replay(run.directory)
    told = replay.settings
    assert (told["phase1.steps"], told["phase2.steps"]) == (60, 20)
    assert (told["optimizer.name"], told["model.name"]) == (run.spec.optimizer.name, run.spec.model.name)
    assert all(isinstance(value, str | int | float) for value in flat_settings(run.spec).values())
    assert replay.tags["attempts"] == "3"
    assert replay.tags["attempt 1"] == (
        "phase 1, job 7-0, 2 ranks, from step 0 to step 30 in 16 min 40 s: a node failed"
    )
    assert replay.tags["attempt 3"].endswith(": done")


def test_the_id_stays_and_is_no_other_run_s(run: WrittenRun, tmp_path: Path) -> None:
    assert tracking_id(run.directory) == tracking_id(run.directory)
    assert len(tracking_id(run.directory)) == 16
    assert tracking_id(WrittenRun(tmp_path / "elsewhere").directory) != tracking_id(run.directory)
    assert (run.directory.root / "tracking").stat().st_mode & 0o077 == 0


class Life:
    """Phase 1 of a run as it may go: steps, checkpoints, crashes at any moment, and what a tracker was told."""

    def __init__(self, folder: Path):
        self.run, self.made, self.saved, self.told = WrittenRun(folder), 0, 0, []
        self.run.start(1, 0)

    def do(self, word: str) -> None:
        if word == "step" and self.made < STEPS[1]:
            self.made += 1
            self.run.steps(1, self.made, self.made)
        elif word == "validate" and self.made:
            self.run.validate(1, self.made)
        elif word == "checkpoint" and self.made > self.saved:
            self.saved = self.made
            self.run.checkpoint(1, self.made)
        elif word == "torn line":
            with open(self.run.phase(1).metrics, "a", encoding="utf-8") as file:
                file.write('{"phase": 1, "st')
        elif word == "crash":
            self.made = self.saved
            self.run.start(1, self.made)

    def look(self) -> None:
        seen = steps(read_replay(self.run.directory))
        assert seen[: len(self.told)] == self.told, "what was told stays"
        assert seen == list(range(1, self.saved + 1))
        self.told = seen


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["step", "step", "step", "validate", "checkpoint", "torn line", "crash"]), max_size=40))
def test_no_step_is_missing_or_taken_back_whenever_one_looks(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder))
        for word in words:
            life.do(word)
            life.look()


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("train/loss_nats", "train/loss_nats"),
        ("held_out/f1/B-LOC", "held_out/f1/B-LOC"),
        ("held_out/f1/not relevant", "held_out/f1/not relevant"),
        ("held_out/f1/,", "held_out/f1/u002c"),
        ("held_out/f1/.", "held_out/f1/u002e"),
        ("held_out/f1/..", "held_out/f1/u002eu002e"),
        ("held_out/f1/?!", "held_out/f1/u003fu0021"),
        ("held_out/f1/a//b", "held_out/f1/a/empty/b"),
        ("held_out/f1/", "held_out/f1/empty"),
    ],
)
def test_classes_that_are_punctuation_marks_have_names_that_mlflow_takes(name: str, taken: str) -> None:
    assert metric_name(name) == taken
    assert re.fullmatch(r"[/\w.\- ]+", taken), "as mlflow checks it"
    assert os.path.normpath(taken) == taken, "as mlflow checks it"


def test_a_name_is_not_longer_than_mlflow_takes() -> None:
    assert len(metric_name("held_out/f1/" + "long " * 100)) <= LONGEST_NAME
