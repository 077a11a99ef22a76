"""Optimizer steps of a model whose gradients are averaged over a group of one rank, beside those of the bare model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, distributed, nn

from bertjobs.data.batches.packed_batches import PackedBatch
from bertjobs.model.attention import choose_attention
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.compiled import warm_up
from bertjobs.model.packed import EAGER, TokenWise
from bertjobs.optim.base import Optimizer, Update
from bertjobs.optim.build import build_optimizer
from bertjobs.recipe.spec import ModelSpec, OptimizerSpec
from bertjobs.train.precision import AUTOCAST, autocast
from bertjobs.train.pretraining.forward import Forward
from bertjobs.train.pretraining.objective import probe
from bertjobs.train.ranks import averaged
from bertjobs.train.step import StepPlan, train_step
from tests.model.packs import make_pack

SPEC = ModelSpec("mini", 128, 2, 2, 256, vocab_size=500, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
LENGTHS = ([60, 33, 8], [64, 20, 5, 5], [40, 41])
STEPS = 2


@contextmanager
def group_of_one(backend: str) -> Iterator[distributed.ProcessGroup]:
    """What gradients travel over in a run, a group beside the default one, with this process as the only rank."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield distributed.new_group(backend=backend)
    finally:
        distributed.destroy_process_group()


def packs() -> list[PackedBatch]:
    """The micro-batches of a step."""
    shapes = {"tokens": 128, "slots": 8, "predictions": 32, "max_length": 64, "vocabulary": SPEC.vocab_size}
    return [make_pack(lengths, seed=number, **shapes) for number, lengths in enumerate(LENGTHS)]


class Keeping:
    """An optimizer that keeps the gradients of its steps."""

    def __init__(self, model: nn.Module, optimizer: Optimizer):
        self.model, self.optimizer = model, optimizer
        self.gradients: list[dict[str, Tensor]] = []

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def step(self, gradient_scale: float = 1.0) -> Update:
        parameters = self.model.named_parameters()
        self.gradients.append({name: p.grad.detach().clone() for name, p in parameters if p.grad is not None})
        return self.optimizer.step(gradient_scale)


def gradients(
    group: distributed.ProcessGroup | None,
    device: torch.device,
    *,
    precision: str = "fp32",
    attention: str = "auto",
    parts: TokenWise = EAGER,
    compression: str = "none",
    micro_batches: Sequence[PackedBatch] = (),
) -> list[dict[str, Tensor]]:
    """By name, of each of a few steps of several micro-batches; without a group the model is bare.

    Compiled ``parts`` are warmed up first, as in a run.
    """
    torch.manual_seed(3)
    model = BertForPreTraining(replace(SPEC)).to(device)
    chosen = choose_attention(
        attention, device, AUTOCAST.get(precision, torch.float32), SPEC.hidden_size // SPEC.num_attention_heads
    )
    forward: nn.Module = Forward(model, chosen, parts)
    batches = list(micro_batches or packs())
    if parts is not EAGER:
        warm_up(model, batches[0].to(device), chosen, parts, lambda: autocast(precision, device))
    if group is not None:
        forward = averaged(forward, probe(device), group, bucket_mb=0.1, compression=compression)
    optimizer = Keeping(model, build_optimizer(model, OptimizerSpec(backend="torch"), 1e-4, device=device))
    divisors = (sum(batch.masked for batch in batches), sum(batch.sequences for batch in batches))
    for number in range(STEPS):
        plan = StepPlan(world_size=1, precision=precision, seed=1, number=number, divisors=divisors)
        result = train_step(forward, optimizer, batches, plan, device)  # type: ignore[arg-type]
        assert not result.skipped
    return optimizer.gradients


def assert_equal(computed: list[dict[str, Tensor]], expected: list[dict[str, Tensor]], tolerance: float) -> None:
    """All gradients of all steps, of each tensor's length, or of a hundredth of that of all: a key's bias has a
    gradient of 0, and what is computed is rounding."""
    assert len(computed) == len(expected) == STEPS
    for step, (ours, right) in enumerate(zip(computed, expected, strict=True)):
        assert ours.keys() == right.keys()
        whole = sum(float(gradient.norm()) ** 2 for gradient in right.values()) ** 0.5
        for name, gradient in right.items():
            error = float((ours[name] - gradient).norm())
            assert error <= tolerance * max(float(gradient.norm()), 0.01 * whole), f"step {step}: {name}: {error}"
