"""A stream whose packs are dealt by speed has the packs of any other, on other ranks."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from bertjobs.data.batches.batches import BatchStream, Masking
from bertjobs.data.batches.packed_batches import PackedBatch, packing_limits
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_set import ShardSet

GLOBAL_BATCH, STEPS, AT = 24, 9, 4
SECONDS = (0.1, 0.3, 0.1)


@pytest.fixture(scope="module")
def train(dynamic: DataManifest) -> ShardSet:
    return ShardSet.load(dynamic, 1, "train")


def streams(train: ShardSet, ranks: int, num_workers: int = 0) -> list[BatchStream]:
    masking = Masking("dynamic", 5, 20)
    limits = packing_limits(train, masking, most=256, max_length=128, global_batch=GLOBAL_BATCH)
    return [
        BatchStream(
            train, masking, global_batch=GLOBAL_BATCH, micro_batch=2, packing=limits, rank=rank, world_size=ranks,
            num_workers=num_workers,
        )
        for rank in range(ranks)
    ]  # fmt: skip


def of_step(parts: list[list[PackedBatch]]) -> dict[int, PackedBatch]:
    """The packs of all ranks in a step that hold something, by number."""
    packs = [pack for part in parts for pack in part if pack.sequences]
    assert len({pack.number for pack in packs}) == len(packs)
    return {pack.number: pack for pack in packs}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_from_a_step_on_each_pack_has_another_rank_and_nothing_else_changes(train: ShardSet, num_workers: int) -> None:
    (whole,) = streams(train, 1)
    expected = [of_step([step]) for step in islice(whole, STEPS)]  # type: ignore[list-item]
    ranks = streams(train, len(SECONDS), num_workers)
    shares = []
    for step in range(STEPS):
        if step == AT:
            shares = [rank.deal(AT, SECONDS, 0.05) for rank in ranks]
        parts = [next(rank) for rank in ranks]
        packs = of_step(parts)  # type: ignore[arg-type]
        assert packs.keys() == expected[step].keys()
        for number, pack in packs.items():
            same = zip(pack.tensors(), expected[step][number].tensors(), strict=True)
            assert all(torch.equal(one, other) for one, other in same)
        if step >= AT:
            assert len(parts[1]) < len(parts[0]), "the slow rank has fewer"
    assert shares[0] is not None
    assert shares == [shares[0]] * len(SECONDS), "all ranks decide alike"
    assert shares[0][1] < shares[0][0]
    assert ranks[0].state(STEPS) == whole.state(STEPS)
    for rank in ranks:
        rank.close()


def test_what_gains_too_little_changes_nothing(train: ShardSet) -> None:
    first, second = streams(train, 2)
    next(first)
    assert first.deal(1, (0.1, 0.101), 0.05) is None
    assert first.deal(1, (0.1, 0.3), 0.05) is not None
    assert first.deal(1, (0.1, 0.3), 0.05) is None, "it is dealt like that"
    back = first.deal(1, (0.1, 0.1), 0.05)
    assert back is not None
    assert abs(back[0] - back[1]) <= 1
    assert second.deal(0, (0.1, 0.1), 0.05) is None


def test_padded_batches_cannot_be_dealt(train: ShardSet) -> None:
    padded = BatchStream(train, Masking("dynamic", 5, 20), global_batch=4, micro_batch=2, world_size=2)
    with pytest.raises(ValueError, match="only packs"):
        padded.deal(0, (1.0, 2.0), 0.05)
