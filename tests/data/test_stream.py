"""Sample order: no row lost or repeated, the same whatever the number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.data.stream import arrange, epoch_order, global_batch, rank_micro_batches

ROWS = st.integers(1, 200)
SEEDS = st.integers(-(2**63), 2**64 - 1)


@given(rows=ROWS, seed=SEEDS, epoch=st.integers(0, 1000))
def test_an_epoch_visits_each_row_once(rows: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(rows, seed, epoch)) == list(range(rows))


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_order_is_pinned() -> None:
    """A change here changes every run that is resumed by the new version."""
    assert epoch_order(12, 42, 0).tolist() == [11, 7, 1, 6, 10, 4, 3, 5, 9, 0, 2, 8]


def test_first_rows_are_uniform() -> None:
    first = np.array([epoch_order(10, seed, 3)[0] for seed in range(4000)])
    expected, deviation = 400, np.sqrt(4000 * 0.1 * 0.9)
    assert np.abs(np.bincount(first, minlength=10) - expected).max() < 5 * deviation


@given(rows=ROWS, size=st.integers(1, 150), steps=st.integers(1, 8), seed=SEEDS)
def test_steps_read_the_epochs_one_after_the_other(rows: int, size: int, steps: int, seed: int) -> None:
    batches = [global_batch(rows, seed, step, size) for step in range(steps)]
    epochs = np.concatenate([epoch for epoch, _ in batches])
    samples = np.concatenate([sample for _, sample in batches])
    assert (np.diff(epochs) >= 0).all()
    for epoch in range(int(epochs[-1]) + 1):
        order = epoch_order(rows, seed, epoch)
        seen = samples[epochs == epoch]
        assert seen.tolist() == order[: len(seen)].tolist()
        assert epoch == epochs[-1] or len(seen) == rows


@given(
    world=st.integers(1, 5),
    micro=st.integers(1, 4),
    steps=st.integers(1, 5),
    lengths=st.lists(st.integers(4, 512), min_size=100, max_size=100),
)
def test_dealing_loses_nothing_and_gives_ranks_neighbouring_lengths(
    world: int, micro: int, steps: int, lengths: list[int]
) -> None:
    batch = np.array(lengths[: world * micro * steps])
    places = arrange(batch, world, micro)
    assert places.shape == (steps, world, micro)
    assert sorted(places.ravel()) == list(range(len(batch)))
    assert (np.diff(batch[places.ravel()]) >= 0).all()
    by_rank = [rank_micro_batches(batch, rank, world, micro) for rank in range(world)]
    for step in range(steps):
        together = np.concatenate([by_rank[rank][step] for rank in range(world)])
        assert together.tolist() == places[step].ravel().tolist()


def test_a_batch_that_cannot_be_dealt_is_refused() -> None:
    with pytest.raises(ValueError, match="10 sequences do not divide by 2 ranks x 3"):
        arrange(np.arange(10), 2, 3)
