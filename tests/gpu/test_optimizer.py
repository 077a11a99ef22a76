"""The fused LAMB over a whole model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.apex_lamb import why_not_apex
from bertjobs.optim.base import Optimizer
from bertjobs.optim.build import build_optimizer
from bertjobs.recipe.spec import ModelSpec, OptimizerSpec
from tests.gpu.conftest import GPU, no_waiting

SPEC = ModelSpec("mini", 256, 4, 4, 1024, vocab_size=30522)


def built(backend: str) -> tuple[BertForPreTraining, Optimizer]:
    """The same at each call."""
    torch.manual_seed(0)
    model = BertForPreTraining(SPEC).to(GPU)
    return model, build_optimizer(model, OptimizerSpec(backend=backend), 4e-3, device=GPU)


def set_gradients(model: BertForPreTraining, step: int, size: float = 1.0) -> None:
    generator = torch.Generator(GPU).manual_seed(1000 + step)
    for parameter in model.parameters():
        parameter.grad = size * torch.randn(parameter.shape, generator=generator, device=GPU)


def difference(one: Tensor, two: Tensor) -> float:
    """Relative to the length of the second one."""
    one, two = one.detach().double(), two.detach().double()
    return float((one - two).norm() / two.norm())


@pytest.mark.skipif(why_not_apex() is None, reason="apex's LAMB is preferred where it is installed")
def test_auto_chooses_the_fused_one() -> None:
    assert built("auto")[1].backend == "fused"


def test_fifty_steps_agree_with_the_reference() -> None:
    """Clipped and not, with loss scales, and two steps that are skipped."""
    (model, fused), (expected, reference) = built("fused"), built("torch")
    for step in range(50):
        scale = 2.0 ** (step % 20)
        size = scale * (1e-5 if step % 3 else 1.0)
        results = []
        for each, optimizer in ((model, fused), (expected, reference)):
            optimizer.set_learning_rate(4e-3 / (1 + step))
            set_gradients(each, step, size)
            if step in (0, 17):
                each.cls.predictions.bias.grad.view(-1)[-1] = math.inf  # type: ignore[union-attr]
            results.append(optimizer.step(scale))
        assert results[0].skipped == results[1].skipped == (step in (0, 17))
    assert fused.step_count == reference.step_count == 48
    moments, expected_moments = fused.moments(), reference.moments()
    for (name, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert difference(ours, theirs) <= 1e-6, name
        for one, two in zip(moments[ours], expected_moments[theirs], strict=True):
            assert difference(one, two) <= 1e-6, name


def test_only_the_first_step_waits_for_the_gpu() -> None:
    """Not even if the gradients have moved in memory."""
    model, optimizer = built("fused")
    set_gradients(model, 0)
    optimizer.step()
    for step in range(1, 4):
        optimizer.zero_grad()
        optimizer.set_learning_rate(1e-3 / step)
        set_gradients(model, step)
        with no_waiting():
            result = optimizer.step(2.0)
        assert not result.skipped
    assert optimizer.step_count == 4
