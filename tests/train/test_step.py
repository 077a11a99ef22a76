"""One optimizer step: what its loss is, and when it is skipped."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from bertjobs.data.batches.batches import Batch
from bertjobs.optim.lamb import Lamb
from bertjobs.train.objective import Term
from bertjobs.train.step import StepPlan, train_step

PLAN = StepPlan(world_size=1, precision="fp32", seed=0, divisors=(12, 3))
CPU = torch.device("cpu")


class Line(nn.Module):
    """A model of one weight: the loss is the weight times the sum of a batch's labels, by label, plus ``constant``."""

    def __init__(self, constant: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))
        self.constant = constant

    def forward(self, batch: Batch) -> tuple[Term, Term]:
        labels = batch.labels
        loss = (self.weight * labels.sum() + self.constant).sum()
        zero = 0 * self.weight.sum()
        return Term(loss, torch.tensor(labels.numel())), Term(zero, torch.tensor(len(labels)))


def batch(*labels: list[int]) -> Batch:
    tokens = torch.tensor(labels)
    return Batch(tokens, tokens, torch.ones_like(tokens), tokens, torch.zeros(len(labels), dtype=torch.int64))


UNEVEN = [batch([1, 2], [3, 4]), batch([5, 6, 7, 8, 9, 10, 11, 12])]  # 4 and 8 masked tokens


def gradient(plan: StepPlan, batches: list[Batch]) -> float:
    model = Line()
    train_step(model, Lamb(model.parameters(), 0.1, clip_norm=math.inf), batches, plan, CPU)
    assert model.weight.grad is not None
    return float(model.weight.grad)


def test_each_masked_token_of_the_global_batch_weighs_the_same() -> None:
    assert gradient(PLAN, UNEVEN) == pytest.approx(sum(range(1, 13)) / 12)
    assert gradient(PLAN, UNEVEN[::-1]) == pytest.approx(sum(range(1, 13)) / 12)


def test_nvidia_s_loss_is_the_mean_of_the_micro_batches_means() -> None:
    plan = replace(PLAN, normalization="seed")
    assert gradient(plan, UNEVEN) == pytest.approx((10 / 4 + 68 / 8) / 2)


@pytest.mark.parametrize("constant", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_not_finite_skips_the_step_though_its_gradient_is(constant: float) -> None:
    model = Line(constant)
    result = train_step(model, Lamb(model.parameters(), 0.1), UNEVEN, PLAN, CPU)
    assert result.skipped
    assert model.weight.item() == 2.0


def test_what_can_be_done_meanwhile_is_done_before_the_device_is_waited_for() -> None:
    happened: list[str] = []

    class Update:
        skipped = False

        @property
        def gradient_norm(self) -> float:
            happened.append("waits")
            return 1.0

    class Counting:
        def zero_grad(self) -> None:
            happened.append("begins")

        def step(self, _: float) -> Update:
            happened.append("updates")
            return Update()

    optimizer: Any = Counting()
    train_step(Line(), optimizer, UNEVEN, PLAN, CPU, lambda: happened.append("meanwhile"))
    assert happened == ["begins", "updates", "meanwhile", "waits"]
