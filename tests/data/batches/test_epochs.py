"""Whole epochs through the real stream: each row once, whatever the shards, ranks, micro-batches and restarts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjobs.data.batches.batches import Batch, BatchStream, Masking
from bertjobs.data.batches.order import StreamState
from bertjobs.data.shards.shard_set import ShardSet
from tests.data.hand_written import write_folder

Row = tuple[int, ...]


def originals(batches: Sequence[Batch]) -> list[Row]:
    """The rows of batches without padding and masks."""
    rows = []
    for batch in batches:
        plain = torch.where(batch.labels >= 0, batch.labels, batch.input_ids)
        rows += [
            tuple(row[:length])
            for row, length in zip(plain.tolist(), batch.attention_mask.sum(1).tolist(), strict=True)
        ]
    return rows


def all_rows(shards: ShardSet) -> Counter[Row]:
    """Every readable row, as `originals` gives it."""
    segments = (shards.segments(row) for row in shards.kept.tolist())
    return Counter((2, *a.tolist(), 3, *b.tolist(), 3) for a, b in segments)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int]:
    """World size, micro-batch and gradient steps."""
    return draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 3))


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any),
    cut=cuts(),
    seed=st.integers(0, 2**32),
    static=st.booleans(),
    data=st.data(),
)
def test_an_epoch_on_any_ranks_with_restarts(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[int],
    cut: tuple[int, int, int],
    seed: int,
    static: bool,
    data: st.DataObject,
) -> None:
    manifest, _ = write_folder(tmp_path_factory.mktemp("data"), rows, static=static)
    shards = ShardSet.load(manifest, 1, "train")
    world_size, micro_batch, gradient_steps = cut
    masking = Masking("static" if static else "dynamic", seed, 8)
    sizes = {"global_batch": world_size * micro_batch * gradient_steps, "micro_batch": micro_batch}
    epochs = data.draw(st.integers(1, 2))
    steps = -(-epochs * shards.rows // sizes["global_batch"])
    restarts = data.draw(st.sets(st.integers(1, max(1, steps - 1)), max_size=3))

    whole = BatchStream(shards, masking, **{**sizes, "micro_batch": sizes["global_batch"]})
    expected = [Counter(originals(next(whole))) for _ in range(steps)]
    by_step = [Counter() for _ in range(steps)]
    for rank in range(world_size):
        stream = BatchStream(shards, masking, **sizes, rank=rank, world_size=world_size)
        for step in range(steps):
            if step in restarts:
                state = StreamState.from_json({**vars(stream.state(step))})
                stream = BatchStream(shards, masking, **sizes, rank=rank, world_size=world_size, start=state)
            batches = next(stream)
            assert [batch.sequences for batch in batches] == [micro_batch] * gradient_steps
            by_step[step].update(originals(batches))
    assert by_step == expected
    read = [row for step in expected for row in step.elements()]
    assert len(read) == steps * sizes["global_batch"]
    total, once = Counter(read), all_rows(shards)
    # Whole epochs, and part of the next.
    full = len(read) // shards.rows
    for row, times in once.items():
        assert full * times <= total[row] <= (full + 1) * times
    assert set(total) <= set(once)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), bad=st.sets(st.integers(0, 4), max_size=4), step=st.integers(0, 6))
def test_without_a_bad_shard_the_others_keep_their_order_and_masks(
    tmp_path_factory: pytest.TempPathFactory, seed: int, bad: set[int], step: int
) -> None:
    manifest, _ = write_folder(tmp_path_factory.mktemp("data"), (7, 3, 8, 5, 6))
    masking = Masking("dynamic", seed, 8)
    names = {f"shard-{number}.safetensors_0" for number in bad}
    shards, whole = ShardSet.load(manifest, 1, "train", names), ShardSet.load(manifest, 1, "train")
    every = BatchStream(whole, masking, global_batch=1, micro_batch=1)
    kept = BatchStream(shards, masking, global_batch=1, micro_batch=1, start=None)
    gone = all_rows(whole) - all_rows(shards)
    expected = [batch for (batch,) in (next(every) for _ in range(whole.rows)) if originals([batch])[0] not in gone]
    others = [batch for (batch,) in (next(kept) for _ in range(len(shards.kept)))]
    assert len(others) == len(expected)
    for one, other in zip(others, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))
    # A shard that goes bad later: from then on its rows are missing, and nothing else changes.
    later = BatchStream(shards, masking, global_batch=1, micro_batch=1, start=every.state(step))
    rest = [originals([batch])[0] for (batch,) in (next(later) for _ in range(len(shards.kept)))]
    seen = [originals(next(BatchStream(whole, masking, global_batch=1, micro_batch=1, start=every.state(number))))[0]
            for number in range(step, whole.rows)]  # fmt: skip
    in_epoch = [row for row in seen if row not in gone]
    assert rest[: len(in_epoch)] == in_epoch


def test_shards_of_either_format_give_the_same_batches(tmp_path_factory: pytest.TempPathFactory) -> None:
    for static in (False, True):
        masking = Masking("static" if static else "dynamic", 3, 8)
        streams = []
        for shard_format in ("ids", "lddl"):
            folder = tmp_path_factory.mktemp(shard_format)
            manifest, _ = write_folder(folder, (9, 4, 8), static=static, shard_format=shard_format)
            stream = BatchStream(ShardSet.load(manifest, 1, "train"), masking, global_batch=6, micro_batch=3)
            streams.append([tensor for _ in range(5) for batch in next(stream) for tensor in batch.tensors()])
        assert all(torch.equal(a, b) for a, b in zip(*streams, strict=True))


def test_a_seek_costs_the_same_anywhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is replayed: the first step read is the one asked for, even in an epoch a million steps away."""
    manifest, _ = write_folder(tmp_path_factory.mktemp("data"), (30,))
    shards = ShardSet.load(manifest, 1, "train")
    masking = Masking("dynamic", 1, 8)
    far = BatchStream(shards, masking, global_batch=30, micro_batch=30).state(1_000_000)
    assert far.epoch == 1_000_000
    calls = []
    select = shards.select
    shards.select = lambda rows: calls.append(len(rows)) or select(rows)  # type: ignore[method-assign]
    (batch,) = next(BatchStream(shards, masking, global_batch=30, micro_batch=30, start=far))
    assert calls == [30]
    assert Counter(originals([batch])) == all_rows(shards)
    assert np.unique(batch.input_ids).size > 5
