"""Runs on several numbers of ranks tell the rate of a rank and the time of an exchange."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.launch.plan.interconnect import Interconnect
from bertjobs.launch.plan.step_fit import Observed, StepFit, fit
from bertjobs.launch.plan.step_time import Machine, StepWork, World, step_time

STATED = Interconnect(inside=150e9, between=50e9, memory=900e9)
WORK = StepWork(sequences=256, sent_bytes=1.3e9, optimizer_bytes=1.5e10)


def observed(machine: Machine, *worlds: World, rank_batch: int | None = None) -> list[Observed]:
    """What a machine would be measured to take for a global batch of 4,096."""
    found = []
    for world in worlds:
        work = replace(WORK, sequences=rank_batch or 4096 / world.ranks)
        parts = step_time(work, world, machine)
        found.append(Observed(work, world, parts.seconds, parts.data_s))
    return found


def predicted(found: StepFit, world: World) -> float:
    return step_time(replace(WORK, sequences=4096 / world.ranks), world, found.machine).seconds


@given(rate=st.floats(20, 2000), wait=st.floats(0, 1e-4))
def test_a_machine_that_is_as_stated_is_found_again(rate: float, wait: float) -> None:
    machine = Machine(rate, STATED, data_s=wait)
    found = fit(observed(machine, World(1, 8), World(4, 8)), STATED)
    assert found.machine.rate == pytest.approx(rate)
    assert found.machine.exchange_factor == pytest.approx(1.0)
    assert found.machine.data_s == pytest.approx(wait)
    assert found.is_exchange_measured


@given(rate=st.floats(20, 200), bytes_per_s=st.floats(1e9, 1e11))
def test_a_network_of_unknown_speed_is_measured_by_two_runs(rate: float, bytes_per_s: float) -> None:
    real = Machine(rate, Interconnect(between=bytes_per_s))
    found = fit(observed(real, World(1, 1), World(2, 1)), Interconnect())
    larger = World(8, 1)
    expected = step_time(replace(WORK, sequences=512), larger, real).seconds
    assert predicted(found, larger) == pytest.approx(expected, rel=1e-6)
    assert found.counts_exchange(larger)


def test_one_run_tells_the_rate_alone() -> None:
    machine = Machine(100.0, STATED)
    found = fit(observed(machine, World(2, 8)), STATED)
    assert (found.machine.rate, found.machine.exchange_factor) == (pytest.approx(100.0), pytest.approx(1.0))
    assert not found.is_exchange_measured
    assert found.counts_exchange(World(64, 8))
    unknown = fit(observed(machine, World(2, 8)), Interconnect())
    assert not unknown.counts_exchange(World(64, 8))
    assert predicted(unknown, World(2, 8)) == pytest.approx(predicted(found, World(2, 8)))


def test_a_slow_network_is_seen_although_another_is_stated() -> None:
    slow = Machine(1000.0, STATED, exchange_factor=4.0)
    found = fit(observed(slow, World(1, 8), World(4, 8), World(16, 8)), STATED)
    assert 2.5 < found.machine.exchange_factor <= 4.0
    assert predicted(found, World(64, 8)) > 1.5 * predicted(StepFit(Machine(1000.0, STATED), False), World(64, 8))


def test_larger_worlds_that_are_too_fast_give_no_negative_exchange() -> None:
    fast = [Observed(replace(WORK, sequences=4096 / n), World(n, 1), 40.0 / n**1.2) for n in (1, 2, 4)]
    found = fit(fast, Interconnect())
    assert found.machine.exchange_factor == 0.0
    assert found.machine.rate > 0
