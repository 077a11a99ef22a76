"""What groups of unlike nodes contribute to a run, and what it gains where packs are dealt by their speed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bertjobs.data.batches.dealing import by_speed, in_turns, step_seconds
from bertjobs.launch.plan.estimate import EarlierRun, rate_of_one
from bertjobs.launch.plan.packs import Packs
from bertjobs.recipe.groups import NodeGroup
from bertjobs.recipe.spec import PhaseSpec, RunSpec


@dataclass(frozen=True)
class GroupShare:
    """One group's part of a global batch.

    Attributes:
        group: as ``--groups`` takes it.
        ranks: of all its nodes.
        speed: of each rank, as a multiple of the slowest group's.
        share: of the packs that all its ranks compute, 0 to 1.
    """

    group: str
    ranks: int
    speed: float
    share: float


@dataclass(frozen=True)
class Shares:
    """The groups' parts in a phase.

    Attributes:
        groups: in their order.
        gain: how many times as many packs per second all ranks compute, as if each got equally many.
        rate: sequences/s of a rank that computes alone, of all ranks the mean where packs are dealt by speed, else the
            slowest's, which all wait for; None if not known.
        source: where the rates come from, in words.
    """

    groups: tuple[GroupShare, ...]
    gain: float
    rate: float | None
    source: str

    def words(self) -> str:
        """``32% + 68%``."""
        return " + ".join(f"{group.share:.0%}" for group in self.groups)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"groups": [asdict(group) for group in self.groups], "gain": self.gain}


def shares_of(spec: RunSpec, phase: PhaseSpec, earlier: Sequence[EarlierRun], packs: Packs | None) -> Shares | None:
    """A phase's; None where all groups are alike, or nothing is known of the speed of one.

    The rate of a group is that of its system, measured or published, times its given speed.
    """
    groups, systems = spec.groups, spec.group_systems or (spec.system,) * len(spec.groups)
    known = [rate_of_one(replace(spec, system=system), phase, earlier) for system in systems]
    if None in known and len({system.name for system in systems}) > 1:
        return None
    rates = [(one[0] if one else 1.0) * group.speed for one, group in zip(known, groups, strict=True)]
    if len(set(rates)) < 2:
        return None
    ranks = [group.nodes * group.tasks_per_node for group in groups]
    each = [rate for rate, count in zip(rates, ranks, strict=True) for _ in range(count)]
    counts, gain = _dealt(each, packs.count if packs and spec.rebalance else 0)
    parts, place = [], 0
    for group, count, rate in zip(groups, ranks, rates, strict=True):
        share = sum(counts[place : place + count]) / sum(counts) if spec.rebalance else count / sum(ranks)
        parts.append(GroupShare(str(group), count, rate / min(rates), share))
        place += count
    rate = sum(each) / len(each) if spec.rebalance else min(each)
    sources = list(dict.fromkeys(one[1] for one in known if one))
    return Shares(tuple(parts), gain if spec.rebalance else 1.0, rate if sources else None, _words(groups, sources))


def _dealt(rates: Sequence[float], packs: int) -> tuple[Sequence[float], float]:
    """What each rank computes of a step, and the gain over equal parts: in whole packs, if their number is known."""
    if not packs:
        return rates, sum(rates) / len(rates) / min(rates)
    seconds = [1 / rate for rate in rates]
    dealt = by_speed(packs, seconds)
    counts = [sum(number < packs for number in numbers) for numbers in dealt]
    return counts, step_seconds(in_turns(packs, len(rates)), seconds) / step_seconds(dealt, seconds)


def _words(groups: Sequence[NodeGroup], sources: Sequence[str]) -> str:
    given = ", times the groups' given speeds" if any(group.speed != 1 for group in groups) else ""
    return "; ".join(sources) + given
