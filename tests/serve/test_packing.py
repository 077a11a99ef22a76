"""Which rows go into the next pack."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.serve.packing import rows_of_next_pack


@pytest.mark.parametrize(
    ("waiting", "budget", "taken"),
    [
        ([], 10, []),
        ([[4], [3], [3]], 10, [1, 1, 1]),
        ([[4, 4, 4, 4], [4]], 10, [1, 1]),  # a large request does not hold up a small one
        ([[4, 4, 4, 4], [4]], 12, [2, 1]),
        ([[20], [1]], 10, [1, 0]),  # too long for any pack: alone
        ([[6], [6], [4]], 10, [1, 0, 1]),  # what does not fit is passed by shorter rows
        ([[6, 6, 1]], 10, [1]),  # but not by later rows of the same request
    ],
)
def test_requests_take_turns(waiting: list[list[int]], budget: int, taken: list[int]) -> None:
    assert rows_of_next_pack(waiting, budget) == taken


requests = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=12)


@given(requests, st.integers(1, 100))
def test_a_pack_keeps_its_budget_and_the_oldest_gets_ahead(waiting: list[list[int]], budget: int) -> None:
    taken = rows_of_next_pack(waiting, budget)
    tokens = sum(sum(rows[:count]) for rows, count in zip(waiting, taken, strict=True))
    assert taken[0] >= 1
    assert tokens <= budget or sum(taken) == 1
    fits = [rows[0] for rows, count in zip(waiting, taken, strict=True) if not count]
    assert all(tokens + first > budget for first in fits)


@given(requests, st.integers(1, 100))
def test_all_rows_are_computed_once(waiting: list[list[int]], budget: int) -> None:
    left = [list(rows) for rows in waiting]
    packs = 0
    while any(left):
        alive = [rows for rows in left if rows]
        for rows, count in zip(alive, rows_of_next_pack(alive, budget), strict=True):
            del rows[:count]
        packs += 1
    assert packs <= sum(map(len, waiting))
