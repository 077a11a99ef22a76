"""The learning rate as a function of the step."""

from __future__ import annotations

import math


def learning_rate(
    step: int,
    *,
    base: float,
    warmup: float,
    total: int,
    decay: str = "sqrt",
    power: float = 1.0,
    end: float = 0.0,
) -> float:
    """The rate of a step: a linear warm-up, then the decay.

    ``sqrt`` is NVIDIA's polynomial schedule of degree 0.5 for pretraining (PolyWarmUpScheduler). With
    x = (step + 1) / total: base x / warmup while x < warmup, then base sqrt(1 - x). The rate jumps down
    from ``base`` at the end of the warm-up, as the published runs do; the last step's and all later are 0.

    The others rise as Hugging Face counts it: with w = warmup total, base step / w while step < w. Then, with
    y = (total - step) / (total - w), which falls from 1 to 0: ``linear``, that of BERT's own fine-tuning, is
    end + (base - end) y^power, with the power and the end of HetSeq's polynomial schedule; ``cosine`` is
    end + (base - end) (1 - cos(pi y)) / 2 (Loshchilov and Hutter, SGDR); ``constant`` stays at base.

    Args:
        step: optimizer steps done before this one, from 0; skipped ones do not count.
        base: peak learning rate.
        warmup: share of ``total`` spent warming up, 0 to 1.
        total: optimizer steps of the phase.
        decay: "sqrt", "linear", "cosine" or "constant".
        power: of "linear", above 0.
        end: the rate that "linear" and "cosine" fall to, at most ``base``.
    """
    if decay == "sqrt":
        progress = min(1.0, (step + 1) / total)
        return base * progress / warmup if progress < warmup else base * math.sqrt(1.0 - progress)
    rising = math.ceil(warmup * total)
    if step < rising:
        return base * step / rising
    if decay == "constant":
        return base
    left = max(0, total - step) / max(1, total - rising)
    return end + (base - end) * (left**power if decay == "linear" else (1.0 - math.cos(math.pi * left)) / 2)
