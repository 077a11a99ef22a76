"""The model of a step's time fitted to the runs of one recipe, on one kind of node."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bertjobs.launch.plan.interconnect import Interconnect
from bertjobs.launch.plan.step_time import LEAST_COMPUTE, Machine, StepWork, World, step_time

NOISE = 0.02
"""Of a step's median time, how much is taken to differ from run to run."""

PRIOR = 0.5
"""How far an exchange is taken to be off the coefficients, as a share, before any run has shown it."""


@dataclass(frozen=True)
class Observed:
    """A measured step: its median time and, of that, how long the device waited for batches."""

    work: StepWork
    world: World
    seconds: float
    data_s: float = 0.0


@dataclass(frozen=True)
class StepFit:
    """What the runs tell.

    Attributes:
        machine: of a rank.
        is_exchange_measured: whether runs on different numbers of ranks told how long an exchange takes.
    """

    machine: Machine
    is_exchange_measured: bool

    def counts_exchange(self, world: World) -> bool:
        """Whether what travels between the ranks of a world is in its predicted time."""
        return world.ranks == 1 or self.machine.interconnect.is_known(world.nodes, world.ranks_per_node)


def fit(observed: Sequence[Observed], interconnect: Interconnect) -> StepFit:
    """Rate of a rank and factor of an exchange, by least squares of the relative errors.

    Where the interconnect's rates are stated, the factor starts from 1 and moves as far as the runs show; where they
    are not, it is what the runs show, and unknown if all have as many ranks. It is never below 0.
    """
    worlds = {one.world for one in observed}
    is_stated = all(interconnect.is_known(world.nodes, world.ranks_per_node) for world in worlds)
    several = len({world.ranks for world in worlds}) > 1
    if not is_stated and several:  # in units of one byte per second: the factor holds the rate
        interconnect = replace(interconnect, inside=1.0, between=1.0)
    data_s = statistics.median(one.data_s / one.work.sequences for one in observed)
    unit = Machine(1.0, interconnect)
    computing, exchanging, left = [], [], []
    for one in observed:
        parts, scale = step_time(one.work, one.world, unit), 1 / (NOISE * one.seconds)
        rest = max(one.seconds - parts.optimizer_s - one.data_s, LEAST_COMPUTE * one.seconds)
        computing.append((parts.compute_s + parts.balance_s + parts.slowest_s) * scale)
        exchanging.append(parts.exchange_s * scale)
        left.append(rest * scale)
    per_sequence, factor = _solved(computing, exchanging, left, 1 / PRIOR**2 if is_stated else 0.0)
    return StepFit(Machine(1 / per_sequence, interconnect, factor, data_s), several and any(exchanging))


def _solved(
    first: Sequence[float], second: Sequence[float], wanted: Sequence[float], prior: float
) -> tuple[float, float]:
    """The a > 0 and b >= 0 for which a x ``first`` + b x ``second`` is nearest to ``wanted``, in squares, with b pulled
    to 1 by ``prior``."""

    def product(left: Sequence[float], right: Sequence[float]) -> float:
        return sum(one * other for one, other in zip(left, right, strict=True))

    a_a, a_b, b_b = product(first, first), product(first, second), product(second, second) + prior
    a_w, b_w = product(first, wanted), product(second, wanted) + prior
    determinant = a_a * b_b - a_b**2
    if determinant > 1e-9 * a_a * b_b:
        a, b = (a_w * b_b - b_w * a_b) / determinant, (a_a * b_w - a_b * a_w) / determinant
        if b >= 0 and a > 0:
            return a, b
    return a_w / a_a, 0.0
