"""bf16 and fp16, and gradients that are not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bertjobs.errors import InputError
from bertjobs.optim.schedule import learning_rate
from bertjobs.recipe.spec import PRECISIONS
from bertjobs.train.precision import check_precision

from .conftest import PHASES, Ended, Trial, alter


def test_bf16_trains(trial: Trial, alone: Callable[..., Ended]) -> None:
    assert alone(trial.having(PRECISION="bf16", STEPS_THIS_RUN=4), 1).code == 75
    lines = trial.metrics(1)
    assert len(lines) == 4
    assert all(math.isfinite(line["loss_nats"]) and line["loss_scale"] == 1.0 for line in lines)


def test_skipped_fp16_steps_advance_the_data_but_not_the_schedule(trial: Trial, alone: Callable[..., Ended]) -> None:
    trial = trial.having(PRECISION="fp16")
    assert alone(trial.having(STEPS_THIS_RUN=2), 1).code == 75
    (folder,) = trial.phase(1).checkpoints.iterdir()
    alter(folder, lambda folder: set_loss_scale(folder, 2.0**30))  # far beyond float16's range
    assert alone(trial, 1).code == 0

    lines = trial.metrics(1)
    total, skipped = int(PHASES[1]["steps"]), lines[-1]["skipped_steps"]
    assert skipped > 3
    # The phase is that many updates; the steps that were skipped come on top.
    assert [line["step"] for line in lines] == list(range(1, total + skipped + 1))
    before = 0
    for line in lines:
        finite = math.isfinite(line["gradient_norm"])
        assert line["skipped_steps"] == before + (not finite)
        assert line["learning_rate"] == learning_rate(line["step"] - 1 - before, base=0.01, warmup=0.2, total=total)
        before = line["skipped_steps"]
    after = lines[2 : 2 + 4]
    assert [line["loss_scale"] for line in after] == [2.0**30, 2.0**29, 2.0**28, 2.0**27]
    assert len({line["mlm_loss_nats"] for line in after}) == 4, "each of them must see other data"


def test_gradients_that_are_never_finite_end_the_run(stopped: Trial, alone: Callable[..., Ended]) -> None:
    alter(stopped.phase(1).checkpoints / "step-00000025", spoil_weights)
    end = alone(stopped, 1)
    assert end.code == 70
    assert "25 steps in a row had gradients that are not finite" in end.err
    assert "Traceback" not in end.err
    assert stopped.directory.events()[-1]["cause"] == "failed"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_cpu_has_all_but_tf32(precision: str) -> None:
    if precision != "tf32":
        check_precision(precision, torch.device("cpu"))
        return
    with pytest.raises(InputError, match="a CPU has no tf32"):
        check_precision(precision, torch.device("cpu"))


def set_loss_scale(folder: Path, scale: float) -> None:
    path = folder / "training_state.json"
    numbers = json.loads(path.read_text())
    numbers["loss_scale"]["scale"] = scale
    path.write_text(json.dumps(numbers))


def spoil_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["cls.predictions.bias"][3] = math.nan
    save_file(weights, path, metadata={"format": "pt"})
