"""Packed batches: what padded ones hold, in fixed shapes, whatever the ranks."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bertjobs.data.batches.batches import BatchStream, Masking, make_batch
from bertjobs.data.batches.order import StreamState
from bertjobs.data.batches.packed_batches import PackedBatch, empty_pack, make_packed_batch, packing_limits
from bertjobs.data.batches.packing import PackLimits, pack
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.errors import InputError
from bertjobs.files.arrays import write_arrays
from tests.data.hand_written import LONGEST, write_folder

Row = tuple[tuple[int, ...], ...]
SPLIT_TAIL = PackLimits(tokens=400, sequences=16, predictions=48, max_length=LONGEST)


@pytest.fixture(scope="module")
def train(dynamic: DataManifest) -> ShardSet:
    return ShardSet.load(dynamic, 1, "train")


def dynamic_masking(seed: int) -> Masking:
    return Masking("dynamic", seed, 20)


def padded_rows(batch: object) -> list[Row]:
    """Each sequence's ids, token types, positions and labels, and its next-sentence label."""
    rows = []
    for row in range(batch.sequences):
        size = int(batch.attention_mask[row].sum())
        parts = [part[row, :size].tolist() for part in (batch.input_ids, batch.token_type_ids, batch.labels)]
        parts.insert(2, list(range(size)))
        rows.append((*map(tuple, parts), (int(batch.next_sentence_labels[row]),)))
    return rows


def packed_rows(batch: PackedBatch) -> list[Row]:
    """The same for a packed batch."""
    labels = torch.full_like(batch.input_ids, -1)
    labels[batch.masked_positions[: batch.masked]] = batch.labels[: batch.masked]
    rows = []
    for slot in range(batch.sequences):
        tokens = slice(int(batch.cumulative_lengths[slot]), int(batch.cumulative_lengths[slot + 1]))
        parts = (batch.input_ids, batch.token_type_ids, batch.positions, labels)
        rows.append(
            (*(tuple(part[tokens].tolist()) for part in parts), (int(batch.next_sentence_labels[slot]),)),
        )
    return rows


def check_form(batch: PackedBatch, limits: PackLimits, pad_id: int) -> None:
    """Shapes, types, and what comes after the sequences and the masked tokens."""
    for name in ("input_ids", "token_type_ids", "positions"):
        assert getattr(batch, name).shape == (limits.tokens,)
    for name in ("first_tokens", "next_sentence_labels"):
        assert getattr(batch, name).shape == (limits.sequences,)
    for name in ("masked_positions", "labels"):
        assert getattr(batch, name).shape == (limits.predictions,)
    assert batch.cumulative_lengths.dtype == torch.int32
    assert all(tensor.dtype == torch.int64 for tensor in batch.tensors() if tensor is not batch.cumulative_lengths)
    ends = batch.cumulative_lengths.tolist()
    assert len(ends) == limits.sequences + 1
    assert ends[0] == 0
    assert ends[-1] == limits.tokens
    steps = np.diff(ends)
    assert steps[: batch.sequences].tolist() == batch.lengths.tolist()
    assert (steps >= 0).all()
    assert steps.max() <= batch.max_length == limits.max_length
    assert ends[batch.sequences] == batch.tokens
    assert (batch.input_ids[batch.tokens :] == pad_id).all()
    assert not batch.token_type_ids[batch.tokens :].any()
    assert not batch.positions[batch.tokens :].any()
    assert batch.first_tokens[: batch.sequences].tolist() == ends[: batch.sequences]
    assert not batch.first_tokens[batch.sequences :].any()
    assert (batch.next_sentence_labels[batch.sequences :] == -1).all()
    assert (batch.next_sentence_labels[: batch.sequences] >= 0).all()
    assert not batch.masked_positions[batch.masked :].any()
    assert (batch.labels[batch.masked :] == -1).all()
    assert (batch.labels[: batch.masked] >= 0).all()
    assert (np.diff(batch.masked_positions[: batch.masked].numpy()) > 0).all()


