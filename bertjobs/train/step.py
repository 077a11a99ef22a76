"""One optimizer step, on one screen.

The loss of a step is that of the whole global batch (contract 5)::

    loss = sum over its terms of (loss of all tokens, sequences or examples / their number in the global batch)

It does not depend on how the batch was cut into ranks and micro-batches. With ``loss_normalization: seed``, which is
what NVIDIA's BERT does, it depends on that::

    loss = mean over ranks and micro-batches of (sum over its terms of the mean over the micro-batch)

in which a token weighs more where its micro-batch holds few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bertjobs.optim.base import Optimizer
from bertjobs.train.objective import MicroBatch, Term
from bertjobs.train.precision import autocast


@dataclass(frozen=True)
class StepPlan:
    """What all ranks know about a step before they compute it.

    The first four are the same for a whole phase: ``normalization`` is "global" or "seed". The others change with each
    step: ``number`` counts from 0, ``divisors`` are those of its `GlobalBatch`, ``places`` are those of this rank's
    micro-batches (`Learner.places`); () stands for 0, 1, 2 and so on.
    """

    world_size: int
    precision: str
    seed: int
    normalization: str = "global"
    number: int = 0
    divisors: tuple[int, ...] = ()
    places: Sequence[int] = ()
    loss_scale: float = 1.0

    def loss(self, terms: Sequence[Term], micro_batches: int) -> Tensor:
        """What one of this rank's ``micro_batches`` adds to the step's loss: a scalar, in the unit of its terms."""
        if self.normalization == "seed":
            mean = reduce(add, [term.loss_sum / term.count for term in terms])
            return mean / (micro_batches * self.world_size)
        return reduce(add, [term.loss_sum / divisor for term, divisor in zip(terms, self.divisors, strict=True)])


@dataclass(frozen=True)
class StepResult:
    """``sums`` (float64, shape [sums], this rank's): for each term, its loss and then its scores."""

    sums: Tensor
    gradient_norm: float
    skipped: bool


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """A seed for micro-batch number ``micro_batch`` of its step, counted over all ranks.

    So dropout depends only on the place in the run: a restart continues with the same masks, and no generator state
    has to be saved. The mixing is splitmix64's (Steele et al., OOPSLA 2014).
    """
    mask = (1 << 64) - 1
    value = 0
    for word in (seed, step, micro_batch):
        value = (value + word + 0x9E3779B97F4A7C15) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        value ^= value >> 31
    return value >> 1


def _nan_unless_finite(loss: Tensor) -> Tensor:
    """1, or NaN where the loss is not finite: an infinite loss can have finite gradients (a label whose logit
    overflowed), and its step must be skipped as well. This needs no message between the ranks."""
    return 1 + 0 * loss.detach()


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    micro_batches: Sequence[MicroBatch],
    plan: StepPlan,
    device: torch.device,
    meanwhile: Callable[[], None] = lambda: None,
    timed: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> StepResult:
    """Forward and backward over this rank's micro-batches, then one update by the global gradient.

    Args:
        model: takes a micro-batch and returns its terms: `Learner.forward`, wrapped for the ranks.
        meanwhile: called when the device has been told everything, before this waits for it.
        timed: entered around each forward pass.
    """
    sums = torch.zeros((), dtype=torch.float64, device=device)
    optimizer.zero_grad()
    places = plan.places or range(len(micro_batches))
    for index, (place, batch) in enumerate(zip(places, micro_batches, strict=True)):
        torch.manual_seed(dropout_seed(plan.seed, plan.number, place))
        last = index == len(micro_batches) - 1
        # Gradients travel once per step, with the last micro-batch's backward pass.
        quiet = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()
        with quiet:
            with autocast(plan.precision, device), timed():
                terms = model(batch)
            loss = plan.loss(terms, len(micro_batches))
            # DDP averages over ranks; the global loss is a sum.
            (loss * (plan.world_size * plan.loss_scale) * _nan_unless_finite(loss)).backward()
        values = [value for term in terms for value in (term.loss_sum, *term.score_sums)]
        sums = sums + torch.stack([value.detach().double() for value in values])
    update = optimizer.step(plan.loss_scale)
    meanwhile()
    return StepResult(sums, float(update.gradient_norm), bool(update.skipped))
