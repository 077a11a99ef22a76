"""The range test on a tiny model: the engine's steps, one at each rate, in this process."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bertjobs.errors import BertjobsError, InputError
from bertjobs.finetune.objective import FineTuning
from bertjobs.optim.loss_scale import DynamicLossScale
from bertjobs.train import range_test as module
from bertjobs.train.range_test import planned_steps, range_test
from bertjobs.train.rate_suggestion import rising_rates
from tests.finetune.trained import CPU, learner_of, prepared
from tests.tasks.reading.files import write


@pytest.fixture
def objective(tmp_path: Path) -> FineTuning:
    """Eight short texts that are good or bad by one word."""
    torch.set_num_threads(1)
    rows = [f"{word} {rest}\t{word}" for word in ("good", "bad") for rest in ("film", "book", "play", "song")]
    files = {split: write(tmp_path / f"{split}.tsv", "text\tlabel", *rows) for split in ("train", "dev")}
    return learner_of(prepared(tmp_path, "sentences", files, "good bad film book play song"))[0]


def test_a_rate_is_suggested_between_the_first_and_the_lowest(objective: FineTuning) -> None:
    lines: list[str] = []
    rates = rising_rates(1e-6, 1e-1, 60)
    table = range_test(objective, rates, CPU, lines.append).as_json()
    points = table["points"]
    assert [point["learning_rate"] for point in points] == rates[: len(points)]
    assert table["loss"] == "loss_nats"
    assert rates[0] < table["suggested_learning_rate"] < table["least_loss_at"]
    assert points[0]["smoothed_loss"] == pytest.approx(math.log(2), abs=0.2)
    assert min(point["smoothed_loss"] for point in points) < 0.3
    assert lines[0].startswith("step 10 of 60: learning rate 5.8e-06, loss nats 0.")


def test_it_ends_early_once_the_loss_diverges(objective: FineTuning) -> None:
    rates = rising_rates(1e-3, 1e3, 60)
    test = range_test(objective, rates, CPU, lambda _: None)
    assert test.end in ("diverged", "not finite")
    assert len(test.losses) < 60


def test_a_loss_scale_that_is_too_high_costs_no_rate(objective: FineTuning, monkeypatch: pytest.MonkeyPatch) -> None:
    scales: list[float] = []
    skipped: list[bool] = []
    step = module.train_step

    def recorded(*args: Any) -> Any:
        result = step(*args)
        scales.append(args[3].loss_scale)
        skipped.append(result.skipped)
        return result

    monkeypatch.setattr(module, "train_step", recorded)
    monkeypatch.setattr(module, "initial_loss_scale", lambda *_: DynamicLossScale(2.0**129))  # above float32's range
    test = range_test(objective, [1e-5] * 3, CPU, lambda _: None)
    assert skipped[0]
    assert scales[1] == scales[0] / 2
    assert len(test.losses) == 3 == skipped.count(False)


def test_a_first_loss_that_is_not_finite_is_no_curve(objective: FineTuning) -> None:
    model = replace(objective.spec.model, initializer_range=float("inf"))
    broken = replace(objective, spec=replace(objective.spec, model=model))
    with pytest.raises(BertjobsError, match="the loss of the first step is not finite"):
        range_test(broken, rising_rates(1e-6, 1e-1, 20), CPU, lambda _: None)


@pytest.mark.parametrize(("asked", "available", "steps"), [(100, 500, 100), (100, 30, 30), (20, 20, 20)])
def test_no_more_steps_than_the_run_has(objective: FineTuning, asked: int, available: int, steps: int) -> None:
    spec = replace(objective.spec, phases=(replace(objective.phase, steps=available),))
    assert planned_steps(asked, spec) == steps


@pytest.mark.parametrize(
    ("asked", "available", "what"),
    [(19, 500, "19 steps are too few"), (100, 19, "the run has only 19 steps"), (100, 1, "the run has only 1 step,")],
)
def test_too_few_steps_are_refused(objective: FineTuning, asked: int, available: int, what: str) -> None:
    spec = replace(objective.spec, phases=(replace(objective.phase, steps=available),))
    with pytest.raises(InputError, match=what):
        planned_steps(asked, spec)
