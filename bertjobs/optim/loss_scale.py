"""The factor that keeps float16 gradients in range."""

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
        """The inverse of ``state_dict``."""
        return cls(scale=float(state["scale"]), clean_steps=int(state["clean_steps"]))
