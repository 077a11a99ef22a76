"""The factor that keeps float16 gradients in range: dynamic, or static.

A scale is a value: ``update`` gives the next step's. ``restored`` takes up what a checkpoint stored: the
recipe decides which kind it is, the checkpoint where a dynamic one stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

INITIAL_SCALE = 2.0**20
FACTOR = 2.0
WINDOW = 2000
SMALLEST_SCALE = 1.0


@dataclass(frozen=True)
class DynamicLossScale:
    """Dynamic loss scaling (Micikevicius et al., arXiv 1710.03740).

    Halved after each skipped step, doubled after ``WINDOW`` steps without one, never below 1. It starts at
    2^20, NVIDIA's ``--init_loss_scale`` for BERT, and not at torch's 2^16: the loss is divided by the tokens
    of a global batch of up to 65,536 sequences, and one step too high costs one skipped step, while one too
    low costs 2,000 steps of lost small gradients.

    Attributes:
        scale: what the loss is multiplied by.
        clean_steps: steps since the last change.
    """

    scale: float = INITIAL_SCALE
    clean_steps: int = 0

    def update(self, skipped: bool) -> DynamicLossScale:
        """The scale for the next step, after one that was ``skipped`` (gradients not finite) or not."""
        if skipped:
            return DynamicLossScale(max(SMALLEST_SCALE, self.scale / FACTOR))
        if self.clean_steps + 1 == WINDOW:
            return DynamicLossScale(self.scale * FACTOR)
        return DynamicLossScale(self.scale, self.clean_steps + 1)

    def state_dict(self) -> dict[str, float | int]:
        """Plain numbers for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, float | int]) -> DynamicLossScale:
        """The inverse of ``state_dict``; a static scale's numbers begin a dynamic one where it stood."""
        return cls(scale=float(state["scale"]), clean_steps=int(state.get("clean_steps", 0)))

    def restored(self, state: Mapping[str, float | int]) -> DynamicLossScale:
        """The scale as a checkpoint stored it."""
        return self.from_state_dict(state)


@dataclass(frozen=True)
class StaticLossScale:
    """A scale that stays, whatever is skipped.

    Attributes:
        scale: what the loss is multiplied by; 1 where nothing has to be scaled.
    """

    scale: float = 1.0

    def update(self, skipped: bool) -> StaticLossScale:  # noqa: ARG002
        """This scale."""
        return self

    def state_dict(self) -> dict[str, float | int]:
        """Plain numbers for a checkpoint."""
        return asdict(self)

    def restored(self, state: Mapping[str, float | int]) -> StaticLossScale:  # noqa: ARG002
        """This scale: the recipe's factor counts, not that of a checkpoint."""
        return self


LossScale = DynamicLossScale | StaticLossScale


def initial_loss_scale(precision: str, factor: float) -> LossScale:
    """The scale of a run's first step.

    Args:
        precision: one of ``spec.PRECISIONS``; only "fp16" is scaled, the others have float32's range.
        factor: the recipe's ``loss_scale``: 0 for dynamic, else the static factor.
    """
    if precision != "fp16":
        return StaticLossScale()
    return StaticLossScale(factor) if factor else DynamicLossScale()
