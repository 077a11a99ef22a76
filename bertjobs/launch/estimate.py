"""How long a phase will take: arithmetic from the model's size and a rate."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bertjobs.recipe.flops import flops_per_sequence
from bertjobs.recipe.spec import PhaseSpec, RunSpec

CPU_SHARE = 0.6
"""Share of this machine's own matrix-product rate that a training step reaches, seen on two cores."""


@dataclass(frozen=True)
class Estimate:
    """Expected seconds of a phase, and where the number comes from."""

    seconds: float
    source: str


def matrix_product_rate() -> float:
    """This machine's float32 matrix products, in floating-point operations per second, all cores."""
    import numpy

    size = 1024
    left = numpy.random.default_rng(0).standard_normal((size, size), dtype=numpy.float32)
    left @ left
    started = time.perf_counter()
    rounds = 0
    while time.perf_counter() - started < 0.2:
        left @ left
        rounds += 1
    return 2.0 * size**3 * rounds / (time.perf_counter() - started)


def estimate_phase(spec: RunSpec, phase: PhaseSpec, vocab_size: int, rate: float | None) -> Estimate | None:
    """Expected time of a phase on CPUs, from this machine's matrix-product ``rate``; None where nothing is known.

    Sequences are on average shorter than the phase's length and the shortest are padded least, so this is an
    upper estimate.
    """
    if spec.gpus or rate is None:
        return None
    work = flops_per_sequence(spec.model, phase, vocab_size) * phase.global_batch * phase.steps
    return Estimate(work / (rate * CPU_SHARE), f"{rate / 1e9:.0f} GFLOP/s measured here, {CPU_SHARE:.0%} of it used")


def duration(seconds: float) -> str:
    """``75`` as ``1 min 15 s``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
