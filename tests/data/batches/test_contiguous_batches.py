"""Batches of contiguous text: one segment, separators that are never masked, the same on any number of ranks."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from bertjobs.data.batches.batches import BatchStream, Masking, make_batch, token_counts
from bertjobs.data.batches.masking import mask_flat, mask_text
from bertjobs.data.batches.packed_batches import make_packed_batch, packing_limits
from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards.ids_shard import ShardRows
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.errors import InputError
from tests.data.batches.test_packed_batches import check_form, packed_rows, padded_rows

LENGTH, ROWS, SHARE = 64, 900, 0.3
MASKING = Masking("dynamic", 7, 20, SHARE)


@pytest.fixture(scope="module")
def pieces(small_vocabulary_path: Path) -> Vocabulary:
    """A vocabulary with many tokens that continue a word."""
    return Vocabulary.read(small_vocabulary_path)


@pytest.fixture(scope="module")
def shards(pieces: Vocabulary) -> ShardSet:
    """Rows of 1 to 62 tokens, most of them full; about one token in twelve separates two documents."""
    return shards_of(pieces, np.random.default_rng(3))


def shards_of(vocabulary: Vocabulary, draw: np.random.Generator, rows: int = ROWS) -> ShardSet:
    lengths = np.where(draw.random(rows) < 0.7, LENGTH - 2, draw.integers(1, LENGTH - 1, rows))
    offsets = offsets_of(lengths)
    ids = draw.integers(5, vocabulary.size, offsets[-1]).astype(np.uint16)
    ids[np.isin(ids, [vocabulary.sep_id, vocabulary.mask_id])] = 5
    separators = np.flatnonzero(draw.random(len(ids)) < 1 / 12)
    ids[separators] = vocabulary.sep_id
    ids[offsets[:-1]] = ids[offsets[1:] - 1] = 7  # none at the edge of a row
    shard = ShardRows(ids, offsets, lengths.astype(np.uint16), np.zeros(rows, dtype=np.bool_), None)
    return ShardSet([(Path("a"), rows, shard)], vocabulary, static=False, sequence_length=LENGTH, pairs=False)


def test_a_sequence_is_one_segment_between_cls_and_sep(shards: ShardSet) -> None:
    rows = np.arange(40)
    batch = make_batch(shards, shards.select(rows), MASKING.keys(0, rows), MASKING)
    vocabulary, (shard,) = shards.vocabulary, shards.shards
    assert not batch.token_type_ids.any()
    assert not batch.next_sentence_labels.any()
    for row, (start, stop) in zip(range(40), pairwise(shard.offsets.tolist()), strict=False):
        text = shard.ids[start:stop].tolist()
        tokens = torch.where(batch.labels[row] == -1, batch.input_ids[row], batch.labels[row]).tolist()
        expected = [vocabulary.cls_id, *text, vocabulary.sep_id]
        assert tokens == expected + [vocabulary.pad_id] * (len(tokens) - len(expected))
        assert int(batch.attention_mask[row].sum()) == len(expected)


def test_a_pack_holds_what_a_padded_batch_does(shards: ShardSet) -> None:
    limits = packing_limits(shards, MASKING, most=2000, max_length=LENGTH, global_batch=60)
    rows = np.arange(20)
    chosen, keys = shards.select(rows), MASKING.keys(0, rows)
    packed = make_packed_batch(shards, chosen, keys, MASKING, limits)
    check_form(packed, limits, shards.vocabulary.pad_id)
    assert packed_rows(packed) == padded_rows(make_batch(shards, chosen, keys, MASKING))


@pytest.mark.parametrize("whole_word", [False, True])
def test_the_share_of_the_text_is_masked_and_no_separator(shards: ShardSet, whole_word: bool) -> None:
    masking = Masking("dynamic", 7, 20, SHARE, whole_word)
    rows = np.arange(ROWS)
    batch = make_batch(shards, shards.select(rows), masking.keys(0, rows), masking)
    scored = batch.labels >= 0
    counts = scored.sum(dim=1).numpy()
    lengths = batch.attention_mask.sum(dim=1).numpy()
    (shard,) = shards.shards
    separators = np.add.reduceat(shard.ids == shards.vocabulary.sep_id, shard.offsets[:-1])
    wanted = np.minimum(np.minimum(np.maximum(1, np.rint(SHARE * lengths)), 20), lengths - 2 - separators)
    assert (counts <= wanted).all()
    assert (counts >= 1).all()
    if not whole_word:
        assert (counts == wanted).all()
    assert shards.vocabulary.sep_id not in batch.labels[scored]
    inputs, labels = batch.input_ids[scored], batch.labels[scored]
    as_mask = float((inputs == shards.vocabulary.mask_id).float().mean())
    assert abs(as_mask - 0.8) < 5 * math.sqrt(0.8 * 0.2 / len(labels))


def test_whole_words_do_not_cross_a_separator(pieces: Vocabulary) -> None:
    """Two documents, of which the second begins with a piece that continues a word: it is a word of its own."""
    begins, continues = (int(np.flatnonzero(pieces.continues == kind)[-1]) for kind in (False, True))
    row = [begins, continues, continues, pieces.sep_id, continues, continues, begins]
    words = ({0, 1, 2}, {4, 5}, {6})
    chosen_sets = set()
    for key in range(200):
        _, chosen = mask_text(
            np.array(row), np.array([0, 7]), np.array([7]), np.array([3]), np.array([key], dtype=np.uint64), pieces,
            whole_word=True,
        )  # fmt: skip
        chosen_sets.add(frozenset(np.flatnonzero(chosen).tolist()))
    assert chosen_sets == {frozenset(words[0]), frozenset(words[1] | words[2])}


def test_without_separators_the_masks_are_those_of_the_text(pieces: Vocabulary) -> None:
    draw = np.random.default_rng(1)
    offsets = offsets_of(draw.integers(3, 40, 50))
    ids = np.full(offsets[-1], 9, dtype=np.uint16)
    counts, keys = np.full(50, 3), draw.integers(0, 1 << 60, 50).astype(np.uint64)
    expected = mask_flat(ids, offsets, counts, keys, pieces.mask_id, pieces.size)
    actual = mask_text(ids, offsets, np.diff(offsets), counts, keys, pieces, whole_word=False)
    assert all((one == other).all() for one, other in zip(actual, expected, strict=True))


@pytest.mark.parametrize("packed", [False, True])
def test_the_global_batches_do_not_depend_on_the_ranks(shards: ShardSet, packed: bool) -> None:
    limits = packing_limits(shards, MASKING, most=900, max_length=LENGTH, global_batch=60) if packed else None

    def steps(world_size: int) -> list[Counter]:
        streams = [
            BatchStream(shards, MASKING, global_batch=60, micro_batch=5, packing=limits, rank=rank,
                        world_size=world_size)
            for rank in range(world_size)
        ]  # fmt: skip
        read = packed_rows if packed else padded_rows
        return [
            Counter(row for stream in streams for batch in next(stream) for row in read(batch))  # type: ignore[arg-type]
            for _ in range(16)
        ]

    alone = steps(1)
    assert steps(2) == alone == steps(3)
    texts = Counter(
        tuple(label if label >= 0 else token for token, label in zip(ids, labels, strict=True))[1:-1]
        for step in alone[: ROWS // 60]
        for ids, _, _, labels, _ in step.elements()
    )
    (shard,) = shards.shards
    assert texts == Counter(tuple(shard.ids[start:stop].tolist()) for start, stop in pairwise(shard.offsets.tolist()))


def test_separators_are_not_text_to_the_unigram_line(shards: ShardSet) -> None:
    counts = token_counts(shards)
    (shard,) = shards.shards
    separators = np.count_nonzero(shard.ids == shards.vocabulary.sep_id)
    assert separators > 0 == counts[shards.vocabulary.sep_id]
    assert counts.sum() == len(shard.ids) - separators


def test_rows_of_the_other_form_are_damage(shards: ShardSet) -> None:
    (shard,) = shards.shards
    arguments = {"static": False, "sequence_length": LENGTH}
    as_pairs = ShardSet([(Path("a"), shard.rows, shard)], shards.vocabulary, **arguments, pairs=True)
    with pytest.raises(InputError, match="offsets do not fit"):
        as_pairs.select(np.arange(3))
    halves = ShardRows(shard.ids, shard.offsets, shard.a_lengths // 2, shard.is_random_next, None)
    alone = ShardSet([(Path("a"), shard.rows, halves)], shards.vocabulary, **arguments, pairs=False)
    with pytest.raises(InputError, match="offsets do not fit"):
        alone.select(np.arange(3))