@pytest.mark.parametrize("static", [False, True])
def test_a_packed_batch_holds_what_a_padded_one_does(tmp_path: Path, static: bool) -> None:
    data, _ = write_folder(tmp_path, (9, 14), static=static)
    shards = ShardSet.load(data, 1, "train")
    chosen = shards.select(np.array([20, 3, 11, 0, 9]))
    masking = Masking("static" if static else "dynamic", 3, 8)
    keys = masking.keys(2, chosen.rows)
    packed = make_packed_batch(shards, chosen, keys, masking, SPLIT_TAIL)
    check_form(packed, SPLIT_TAIL, shards.vocabulary.pad_id)
    assert packed.masked
    assert packed.tokens < SPLIT_TAIL.tokens - 2 * LONGEST  # a tail of several pieces
    padded = make_batch(shards, chosen, keys, masking)
    assert packed_rows(packed) == padded_rows(padded)
    assert packed.masked == int((padded.labels >= 0).sum())
    assert packed.tokens == padded.tokens


def test_an_empty_pack_is_all_tail(train: ShardSet) -> None:
    masking = dynamic_masking(1)
    nothing = train.select(np.zeros(0, dtype=np.int64))
    limits = PackLimits(1000, 32, 160, 128)
    batch = make_packed_batch(train, nothing, masking.keys(0, nothing.rows), masking, limits)
    check_form(batch, limits, train.vocabulary.pad_id)
    assert (batch.sequences, batch.tokens, batch.masked) == (0, 0, 0)
    assert batch.cumulative_lengths.tolist() == [*range(0, 1000, 128), *[1000] * 25]


@pytest.mark.parametrize(
    "change", [{"tokens": 70}, {"sequences": 4}, {"predictions": 3}], ids=["tokens", "slots", "predictions"]
)
def test_rows_beyond_the_limits_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    data, _ = write_folder(tmp_path, (9,))
    shards = ShardSet.load(data, 1, "train")
    chosen, masking = shards.select(np.arange(5)), Masking("dynamic", 3, 8)
    with pytest.raises(ValueError, match=r"exceed|do not fit"):
        make_packed_batch(shards, chosen, masking.keys(0, chosen.rows), masking, replace(SPLIT_TAIL, **change))


def test_a_packed_batch_on_a_device_is_the_same(train: ShardSet) -> None:
    masking, limits = dynamic_masking(1), PackLimits(1024, 32, 160, 128)
    chosen = train.select(np.arange(4))
    batch = make_packed_batch(train, chosen, masking.keys(0, chosen.rows), masking, limits)
    moved = batch.to("meta", non_blocking=True)
    assert all(tensor.device.type == "meta" for tensor in moved.tensors())
    assert [tensor.shape for tensor in moved.tensors()] == [tensor.shape for tensor in batch.tensors()]
    # What the host knows is not fetched from a device.
    assert (moved.sequences, moved.tokens, moved.masked) == (4, batch.tokens, batch.masked)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_packed_batches_are_pinned_for_a_gpu(train: ShardSet) -> None:
    with packed_stream(train, pin_memory=True, num_workers=2) as pinned, packed_stream(train) as plain:
        for one, other in zip(next(pinned), next(plain), strict=True):
            moved = one.to("cuda", non_blocking=True)
            for a, b, c in zip(one.tensors(), other.tensors(), moved.tensors(), strict=True):
                assert a.is_pinned()
                assert torch.equal(c.cpu(), b)


def test_limits_of_shards(train: ShardSet) -> None:
    masking = dynamic_masking(5)
    limits = packing_limits(train, masking, most=1024, max_length=128, global_batch=48)
    rows = np.random.default_rng(0).permutation(train.rows)
    lengths, counts = train.lengths(rows) + 3, masking.predictions(train, rows)
    assert limits.max_length == 128
    assert 48 * lengths.mean() < limits.tokens * limits.packs
    assert limits.tokens <= 1024
    free = PackLimits(limits.tokens, 2048, 1024, 128, limits.packs)
    for size in (1, 12, 48, train.rows):
        assert len(pack(lengths[:size], counts[:size], limits)) == len(pack(lengths[:size], counts[:size], free))


@pytest.mark.parametrize("static", [False, True])
def test_predictions_are_those_of_the_masks(tmp_path: Path, static: bool) -> None:
    data, _ = write_folder(tmp_path, (30,), static=static)
    shards, rows = ShardSet.load(data, 1, "train"), np.array([4, 29, 0, 17])
    masking = Masking("static" if static else "dynamic", 3, 5)
    batch = make_batch(shards, shards.select(rows), masking.keys(0, rows), masking)
    assert masking.predictions(shards, rows).tolist() == (batch.labels >= 0).sum(1).tolist()


