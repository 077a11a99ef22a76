"""The learning rate as a function of the step."""

from __future__ import annotations

import math


def learning_rate(step: int, *, base: float, warmup: float, total: int, decay: str = "sqrt") -> float:
    """The rate of a step: a linear warm-up, then the decay.

    ``sqrt`` is NVIDIA's polynomial schedule of degree 0.5 for pretraining (PolyWarmUpScheduler). With
    x = (step + 1) / total: base x / warmup while x < warmup, then base sqrt(1 - x). The rate jumps down
    from ``base`` at the end of the warm-up, as the published runs do; the last step's and all later are 0.

    ``linear`` is that of BERT's own fine-tuning, as Hugging Face counts it: with w = warmup total, base step / w while
    step < w, then base (total - step) / (total - w). ``constant`` stays at base after the same warm-up.

    Args:
        step: optimizer steps done before this one, from 0; skipped ones do not count.
        base: peak learning rate.
        warmup: share of ``total`` spent warming up, 0 to 1.
        total: optimizer steps of the phase.
        decay: "sqrt", "linear" or "constant".
    """
    if decay != "sqrt":
        rising = math.ceil(warmup * total)
        if step < rising:
            return base * step / rising
        return base if decay == "constant" else base * max(0, total - step) / max(1, total - rising)
    progress = min(1.0, (step + 1) / total)
    if progress < warmup:
        return base * progress / warmup
    return base * math.sqrt(1.0 - progress)
