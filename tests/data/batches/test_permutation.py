"""The order of an epoch: a permutation of any number of rows, of which any part is computed alone."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.data.batches.permutation import Permutation

SEEDS = st.integers(-(2**63), 2**64 - 1)
AWKWARD = [1, 2, 3, 4, 5, 255, 256, 257, 1021, 1023, 1024, 1025, 4999, 65535, 65536, 65537, 99991]


def order(rows: int, seed: int, epoch: int) -> np.ndarray:
    return Permutation(rows, seed, epoch)(np.arange(rows))


@settings(deadline=None)
@given(rows=st.integers(1, 5000), seed=SEEDS, epoch=st.integers(0, 1000))
def test_each_row_comes_once_and_its_place_can_be_computed(rows: int, seed: int, epoch: int) -> None:
    permutation = Permutation(rows, seed, epoch)
    permuted = permutation(np.arange(rows))
    assert np.array_equal(np.sort(permuted), np.arange(rows))
    assert np.array_equal(permutation.places(permuted), np.arange(rows))


@pytest.mark.parametrize("rows", AWKWARD)
def test_primes_and_numbers_beside_powers_of_two(rows: int) -> None:
    assert np.array_equal(np.sort(order(rows, 7, 2)), np.arange(rows))


@settings(deadline=None)
@given(rows=st.integers(1, 2**33), seed=SEEDS, data=st.data())
def test_any_part_of_a_huge_order_is_computed_alone(rows: int, seed: int, data: st.DataObject) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=5, unique=True)))
    permutation = Permutation(rows, seed, 0)
    permuted = permutation(places)
    assert ((permuted >= 0) & (permuted < rows)).all()
    assert len(set(permuted.tolist())) == len(places)
    assert np.array_equal(permutation.places(permuted), places)


def test_the_order_is_pinned() -> None:
    """A change here changes every run that is resumed by the new version."""
    assert order(12, 42, 0).tolist() == [4, 0, 7, 9, 10, 11, 5, 2, 8, 1, 3, 6]
    assert Permutation(180_000_000, 42, 3)(np.array([0, 1, 2, 90_000_000, 179_999_999])).tolist() == [
        46297100,
        78749162,
        26274033,
        127773488,
        62505969,
    ]


def chi_square(counts: np.ndarray) -> tuple[float, float]:
    """The statistic for equally likely classes, and its 0.1% critical value (Wilson and Hilferty, 1931)."""
    expected, freedom = counts.sum() / counts.size, counts.size - 1
    spread = 2 / (9 * freedom)
    return float(((counts - expected) ** 2 / expected).sum()), freedom * (1 - spread + 3.0902 * spread**0.5) ** 3


@pytest.mark.parametrize("rows", [3, 4, 5])
def test_all_orders_of_few_rows_are_equally_likely(rows: int) -> None:
    index = {one: number for number, one in enumerate(permutations(range(rows)))}
    counts = np.bincount([index[tuple(order(rows, seed, 1).tolist())] for seed in range(4000)], minlength=len(index))
    statistic, critical = chi_square(counts)
    assert statistic < critical


def test_rows_at_a_place_are_uniform_over_seeds() -> None:
    places = np.array([0, 500, 1000])
    rows = np.array([Permutation(1001, seed, 0)(places) for seed in range(5000)])
    for column in rows.T:
        statistic, critical = chi_square(np.bincount(column * 40 // 1001, minlength=40))
        assert statistic < critical


def test_neighbouring_places_are_far_apart() -> None:
    """The place of a row's successor, relative to the row, is uniform: no runs of the input remain."""
    permuted = order(100_003, 5, 0)
    steps = np.diff(permuted) % 100_003
    statistic, critical = chi_square(np.bincount(steps * 100 // 100_003, minlength=100))
    assert statistic < critical


def test_epochs_and_seeds_are_not_correlated() -> None:
    """|r| of two independent orders of n rows is below 4 / sqrt(n), except once in 15,000."""
    rows = 20_000
    orders = [order(rows, seed, epoch) for seed, epoch in ((1, 0), (1, 1), (1, 2), (2, 0), (2, 1))]
    for number, one in enumerate(orders):
        for other in orders[:number]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 4 / rows**0.5
            assert (one == other).sum() <= 8  # one is expected