def packed_stream(train: ShardSet, **options: object) -> BatchStream:
    masking = options.pop("masking", dynamic_masking(5))
    settings = {"global_batch": 48, "micro_batch": 4, **options}
    limits = limits_of(train, masking, settings["global_batch"])  # type: ignore[arg-type]
    return BatchStream(train, masking, **{"packing": limits, **settings})  # type: ignore[arg-type]


def limits_of(train: ShardSet, masking: Masking | None = None, global_batch: int = 48) -> PackLimits:
    """Those of `packed_stream`."""
    masking = masking or dynamic_masking(5)
    return packing_limits(train, masking, most=1024, max_length=128, global_batch=global_batch)


def packed_steps(train: ShardSet, steps: int, **options: object) -> list[list[PackedBatch]]:
    with packed_stream(train, **options) as stream:
        return [next(stream) for _ in range(steps)]  # type: ignore[misc]


def rows_of(batches: Iterable[PackedBatch]) -> list[list[Row]]:
    return [packed_rows(batch) for batch in batches]


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_a_step_holds_the_sequences_and_masks_of_the_padded_one(
    train: ShardSet, world_size: int, whole_word: bool
) -> None:
    masking = Masking("dynamic", 5, 20, whole_word=whole_word)
    by_rank = [packed_steps(train, 3, masking=masking, rank=rank, world_size=world_size) for rank in range(world_size)]
    with BatchStream(train, masking, global_batch=48, micro_batch=4) as padded:
        for step, batches in zip(range(3), padded, strict=False):
            expected = Counter(row for batch in batches for row in padded_rows(batch))
            parts = [batch for rank in by_rank for batch in rank[step]]
            assert Counter(row for batch in parts for row in packed_rows(batch)) == expected
            assert sum(batch.sequences for batch in parts) == 48
            assert sum(batch.masked for batch in parts) == sum(int((batch.labels >= 0).sum()) for batch in batches)


