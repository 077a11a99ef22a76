"""Sample order: no row lost or repeated, the same whatever the number of ranks, the restarts and the bad shards."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.data.batches.order import SampleOrder, StreamState, arrange
from bertjobs.data.batches.permutation import Permutation

ROWS = st.integers(1, 200)
SEEDS = st.integers(-(2**63), 2**64 - 1)


@st.composite
def gaps(draw: st.DrawFn, rows: int) -> tuple[tuple[int, int], ...]:
    """Disjoint ranges of rows that are left out; at least one row remains."""
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=6, unique=True)))
    ranges = tuple(zip(cuts[::2], cuts[1::2], strict=False))
    return ranges if sum(stop - start for start, stop in ranges) < rows else ()


@settings(deadline=None)
@given(rows=ROWS, size=st.integers(1, 150), steps=st.integers(1, 8), seed=SEEDS)
def test_steps_read_the_epochs_one_after_the_other(rows: int, size: int, steps: int, seed: int) -> None:
    order = SampleOrder(rows, seed)
    batches = [order.samples(step * size, size) for step in range(steps)]
    epochs = np.concatenate([epoch for epoch, _ in batches])
    samples = np.concatenate([sample for _, sample in batches])
    assert (np.diff(epochs) >= 0).all()
    for epoch in range(int(epochs[-1]) + 1):
        seen = samples[epochs == epoch]
        assert seen.tolist() == Permutation(rows, seed, epoch)(np.arange(len(seen))).tolist()
        assert epoch == epochs[-1] or len(seen) == rows


@settings(deadline=None)
@given(data=st.data(), rows=ROWS, seed=SEEDS)
def test_leaving_rows_out_does_not_change_the_order_of_the_others(data: st.DataObject, rows: int, seed: int) -> None:
    left_out = data.draw(gaps(rows))
    order = SampleOrder(rows, seed, left_out)
    out = {row for start, stop in left_out for row in range(start, stop)}
    assert order.kept == rows - len(out)
    epochs, samples = order.samples(0, 3 * order.kept)
    for epoch in range(3):
        whole = Permutation(rows, seed, epoch)(np.arange(rows)).tolist()
        assert samples[epochs == epoch].tolist() == [row for row in whole if row not in out]


@settings(deadline=None)
@given(data=st.data(), rows=ROWS, seed=SEEDS, number=st.integers(0, 1000))
def test_each_sample_has_a_place_and_each_place_a_sample(
    data: st.DataObject, rows: int, seed: int, number: int
) -> None:
    order = SampleOrder(rows, seed, data.draw(gaps(rows)))
    epoch, place = order.place(number)
    assert order.number(epoch, place) == number
    epochs, samples = order.samples(number, 1)
    assert (epoch, Permutation(rows, seed, epoch)(np.array([place]))[0]) == (epochs[0], samples[0])


@settings(deadline=None)
@given(data=st.data(), rows=ROWS, seed=SEEDS, read=st.integers(0, 300))
def test_continuing_with_other_gaps_repeats_no_row_and_loses_none(
    data: st.DataObject, rows: int, seed: int, read: int
) -> None:
    """Shards may go bad, or come back, between two attempts."""
    before, after = (SampleOrder(rows, seed, data.draw(gaps(rows))) for _ in range(2))
    epoch, place = before.place(read)
    epochs, samples = (
        before.samples(epoch * before.kept, read - epoch * before.kept) if read % before.kept else ([], [])
    )
    seen = Counter(np.asarray(samples)[np.asarray(epochs) == epoch].tolist())
    first = after.number(epoch, place)
    rest = after.samples(first, after.kept * (epoch + 1) - first)[1] if first < after.kept * (epoch + 1) else []
    seen.update(np.asarray(rest).tolist())
    assert set(seen.values()) <= {1}
    in_both = set(range(rows)) - {row for order in (before, after) for gap in order.left_out for row in range(*gap)}
    assert in_both <= set(seen)


def test_the_state_survives_json() -> None:
    state = StreamState(3, 17, 99, 42, "ab" * 32, ("train/shard-0.safetensors_0",))
    assert StreamState.from_json({**vars(state), "skipped": list(state.skipped)}) == state


@settings(deadline=None)
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
    both = arrange(np.stack([batch, batch[::-1]]), world, micro)
    assert both[0].tolist() == places.tolist()
    assert both[1].tolist() == arrange(batch[::-1], world, micro).tolist()


def test_a_batch_that_cannot_be_dealt_is_refused() -> None:
    with pytest.raises(ValueError, match="10 sequences are not a multiple of 2 ranks x 3"):
        arrange(np.arange(10), 2, 3)
