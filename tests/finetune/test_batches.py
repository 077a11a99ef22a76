"""Global batches of a task: the same whatever the ranks, every row once per epoch."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.finetune.batches import TaskBatches, evaluation_packs, packs_of
from tests.finetune.nano import HEADS, made_rows, written

HEAD = HEADS["class"]


def stream(folder: Path, rank: int, world_size: int, start: int = 0) -> TaskBatches:
    split = written(folder / f"{rank}-{world_size}-{start}", made_rows(HEAD, 50))
    return TaskBatches(
        split, HEAD, seed=3, global_batch=8, budget=64, rank=rank, world_size=world_size, start=start, sha256="x"
    )


def contents(batches: list) -> list[tuple[int, ...]]:
    """The sequences of some packs, sorted."""
    found = []
    for batch in batches:
        ends = batch.cumulative_lengths.tolist()
        found += [tuple(batch.input_ids[first:last].tolist()) for first, last in itertools.pairwise(ends)]
    return sorted(found)


def test_ranks_share_the_global_batch_in_equally_many_packs(tmp_path: Path) -> None:
    alone = stream(tmp_path, 0, 1)
    ranks = [stream(tmp_path, rank, 3) for rank in range(3)]
    for _ in range(7):
        shares = [next(rank) for rank in ranks]
        assert len({len(share) for share in shares}) == 1
        assert contents([batch for share in shares for batch in share]) == contents(list(next(alone)))


def test_an_epoch_has_every_row_once(tmp_path: Path) -> None:
    batches = stream(tmp_path, 0, 1)
    read = [sequence for _ in range(25) for sequence in contents(list(next(batches)))]  # 200 rows: four epochs
    counts = {sequence: read.count(sequence) for sequence in set(read)}
    assert len(counts) == 50
    assert set(counts.values()) == {4}


def test_a_resumed_stream_continues(tmp_path: Path) -> None:
    whole = stream(tmp_path, 0, 1)
    for _ in range(5):
        next(whole)
    assert contents(list(next(stream(tmp_path, 0, 1, start=5)))) == contents(list(next(whole)))
    assert whole.state(5).step == 5


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(40, 200), st.integers(1, 9))
def test_packs_hold_every_sequence_once_within_the_budget(lengths: list[int], budget: int, ranks: int) -> None:
    sizes = np.array(lengths)
    packs = packs_of(sizes, budget, ranks)
    assert sorted(np.concatenate(packs).tolist()) == list(range(len(lengths)))
    assert all(sizes[pack].sum() <= budget for pack in packs)
    assert len(packs) % ranks == 0 or len(packs) == len(lengths)


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_evaluation_reads_every_row_once_over_all_ranks(ranks: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 60, 101)
    packs = [pack for rank in range(ranks) for pack in evaluation_packs(lengths, 64, rank, ranks)]
    assert sorted(np.concatenate(packs).tolist()) == list(range(101))
    assert all(lengths[pack].sum() <= 64 or len(pack) == 1 for pack in packs)
