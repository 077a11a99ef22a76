"""A model of the time of an optimizer step on any number of ranks. Pure arithmetic.

A step takes as long as its parts, one after the other::

    compute     sequences of a rank / the rate of a rank that computes alone
    balance     what ranks wait because packs cannot be divided evenly over them
    slowest     all wait for the slowest rank: compute x spread x (expected largest of as many standard normals)
    exchange    sum of the gradients over all ranks, in a ring: 2 (n - 1) / n x their bytes / the slowest way
    optimizer   bytes that it reads and writes / the memory's rate
    data        for which the device waits for batches

What an exchange hides behind the backward pass is in the shares of the stated rates that it seems to reach, as far as
it was hidden in the tables that these are fitted to. Latencies, which NCCL's trees keep to microseconds, are left out.

`FITTED` is fitted by ``benchmarks/scaling.py`` to published tables; docs/scaling.md has its errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from bertjobs.launch.plan.interconnect import Interconnect
from bertjobs.recipe.size import parameter_count
from bertjobs.recipe.spec import PhaseSpec, RunSpec

LAMB_BYTES = 44
"""Bytes per parameter: its gradient for the norm; gradient, weight, moments read; moments, update written; update and
weight read; weight written. The same is counted for the other optimizers."""

GRADIENT_BYTES = {"none": 4, "fp16": 2, "bf16": 2}
"""Bytes per parameter that travel, by the setting ``gradient_compression``."""

LEAST_COMPUTE = 0.05
"""Of a measured step, the share that counts as computing even where the model's other parts would leave less."""


@dataclass(frozen=True)
class Coefficients:
    """What data sheets do not tell.

    Attributes:
        spread: standard deviation of the ranks' speeds, as a share of their mean.
        inside_share, between_share: of the stated rate of NVLink and of the network, what a sum over ranks seems to
            reach, at most 1: a part of it may be hidden behind computing.
        memory_share: of the stated rate of a GPU's memory, what an optimizer reaches.
    """

    spread: float
    inside_share: float
    between_share: float
    memory_share: float


FITTED = Coefficients(spread=0.0208, inside_share=0.989, between_share=1.0, memory_share=0.81)
"""Fitted to NVIDIA's tables by ``benchmarks/scaling.py``, but for ``memory_share``: 3.9 of 4.8 TB/s, a copy on an H200
(``benchmarks/costs.py``)."""


@dataclass(frozen=True)
class World:
    """``nodes`` with ``ranks_per_node`` each, or in the mean."""

    nodes: int
    ranks_per_node: float

    @classmethod
    def of(cls, spec: RunSpec) -> World:
        """A run's; of groups of nodes the mean."""
        return cls(spec.nodes, spec.world_size / spec.nodes)

    @property
    def ranks(self) -> int:
        return round(self.nodes * self.ranks_per_node)


@dataclass(frozen=True)
class StepWork:
    """What a rank does in a step.

    Attributes:
        sequences: that it trains on.
        sent_bytes: of the gradients that are summed over ranks each time.
        optimizer_bytes: that its optimizer reads and writes.
        busy_share: of what all ranks could compute in that time, what packs fill, 0 to 1.
        exchanges: how often gradients are summed in a step.
    """

    sequences: float
    sent_bytes: float
    optimizer_bytes: float
    busy_share: float = 1.0
    exchanges: int = 1


@dataclass(frozen=True)
class Machine:
    """What a rank reaches.

    Attributes:
        rate: sequences per second of a rank that computes alone, in whole packs.
        interconnect: what the gradients travel over.
        exchange_factor: how many times as long an exchange takes as the coefficients say.
        data_s: for which the device waits for one sequence, in seconds.
    """

    rate: float
    interconnect: Interconnect
    exchange_factor: float = 1.0
    data_s: float = 0.0


@dataclass(frozen=True)
class StepTime:
    """The parts of a step, in seconds."""

    compute_s: float
    balance_s: float
    slowest_s: float
    exchange_s: float
    optimizer_s: float
    data_s: float

    @property
    def seconds(self) -> float:
        return sum(vars(self).values())


def work_of(spec: RunSpec, phase: PhaseSpec, vocab_size: int, busy_share: float = 1.0) -> StepWork:
    """The work of a rank of a run. Sharded states divide the optimizer's work, and each rank then sends its weights:
    half the traffic of a sum over ranks."""
    parameters = parameter_count(spec.model, vocab_size)
    sent, touched = parameters * GRADIENT_BYTES[spec.gradient_compression], parameters * LAMB_BYTES
    if spec.optimizer.shard_states and spec.world_size > 1:
        sent, touched = sent + parameters * 4 // 2, touched // spec.world_size
    return StepWork(phase.rank_batch, sent, touched, busy_share)


def expected_largest(count: int) -> float:
    """Of so many draws from a standard normal distribution, about (Blom, 1958)."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


def exchange_seconds(
    sent_bytes: float, world: World, interconnect: Interconnect, coefficients: Coefficients = FITTED
) -> float:
    """One sum over all ranks of what each of them has. Rings lead through each GPU of each node, and every part of them
    works at the same time: the slowest decides. A way of unknown speed counts as fast."""
    if world.ranks == 1:
        return 0.0
    ways = []
    if world.ranks_per_node > 1 and interconnect.inside:
        ways.append(interconnect.inside * coefficients.inside_share)
    if world.nodes > 1 and interconnect.between:
        ways.append(interconnect.between * coefficients.between_share)
    travelling = 2 * (world.ranks - 1) / world.ranks * sent_bytes
    return travelling / min(ways) if ways else 0.0


def step_time(work: StepWork, world: World, machine: Machine, coefficients: Coefficients = FITTED) -> StepTime:
    """The parts of a step on ``world``."""
    compute = work.sequences / machine.rate
    filled = compute / work.busy_share
    memory = machine.interconnect.memory
    exchange = exchange_seconds(work.sent_bytes, world, machine.interconnect, coefficients)
    return StepTime(
        compute,
        filled - compute,
        filled * coefficients.spread * expected_largest(world.ranks),
        exchange * work.exchanges * machine.exchange_factor,
        work.optimizer_bytes / (memory * coefficients.memory_share) if memory else 0.0,
        work.sequences * machine.data_s,
    )


def machine_from(
    seconds: float, work: StepWork, world: World, interconnect: Interconnect, coefficients: Coefficients = FITTED
) -> Machine:
    """The machine on which a step was measured to take ``seconds``: what is not its other parts is computing."""
    unit = step_time(work, world, Machine(1.0, interconnect), coefficients)
    computing = unit.compute_s + unit.balance_s + unit.slowest_s  # at one sequence per second
    others = unit.seconds - computing
    return Machine(computing / max(seconds - others, LEAST_COMPUTE * seconds), interconnect)
