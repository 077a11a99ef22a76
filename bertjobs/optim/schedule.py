"""The learning rate as a function of the step."""

from __future__ import annotations

import math


def learning_rate(step: int, *, base: float, warmup: float, total: int) -> float:
    """NVIDIA's polynomial schedule of degree 0.5 with linear warm-up (PolyWarmUpScheduler).

    With x = (step + 1) / total: base x / warmup while x < warmup, then base sqrt(1 - x). The rate jumps down
    from ``base`` at the end of the warm-up, as the published runs do; the last step's and all later are 0.

    Args:
        step: optimizer steps done before this one, from 0; skipped ones do not count.
        base: peak learning rate.
        warmup: share of ``total`` spent warming up, 0 to 1.
        total: optimizer steps of the phase.
    """
    progress = min(1.0, (step + 1) / total)
    if progress < warmup:
        return base * progress / warmup
    return base * math.sqrt(1.0 - progress)
