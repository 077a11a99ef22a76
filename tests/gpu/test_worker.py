"""Real runs of the worker on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from hashlib import sha256
from statistics import mean

import pytest
import torch

from bertjobs.optim.apex_lamb import why_not_apex
from bertjobs.recipe.setting import PRECISIONS
from bertjobs.train.device import device_peak_flops
from tests.gpu.conftest import GPU, STEPS, NewTrial
from tests.train.conftest import Ended, Trial, ended

Alone = Callable[..., Ended]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_loss_falls(precision: str, new_trial: NewTrial, alone: Alone) -> None:
    trial = new_trial("run", precision=precision)
    end = alone(trial, 1)
    assert end.code == 0, end.err
    assert "1 node x 1 task, cuda" in end.out
    assert f"backend {'fused' if why_not_apex() else 'apex'}" in end.out

    lines = trial.metrics(1)
    assert [line["step"] for line in lines] == list(range(1, STEPS + lines[-1]["skipped_steps"] + 1))
    assert lines[-1]["skipped_steps"] <= (20 if precision == "fp16" else 0)
    losses = [line["loss_nats"] for line in lines if math.isfinite(line["gradient_norm"])]
    assert mean(losses[-5:]) < mean(losses[:5]) - 0.5
    assert all(0 < line["peak_memory_gb"] < 10 for line in lines)
    peak = device_peak_flops(GPU, precision)
    assert all(line["peak_share"] is None if peak is None else 0 <= line["peak_share"] < 1 for line in lines)


def first_losses(trial: Trial, alone: Alone, steps: int) -> list[float]:
    end = alone(trial.having(STEPS_THIS_RUN=steps), 1)
    assert end.code == 75, end.err
    return [line["loss_nats"] for line in trial.metrics(1)]


def test_each_precision_rounds_in_its_own_way(new_trial: NewTrial, alone: Alone) -> None:
    losses = {
        precision: first_losses(new_trial(precision, precision=precision, model="plain"), alone, 1)[0]
        for precision in PRECISIONS
    }
    assert len(set(losses.values())) == len(PRECISIONS), losses
    for precision, tolerance in {"tf32": 1e-3, "fp16": 1e-3, "bf16": 1e-2}.items():
        assert losses[precision] == pytest.approx(losses["fp32"], rel=tolerance), precision


def test_the_first_losses_are_those_of_a_cpu(new_trial: NewTrial, alone: Alone) -> None:
    gpu = first_losses(new_trial("gpu", model="plain"), alone, 5)
    cpu = first_losses(new_trial("cpu", model="plain").having(GPUS=0), alone, 5)
    assert gpu == pytest.approx(cpu, rel=1e-3)
    assert len(set(gpu)) == 5


def content(trial: Trial) -> dict[str, str]:
    """Digests of the weights and moments at the end of phase 1."""
    done = trial.phase(1).done()
    assert done is not None
    folder = trial.phase(1).checkpoints / done.checkpoint
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.safetensors")}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_deterministic_run_that_was_stopped_ends_with_the_same_bits(precision: str, new_trial: NewTrial) -> None:
    """In processes of their own, with dropout, accumulation and, in fp16, a loss scale that moves."""
    whole, parts = (new_trial(name, precision=precision, deterministic=True) for name in ("whole", "parts"))
    ends = ended([*whole.start(1, 1), *parts.having(STEPS_THIS_RUN=17).start(1, 1)])
    assert [end.code for end in ends] == [0, 75], ends
    assert len(parts.metrics(1)) == 17
    (end,) = parts.run(1, 1)
    assert end.code == 0, end
    assert "(step 17)" in end.out

    assert content(parts) == content(whole)
    assert len(content(whole)) == 2
    same = ("step", "loss_nats", "gradient_norm", "loss_scale", "learning_rate", "mlm_accuracy", "skipped_steps")
    ours, theirs = ([str([line[key] for key in same]) for line in trial.metrics(1)] for trial in (parts, whole))
    assert ours == theirs


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL takes one rank per GPU, and there are not two GPUs")
@pytest.mark.parametrize("compression", ["none", "bf16"])
def test_two_gpus_see_the_losses_of_one(compression: str, new_trial: NewTrial, alone: Alone) -> None:
    one = first_losses(new_trial("one", model="plain"), alone, 5)
    two = new_trial("two", model="plain", gradient_compression=compression).having(STEPS_THIS_RUN=5)
    ends = two.run(1, 2)
    assert [end.code for end in ends] == [75, 0], ends
    losses = [line["loss_nats"] for line in two.metrics(1)]
    assert losses == pytest.approx(one, rel=1e-4 if compression == "none" else 1e-2)
