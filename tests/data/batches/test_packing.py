"""Packing: every sequence once, within the limits, in few packs that are about equally full."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.data.batches.masking import prediction_counts
from bertjobs.data.batches.packing import PackLimits, limits_for, pack

LONGEST = 32
lengths_of_batches = st.lists(st.integers(5, LONGEST), min_size=1, max_size=300).map(np.array)


def predictions_of(lengths: np.ndarray, most: int = 80) -> np.ndarray:
    return prediction_counts(lengths, 0.15, most)


def loose(tokens: int, max_length: int = LONGEST) -> PackLimits:
    """Limits that only tokens can reach."""
    return PackLimits(tokens, 2 * tokens, tokens, max_length)


def lengths_like(phase: int, count: int, seed: int = 0) -> np.ndarray:
    """About 106 tokens of 128, or 254 of 512, on average: full sequences, and others of any length."""
    draw = np.random.default_rng(seed)
    longest, full = (128, 0.62) if phase == 1 else (512, 0.19)
    others = draw.integers(14, longest + 1 if phase == 1 else 374, count)
    return np.where(draw.random(count) < full, longest, others)


def fills(lengths: np.ndarray, packs: list[np.ndarray]) -> np.ndarray:
    return np.array([lengths[places].sum() for places in packs])


@given(lengths_of_batches, st.integers(1, 8), st.integers(0, 40), st.integers(0, 60))
def test_each_sequence_is_in_one_pack_and_no_pack_exceeds_a_limit(
    lengths: np.ndarray, rows: int, slots: int, predictions: int
) -> None:
    counts = predictions_of(lengths)
    limits = PackLimits(rows * LONGEST, rows + 1 + slots, int(counts.max()) + predictions, LONGEST)
    packs = pack(lengths, counts, limits)
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(lengths)))
    for places in packs:
        assert places.dtype == np.int64
        assert len(places)
        assert (np.diff(lengths[places]) <= 0).all()
        tokens = int(lengths[places].sum())
        assert tokens <= limits.tokens
        assert len(places) + math.ceil((limits.tokens - tokens) / LONGEST) <= limits.sequences
        assert counts[places].sum() <= limits.predictions


@given(lengths_of_batches, st.integers(1, 8), st.integers(1, 400))
def test_packs_are_as_many_as_wanted_or_more_where_those_hold_too_little(
    lengths: np.ndarray, rows: int, wanted: int
) -> None:
    counts, few = predictions_of(lengths), loose(rows * LONGEST)
    packs = pack(lengths, counts, replace(few, packs=wanted))
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(lengths)))
    assert all(len(places) for places in packs)
    full = fills(lengths, packs)
    assert full.max() <= few.tokens
    assert full.max() - full.min() <= lengths.max()
    at_least = min(wanted, len(lengths))
    assert len(packs) >= at_least
    if lengths.sum() / at_least + lengths.max() <= few.tokens:  # no pack exceeds the mean by a sequence
        assert len(packs) == at_least
    assert pack(lengths, counts, replace(few, packs=len(packs)))[-1].tolist() == packs[-1].tolist()


@given(lengths_of_batches, st.integers(LONGEST, 8 * LONGEST))
def test_packs_are_few_and_differ_by_a_sequence_at_most(lengths: np.ndarray, tokens: int) -> None:
    packs = pack(lengths, predictions_of(lengths), loose(tokens))
    # With one pack fewer, some sequence does not fit even into a pack of the emptiest quarter: that pack, and so the
    # packs of the other three quarters, are more than half full.
    assert math.ceil(lengths.sum() / tokens) <= len(packs) <= 8 / 3 * lengths.sum() / tokens + 1
    full = fills(lengths, packs)
    assert full.max() - full.min() <= lengths.max()


@given(lengths_of_batches, st.integers(1, 8))
def test_packing_is_a_function_of_its_arguments(lengths: np.ndarray, rows: int) -> None:
    counts, limits = predictions_of(lengths), loose(rows * LONGEST)
    first, second = pack(lengths, counts, limits), pack(lengths.copy(), counts.copy(), limits)
    assert [places.tolist() for places in first] == [places.tolist() for places in second]


def test_an_empty_batch_has_no_packs() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert pack(none, none, loose(64)) == []


@pytest.mark.parametrize(
    ("lengths", "predictions", "limits"),
    [
        ([33], [1], loose(64)),
        ([32], [9], PackLimits(64, 8, 8, LONGEST)),
        ([5], [1], PackLimits(64, 2, 8, LONGEST)),  # the tail takes two slots
        ([0], [0], loose(64)),
        ([-7], [0], loose(64)),
    ],
)
def test_a_sequence_that_fits_no_pack_is_refused(
    lengths: list[int], predictions: list[int], limits: PackLimits
) -> None:
    with pytest.raises(ValueError, match=f"of {lengths[0]} to {lengths[0]} tokens, up to {predictions[0]} of them"):
        pack(np.array(lengths), np.array(predictions), limits)


def test_equal_sequences_are_packed_as_tightly_as_possible() -> None:
    lengths = np.full(20_000, 100)
    packs = pack(lengths, predictions_of(lengths), loose(4096, 128))
    assert len(packs) == math.ceil(20_000 / 40)


@pytest.mark.parametrize(("phase", "mean"), [(1, 106), (2, 254)])
@pytest.mark.parametrize("global_batch", [65_536, 8192])
def test_packs_of_real_lengths_are_98_percent_full(phase: int, mean: int, global_batch: int) -> None:
    lengths, longest = lengths_like(phase, global_batch), 128 if phase == 1 else 512
    counts = predictions_of(lengths, 20 if phase == 1 else 80)
    assert abs(lengths.mean() - mean) < 2
    for rows in (32, 64, 128) if phase == 1 else (8, 16, 64):
        limits = limits_for(rows * longest, longest, lengths, counts)
        packs = pack(lengths, counts, limits)
        fewest = math.ceil(lengths.sum() / limits.tokens)
        assert len(packs) <= fewest + math.ceil(0.01 * fewest)
        assert lengths.sum() / (len(packs) * limits.tokens) >= (0.99 if global_batch == 65_536 else 0.98)
        full = fills(lengths, packs)
        assert full.max() - full.min() < longest / 2


def test_a_batch_of_65536_is_packed_in_a_moment() -> None:
    lengths = lengths_like(1, 65_536)
    counts = predictions_of(lengths, 20)
    limits = limits_for(32 * 128, 128, lengths, counts)
    seconds = []
    for _ in range(3):
        start = time.thread_time()
        pack(lengths, counts, limits)
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 0.1


@settings(max_examples=50)
@given(st.integers(1, 2), st.integers(1, 64), st.integers(1, 400), st.integers(0, 99))
def test_only_tokens_limit_packs_of_real_lengths(phase: int, rows: int, global_batch: int, seed: int) -> None:
    longest, most = (128, 20) if phase == 1 else (512, 80)
    sample = lengths_like(phase, 4096)
    limits = limits_for(rows * longest, longest, sample, predictions_of(sample, most))
    lengths = lengths_like(phase, global_batch, seed)
    counts = predictions_of(lengths, most)
    packs, free = pack(lengths, counts, limits), pack(lengths, counts, loose(limits.tokens, longest))
    assert [places.tolist() for places in packs] == [places.tolist() for places in free]


@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("rows", [2, 32, 128])
def test_limits_hold_packs_drawn_at_random(phase: int, rows: int) -> None:
    longest, most = (128, 20) if phase == 1 else (512, 80)
    sample = lengths_like(phase, 4096)
    limits = limits_for(rows * longest, longest, sample, predictions_of(sample, most))
    for seed in range(1000):
        lengths = lengths_like(phase, 8 * rows, seed)
        drawn = lengths[np.cumsum(lengths) <= limits.tokens]
        assert limits.hold(drawn.sum(), len(drawn), predictions_of(drawn, most).sum())


def test_limits_leave_little_room() -> None:
    lengths = lengths_like(1, 4096)
    limits = limits_for(32 * 128, 128, lengths, predictions_of(lengths, 20))
    packs = pack(lengths, predictions_of(lengths, 20), limits)
    assert limits.sequences % 16 == limits.predictions % 16 == 0
    assert max(len(places) for places in packs) + 1 < limits.sequences <= 64
    assert 600 < limits.predictions <= 640


def test_a_budget_below_the_longest_sequence_is_refused() -> None:
    lengths = np.array([20, 64])
    with pytest.raises(ValueError, match="63 tokens cannot hold a sequence of 64"):
        limits_for(63, 64, lengths, predictions_of(lengths))