@pytest.mark.parametrize("world_size", [2, 3, 4, 9])
def test_packs_do_not_depend_on_the_ranks(train: ShardSet, world_size: int) -> None:
    alone = packed_steps(train, 3)
    by_rank = [packed_steps(train, 3, rank=rank, world_size=world_size) for rank in range(world_size)]
    limits = limits_of(train)
    empty = 0
    for step, packs in enumerate(alone):
        rounds = -(-len(packs) // world_size)
        assert [len(rank[step]) for rank in by_rank] == [rounds] * world_size
        in_order = [by_rank[number % world_size][step][number // world_size] for number in range(rounds * world_size)]
        assert rows_of(in_order[: len(packs)]) == rows_of(packs)
        for batch in in_order[len(packs) :]:
            check_form(batch, limits, train.vocabulary.pad_id)
            assert batch.sequences == 0
            empty += 1
    assert empty == sum(-len(packs) % world_size for packs in alone)


def test_all_packs_of_a_run_have_one_shape_and_are_about_equally_full(train: ShardSet) -> None:
    limits = limits_of(train, global_batch=96)
    for packs in packed_steps(train, 6, global_batch=96):
        for batch in packs:
            check_form(batch, limits, train.vocabulary.pad_id)
        tokens = [batch.tokens for batch in packs]
        assert len(packs) <= max(limits.packs, -(-sum(tokens) // limits.tokens) + 1)
        assert max(tokens) - min(tokens) <= 128


def test_threads_build_the_same_packs_in_the_same_order(train: ShardSet) -> None:
    plain, threaded = packed_steps(train, 6), packed_steps(train, 6, num_workers=3)
    assert [rows_of(step) for step in threaded] == [rows_of(step) for step in plain]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_threads_plan_where_there_are_some(train: ShardSet, monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    planners = []
    real = BatchStream._plan

    def plan(self: BatchStream, first: int, steps: int, seconds: tuple[float, ...]) -> object:
        planners.append((threading.current_thread() is threading.main_thread(), first, steps))
        return real(self, first, steps, seconds)

    monkeypatch.setattr(BatchStream, "_plan", plan)
    steps = min(4096, train.rows) // 48
    with packed_stream(train, num_workers=num_workers) as stream:
        for _ in range(2 * steps + 1):
            next(stream)
    assert {main for main, *_ in planners} == {num_workers == 0}
    assert sorted(first for _, first, _ in planners) == [number * steps for number in range(len(planners))]
    assert len(planners) <= 4, "one plan ahead, not more"


def test_a_stream_closes_while_it_plans(train: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    real, begun, let = BatchStream._plan, threading.Event(), threading.Event()

    def plan(self: BatchStream, first: int, steps: int, seconds: tuple[float, ...]) -> object:
        if first:
            begun.set()
            assert let.wait(60)
            raise InputError("nobody asks for this plan any more")
        return real(self, first, steps, seconds)

    monkeypatch.setattr(BatchStream, "_plan", plan)
    stream = packed_stream(train, num_workers=2)
    assert next(stream)
    assert begun.wait(60)
    threading.Timer(0.05, let.set).start()
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_a_restart_seeks(train: ShardSet) -> None:
    with packed_stream(train, num_workers=2, manifest_sha256="ab", skipped=("train/x",)) as stream:
        next(stream)
        state = stream.state(4)
    assert state == StreamState(0, 192, 4, 5, "ab", ("train/x",))
    assert [rows_of(step) for step in packed_steps(train, 3, start=state)] == [
        rows_of(step) for step in packed_steps(train, 7)[4:]
    ]


def test_samples_name_the_sequences_of_all_packs(train: ShardSet) -> None:
    with (
        packed_stream(train) as packed,
        BatchStream(train, dynamic_masking(5), global_batch=48, micro_batch=4) as padded,
    ):
        assert packed.samples(2) == padded.samples(2)
        assert len(packed.samples(2)) == 48


def test_packs_leave_out_skipped_shards(dynamic: DataManifest) -> None:
    names = [file.name for file in dynamic.phase(1).train.files]
    train = ShardSet.load(dynamic, 1, "train", skipped=names[:2])
    options = {"global_batch": 40, "micro_batch": 4, "skipped": tuple(names[:2])}
    packed = packed_steps(train, 4, **options)
    with BatchStream(train, dynamic_masking(5), **options) as padded:  # type: ignore[arg-type]
        for packs, batches in zip(packed, padded, strict=False):
            expected = Counter(row for batch in batches for row in padded_rows(batch))
            assert Counter(row for batch in packs for row in packed_rows(batch)) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("offset", [10**15, -(10**15)])
def test_a_damaged_shard_is_named(tmp_path: Path, offset: int, num_workers: int) -> None:
    data, (_, second) = write_folder(tmp_path, (5, 6))
    victim = tmp_path / "phase1" / "train" / "shard-1.safetensors_0"
    offsets = second.offsets.copy()
    offsets[2] = offset
    write_arrays(victim, replace(second, offsets=offsets).arrays(), {})
    shards, masking = ShardSet.load(data, 1, "train"), dynamic_masking(1)
    with pytest.raises(InputError, match="offsets do not fit its tokens"):
        packing_limits(shards, masking, most=256, max_length=LONGEST, global_batch=11)
    with (
        BatchStream(
            shards, masking, global_batch=11, micro_batch=11, packing=SPLIT_TAIL, num_workers=num_workers
        ) as stream,
        pytest.raises(InputError, match="offsets do not fit its tokens") as caught,
    ):
        next(stream)
    assert str(victim) in str(caught.value)


def test_stored_masks_are_packed(static: DataManifest) -> None:
    shards = ShardSet.load(static, 1, "train")
    masking = Masking("static", 5, 20)
    packed = packed_steps(shards, 2, masking=masking)
    with BatchStream(shards, masking, global_batch=48, micro_batch=4) as padded:
        for packs, batches in zip(packed, padded, strict=False):
            expected = Counter(row for batch in batches for row in padded_rows(batch))
            assert Counter(row for batch in packs for row in packed_rows(batch)) == expected


def test_a_global_batch_need_not_divide_by_anything(train: ShardSet) -> None:
    for rank in range(2):
        (step,) = packed_steps(train, 1, global_batch=17, micro_batch=16, rank=rank, world_size=2)
        assert step
    parts = [packed_steps(train, 1, global_batch=17, rank=rank, world_size=2)[0] for rank in range(2)]
    assert sum(batch.sequences for part in parts for batch in part) == 17


def test_a_pack_without_sequences_has_the_shapes_of_the_others(train: ShardSet) -> None:
    empty = empty_pack(train, dynamic_masking(3), SPLIT_TAIL)
    check_form(empty, SPLIT_TAIL, train.vocabulary.pad_id)
    assert (empty.sequences, empty.tokens, empty.masked) == (0, 0, 0)
