"""The model of a step's time: what must hold of it whatever its coefficients."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.launch.plan.interconnect import Interconnect, interconnect_of, network_rate
from bertjobs.launch.plan.step_time import (
    FITTED,
    LAMB_BYTES,
    Machine,
    StepWork,
    World,
    exchange_seconds,
    expected_largest,
    machine_from,
    step_time,
    work_of,
)
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.size import parameter_count
from bertjobs.recipe.spec import RunSpec

CATALOGUE = load_catalogue([builtin_file()])
RESULT = Path(__file__).parents[3] / "benchmarks" / "results" / "scaling.json"
WAYS = Interconnect(inside=300e9, between=200e9, memory=2e12)

worlds = st.builds(World, st.integers(1, 512), st.sampled_from([1, 2, 4, 8]))
works = st.builds(
    StepWork,
    st.integers(1, 8192),
    st.floats(1e6, 2e9),
    st.floats(0, 2e10),
    st.floats(0.1, 1.0),
    st.integers(1, 64),
)


def resolved(recipe: str, *sets: str, **flags: object) -> RunSpec:
    return resolve(CATALOGUE, flags={"recipe": recipe, **flags}, environ={}, sets=sets).spec


@given(works, worlds, st.floats(1, 3000))
def test_no_part_is_negative_and_the_parts_are_the_step(work: StepWork, world: World, rate: float) -> None:
    parts = step_time(work, world, Machine(rate, WAYS, data_s=1e-5))
    assert min(asdict(parts).values()) >= 0
    assert parts.seconds == pytest.approx(sum(asdict(parts).values()))
    assert parts.compute_s == work.sequences / rate


@given(works, worlds, st.floats(1, 3000))
def test_one_more_node_with_the_same_work_per_rank_is_never_faster(work: StepWork, world: World, rate: float) -> None:
    machine = Machine(rate, WAYS)
    larger = replace(world, nodes=world.nodes + 1)
    assert step_time(work, larger, machine).seconds >= step_time(work, world, machine).seconds * (1 - 1e-12)


@given(works, worlds, st.floats(1, 3000))
def test_the_machine_of_a_measured_step_takes_as_long_for_it(work: StepWork, world: World, rate: float) -> None:
    seconds = step_time(work, world, Machine(rate, WAYS)).seconds
    found = machine_from(seconds, work, world, WAYS)
    again = step_time(work, world, found).seconds
    assert again >= seconds * (1 - 1e-9)
    others = sum(vars(step_time(replace(work, sequences=0), world, found)).values())
    if others < 0.9 * seconds:
        assert again == pytest.approx(seconds)
        assert found.rate == pytest.approx(rate)


def test_a_single_rank_waits_for_nobody() -> None:
    parts = step_time(StepWork(100, 1e9, 0.0), World(1, 1), Machine(50.0, WAYS))
    assert (parts.slowest_s, parts.exchange_s, parts.seconds) == (0.0, 0.0, 2.0)


def test_a_ring_sends_nearly_twice_the_bytes_over_its_slowest_part() -> None:
    full = replace(FITTED, inside_share=1.0, between_share=1.0)
    assert exchange_seconds(300e9, World(1, 2), WAYS, full) == pytest.approx(1.0)  # 2 x 1/2 x 300 GB at 300 GB/s
    assert exchange_seconds(200e9, World(2, 8), WAYS, full) == pytest.approx(2 * 15 / 16)  # the network is slower
    fast = replace(WAYS, between=900e9)
    assert exchange_seconds(300e9, World(2, 8), fast, full) == pytest.approx(2 * 15 / 16)  # now NVLink is
    assert exchange_seconds(200e9, World(2, 1), replace(WAYS, inside=None), full) == pytest.approx(1.0)
    assert exchange_seconds(1e9, World(2, 1), Interconnect(), full) == 0.0


@pytest.mark.parametrize("count", [2, 8, 64])
def test_the_expected_largest_of_normal_draws(count: int) -> None:
    draw = Random(3)
    largest = [max(draw.gauss() for _ in range(count)) for _ in range(4000)]
    assert expected_largest(count) == pytest.approx(sum(largest) / len(largest), abs=0.05)


def test_what_a_rank_of_a_run_sends_and_touches() -> None:
    spec = resolved("dgxa100-80g", nodes=2)
    parameters = parameter_count(spec.model, 30522)
    plain = work_of(spec, spec.phases[0], 30522)
    assert (plain.sequences, plain.sent_bytes, plain.optimizer_bytes) == (4096, 4 * parameters, LAMB_BYTES * parameters)
    half = resolved("dgxa100-80g", "gradient_compression=fp16", nodes=2)
    assert work_of(half, half.phases[0], 30522).sent_bytes == 2 * parameters
    shared = resolved("dgxa100-80g", "optimizer.shard_states=true", nodes=2)
    work = work_of(shared, shared.phases[0], 30522)
    assert (work.sent_bytes, work.optimizer_bytes) == (6 * parameters, LAMB_BYTES * parameters // 16)


@pytest.mark.parametrize(
    ("words", "gigabytes"),
    [
        ("8 x HDR InfiniBand", 200),
        ("4 x EDR InfiniBand", 50),
        ("8xNDR", 400),
        ("HDR", 25),
        ("2 x 25 Gb/s Ethernet", 6.25),
        ("100GbE", 12.5),
        ("Ethernet", None),
        ("one machine", None),
        ("0 x 25 Gb/s", None),
        ("", None),
    ],
)
def test_the_words_for_a_network_give_its_rate(words: str, gigabytes: float | None) -> None:
    assert network_rate(words) == (None if gigabytes is None else gigabytes * 1e9)


def test_every_gpu_system_of_the_catalogue_has_known_rates() -> None:
    for name in CATALOGUE.keys("systems"):
        system = CATALOGUE.system(name, "")
        ways = interconnect_of(system)
        assert ways.is_known(512, system.gpus_per_node) == (system.gpu != "none")
        assert bool(ways.memory) == (system.gpu != "none")


def test_the_coefficients_are_those_that_the_benchmark_recorded() -> None:
    assert json.loads(RESULT.read_text())["fitted"] == pytest.approx(asdict(FITTED), rel=1e-3)


def test_a_world_of_groups_has_all_their_ranks() -> None:
    assert World.of(resolved("laptop", "groups=2x4,1x8")).ranks == 16
    assert World.of(resolved("laptop", "groups=1x2,1x2,2x2")).ranks == 8
