"""The range test: some steps of a run in one process, with a rising learning rate, to see which rates it bears.

They are the engine's own steps on the run's own batches, without its schedule. Nothing is written, and the weights are
thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from bertjobs.errors import BertjobsError, InputError
from bertjobs.optim.build import build_optimizer
from bertjobs.optim.loss_scale import initial_loss_scale
from bertjobs.recipe.spec import RunSpec
from bertjobs.train.checkpoint.state import Progress
from bertjobs.train.objective import Objective
from bertjobs.train.placement import Placement, read_placement
from bertjobs.train.precision import use_precision
from bertjobs.train.ranks import Ranks
from bertjobs.train.rate_suggestion import FEWEST_STEPS, has_diverged, smoothed, suggest
from bertjobs.train.step import StepPlan, train_step
from bertjobs.train.worker import choose_device
from bertjobs.wording import counted

SAID_EVERY = 10
"""Steps between two lines of a test's log."""

End = Literal["all steps", "diverged", "not finite"]


@dataclass(frozen=True)
class RangeTest:
    """What was measured.

    Attributes:
        loss: name of the loss.
        rates, losses: of each update, in order; the loss is that of the batch which the update was made from.
        end: why it ended; a loss or gradient that was not finite isn't among the losses.
    """

    loss: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    end: End

    def as_json(self) -> dict[str, Any]:
        """What was measured and what it suggests, for the test's table; suggested rates have two digits."""
        suggestion, smooth = suggest(self.rates, self.losses), smoothed(self.rates, self.losses).tolist()
        least_at = self.rates[suggestion.lowest]
        points = zip(self.rates, self.losses, smooth, strict=True)
        return {
            "end": self.end,
            "loss": self.loss,
            "suggested_learning_rate": None if suggestion.rate is None else float(f"{suggestion.rate:.2g}"),
            "cautious_learning_rate": None if suggestion.rate is None else float(f"{least_at / 10:.2g}"),
            "why": suggestion.why,
            "least_loss_at": least_at,
            "points": [dict(zip(("learning_rate", "loss", "smoothed_loss"), point, strict=True)) for point in points],
        }


def planned_steps(asked: int, spec: RunSpec) -> int:
    """How many steps a test makes: as many as were ``asked`` for, but no more than the run itself.

    Raises:
        InputError: they are too few.
    """
    available = spec.phases[0].steps
    if asked < FEWEST_STEPS:
        raise InputError(f"{counted(asked, 'step')} are too few to see a curve: at least {FEWEST_STEPS}",
                         where="--find-lr")  # fmt: skip
    if available < FEWEST_STEPS:
        raise InputError(
            f"the run has only {counted(available, 'step')}, and a curve needs at least {FEWEST_STEPS}",
            where=spec.data,
            hint="more training data, a smaller global batch (phase1.global_batch) or more epochs (phase1.epochs)",
        )
    return min(asked, available)


def alone() -> Placement:
    """The placement of one process, whatever launched it."""
    return read_placement({})


def open_device(spec: RunSpec) -> torch.device:
    """The device of the run's rank 0, with torch set for the run's precision.

    Raises:
        InputError: as in `bertjobs.train.worker.choose_device`.
    """
    device = choose_device(spec, alone())
    use_precision(spec.precision)
    return device


def range_test(
    objective: Objective, rates: Sequence[float], device: torch.device, say: Callable[[str], None]
) -> RangeTest:
    """Train the run's first steps from its initial weights, one at each rate, until its loss diverges.

    Args:
        objective: of a run of one phase.
        say: takes lines for the log.

    Raises:
        InputError: the data or the initial weights are damaged, or do not fit.
    """
    spec = objective.spec
    (phase,) = spec.phases
    torch.manual_seed(spec.seed)
    learner = objective.open(Ranks(alone()), device)
    optimizer = build_optimizer(learner.model, spec.optimizer, rates[0], device=device)
    if spec.init_checkpoint:
        learner.load_weights(Path(spec.init_checkpoint))
    progress = Progress(loss_scale=initial_loss_scale(spec.precision, spec.loss_scale))
    plan = StepPlan(1, spec.precision, spec.seed + phase.phase, spec.loss_normalization)
    losses: list[float] = []
    with learner.batches(None) as batches:
        while len(losses) < len(rates):
            rate, micro_batches = rates[len(losses)], next(batches)
            batch = learner.global_batch(learner.count(micro_batches))
            optimizer.set_learning_rate(rate)
            scale = progress.loss_scale.scale
            own = replace(plan, number=progress.step, divisors=batch.divisors, loss_scale=scale)
            result = train_step(learner.forward, optimizer, micro_batches, own, device)
            progress = progress.after(result.skipped)
            measures = objective.measures(result.sums.tolist(), batch.divisors)
            if result.skipped and progress.loss_scale.scale < scale:  # that was too high: the same rate again
                continue
            loss = sum(measures[field] for field in objective.losses)
            if result.skipped or not math.isfinite(loss):
                return _ended(objective, rates, losses, "not finite")
            losses.append(loss)
            if len(losses) % SAID_EVERY == 0:
                words = ", ".join(form.format(measures[field]) for field, form in objective.losses.items())
                say(f"step {len(losses)} of {len(rates)}: learning rate {rate:.2g}, {words}")
            if has_diverged(rates[: len(losses)], losses):
                return _ended(objective, rates, losses, "diverged")
    return _ended(objective, rates, losses, "all steps")


def _ended(objective: Objective, rates: Sequence[float], losses: Sequence[float], end: End) -> RangeTest:
    if not losses:
        raise BertjobsError(
            "the loss of the first step is not finite, whatever the learning rate",
            where=objective.spec.init_checkpoint,
            hint="other weights, or another precision (--precision fp32)",
        )
    return RangeTest(" + ".join(objective.losses), tuple(rates[: len(losses)]), tuple(losses), end)
