"""Every pack is dealt once, and the slowest rank is done as early as possible."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.batches.dealing import by_speed, in_turns, step_seconds

SECONDS = st.lists(st.floats(0.01, 10), min_size=1, max_size=9)


@given(st.integers(0, 100), SECONDS)
def test_every_pack_is_dealt_once_and_every_rank_gets_one_at_least(packs: int, seconds: list[float]) -> None:
    dealt = by_speed(packs, seconds)
    numbers = [number for each in dealt for number in each]
    assert sorted(number for number in numbers if number < packs) == list(range(packs))
    assert len(set(numbers)) == len(numbers), "an empty pack has a number of its own, too"
    assert all(numbers == sorted(numbers) and numbers for numbers in dealt)
    assert all(number < packs or len(numbers) == 1 for numbers in dealt for number in numbers)


@given(st.integers(1, 100), st.integers(1, 9), st.floats(0.01, 10))
def test_ranks_of_one_speed_take_turns(packs: int, ranks: int, seconds: float) -> None:
    own = [[number for number in numbers if number < packs] for numbers in in_turns(packs, ranks)]
    speedy = [[number for number in numbers if number < packs] for numbers in by_speed(packs, [seconds] * ranks)]
    assert sorted(map(len, speedy)) == sorted(map(len, own))


@given(st.integers(1, 7), st.lists(st.sampled_from([1.0, 1.5, 2.0, 3.0, 7.0]), min_size=2, max_size=3))
def test_no_other_deal_is_done_sooner(packs: int, seconds: list[float]) -> None:
    def latest(owners: tuple[int, ...]) -> float:
        return max(owners.count(rank) * each for rank, each in enumerate(seconds))

    dealt = [[number for number in numbers if number < packs] for numbers in by_speed(packs, seconds)]
    best = min(map(latest, product(range(len(seconds)), repeat=packs)))
    assert step_seconds(dealt, seconds) == pytest.approx(best)


def test_a_rank_three_times_as_slow_gets_a_third() -> None:
    assert [len(numbers) for numbers in by_speed(16, [1.0, 3.0])] == [12, 4]
    assert step_seconds(by_speed(16, [1.0, 3.0]), [1.0, 3.0]) == 12
    assert step_seconds(in_turns(16, 2), [1.0, 3.0]) == 24
