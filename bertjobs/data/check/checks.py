"""What can be wrong with shards, each problem in words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bertjobs.data.check.facts import Facts
from bertjobs.data.check.lddl_cells import wrong_cells, wrong_columns
from bertjobs.data.check.target import Expected, ShardToCheck, length_range
from bertjobs.data.shards.ids_shard import ShardRows, StoredMasks
from bertjobs.data.text.vocabulary import Vocabulary

RANDOM_NEXT = (0.4, 0.7)  # 0.5 by design; more where chunks are single sentences, whose B is always random
MASK_ACTIONS = {"as_mask": 0.8, "as_random": 0.1, "as_kept": 0.1}
ACTIONS = ("[MASK]", "another token", "kept")
FAR = 0.05  # from these shares
MASKED_FAR = 0.2  # of the masked tokens that the settings ask for
REPEATED_ONCE_DRAWN = 0.01  # of the rows, where each document was drawn once
REPEATED = 0.25  # of the rows, however often they were drawn
ENOUGH = 1000  # fewer draws than these say nothing about a share


def broken_form(shard: ShardRows, next_sentence: bool | None) -> str | None:
    """Why the rows cannot be told apart, or None; ``next_sentence`` is that of `Expected`."""
    if (np.diff(shard.offsets) < 0).any() or (shard.masks is not None and (np.diff(shard.masks.offsets) < 0).any()):
        return "its offsets go backwards"
    lengths = np.diff(shard.offsets)
    alone = shard.a_lengths == lengths
    if next_sentence is None:
        next_sentence = not (shard.rows and alone.all())
    if next_sentence:
        wrong, what = (shard.a_lengths == 0) | (shard.a_lengths >= lengths), "have no A or no B"
    else:
        wrong, what = (shard.a_lengths == 0) | ~alone, "have no text, or a B"
    if wrong.any():
        return f"{np.count_nonzero(wrong):,} of {shard.rows:,} rows {what}, the first is {wrong.argmax()}"
    return None


def without_wrong_masks(shard: ShardRows) -> tuple[ShardRows, list[str]]:
    masks = shard.masks
    if masks is None:
        return shard, []
    counts = np.diff(masks.offsets)
    rows = np.repeat(np.arange(shard.rows), counts)
    outside = _outside(masks, shard.a_lengths[rows], shard.num_tokens[rows])
    if outside.any():
        what = (
            f"{np.count_nonzero(outside):,} of {len(rows):,} masked positions are not on a token of A or B, the first "
        )
        return replace(shard, masks=None), [what + f"in row {rows[outside][0]}"]
    descends = (np.diff(masks.positions.astype(np.int64)) <= 0) & (rows[1:] == rows[:-1])
    if descends.any():
        return shard, [f"masked positions do not ascend, first in row {rows[1:][descends][0]}"]
    return shard, []


def _outside(masks: StoredMasks, a_lengths: NDArray[Any], num_tokens: NDArray[Any]) -> NDArray[np.bool_]:
    return (masks.positions == 0) | (masks.positions == a_lengths + 1) | (masks.positions >= num_tokens - 1)


def wrong_rows(shard: ShardToCheck, content: ShardRows, expected: Expected, vocabulary: Vocabulary) -> Iterator[str]:
    entry, num_tokens = shard.entry, content.num_tokens
    if entry and content.rows != entry.rows:
        yield f"{content.rows:,} rows, but the manifest says {entry.rows:,}"
    if entry and num_tokens.sum() != entry.tokens:
        yield f"{num_tokens.sum():,} tokens, but the manifest says {entry.tokens:,}"
    if content.rows and expected.masking and (content.masks is None) != (expected.masking == "dynamic"):
        yield f"{'no masks are' if content.masks is None else 'masks are'} stored, but masking is {expected.masking}"
    for name, ids in (("ids", content.ids), ("labels", content.masks.labels if content.masks else content.ids[:0])):
        if bad := int(np.count_nonzero(ids >= vocabulary.size)):
            yield f"{bad:,} {name} are outside the vocabulary of {vocabulary.size:,} tokens, such as {ids.max()}"
    least, most = length_range(shard.bin, expected)
    outside = (num_tokens < least) | (num_tokens > most)
    if outside.any():
        lengths = num_tokens[outside]
        yield (
            f"{np.count_nonzero(outside):,} of {content.rows:,} rows do not belong in bin {shard.bin} of {least} to "
            f"{most} tokens: they have {lengths.min()} to {lengths.max()}"
        )


def wrong_shares(total: Facts, repeated: float, expected: Expected) -> Iterator[str]:
    low, high = RANDOM_NEXT
    if total.pairs >= ENOUGH and not low <= (share := total.random_next / total.pairs) <= high:
        yield f"{share:.1%} of the next sentences are random; by design it is about half, or somewhat more"
    if total.wanted_masks >= ENOUGH and abs(total.masked / total.wanted_masks - 1) > MASKED_FAR:
        yield f"{total.masked / total.tokens:.1%} of tokens are masked, not the expected {expected.masked_share:.1%}"
    if total.masked >= ENOUGH:
        shares = {name: getattr(total, name) / total.masked for name in MASK_ACTIONS}
        if any(abs(shares[name] - share) > FAR for name, share in MASK_ACTIONS.items()):
            words = ", ".join(f"{share:.0%} {name}" for share, name in zip(shares.values(), ACTIONS, strict=True))
            yield f"the masked tokens are {words}; BERT's shares are 80%, 10% and 10%"
    if total.tokens >= ENOUGH and (share := total.unknown / total.tokens) > expected.most_unknown:
        yield f"{share:.1%} of the tokens are [UNK]: the vocabulary does not fit the text"
    once = expected.duplicates == 1
    by_design = not once and not total.pairs  # copies of documents that fit in a sequence are alike
    if total.rows >= ENOUGH and not by_design and repeated > (REPEATED_ONCE_DRAWN if once else REPEATED):
        yield f"{repeated:.1%} of the sequences repeat {'the A and B' if total.pairs else 'the text'} of an earlier one"


def same_files(shards: Sequence[ShardToCheck]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for shard in shards:
        if shard.entry and shard.entry.rows:
            first = seen.setdefault(shard.entry.sha256, shard.path.name)
            if first != shard.path.name:
                yield f"{first} and {shard.path.name} hold the same rows"


def unequal_shards(shards: Sequence[ShardToCheck], shard_format: str) -> Iterator[str]:
    """Bins whose shards are not balanced; LDDL's loader asserts that the largest has exactly one row more."""
    for number in sorted({shard.bin for shard in shards}):
        rows = [shard.entry.rows for shard in shards if shard.bin == number and shard.entry]
        if len(rows) < 2 or not sum(rows):
            continue
        refused = "; LDDL's own loader refuses that" if shard_format == "lddl" else ""
        if max(rows) - min(rows) > 1:
            yield f"bin {number}: its shards are unequal, {min(rows):,} to {max(rows):,} rows{refused}"
        elif max(rows) == min(rows) and refused:
            yield f"bin {number}: its shards are all equal, {rows[0]:,} rows{refused}"


def why_unreadable(path: Path, expected: Expected, vocabulary: Vocabulary, error: Exception) -> list[str]:
    """All that is wrong with a shard that its reader refuses."""
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    refused = [f"cannot be read: {reason}"]
    if expected.shard_format != "lddl" or isinstance(error, OSError):
        return refused
    try:
        table = pq.ParquetFile(path).read(use_threads=False)
    except (pa.ArrowException, ValueError, OSError):  # ValueError: a column's name is not text
        return refused
    return wrong_columns(table.schema) or [wrong.words for wrong in wrong_cells(table, vocabulary)] or refused
