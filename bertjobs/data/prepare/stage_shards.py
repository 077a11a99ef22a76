"""Stage 3: the shards. A shard holds a run of a bin's rows over all buckets, equal within one between shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.batches.masking import sample_keys
from bertjobs.data.prepare.shard_files import BinRows, StaticMasking, mask_rows, new_shard
from bertjobs.data.prepare.stage_pairs import seed_of
from bertjobs.data.prepare.work_folder import ShardTask, WorkFolder
from bertjobs.data.ragged import gather, offsets_of
from bertjobs.data.shards.bins import rows_per_shard
from bertjobs.data.shards.lddl_columns import FIXED_EPOCH
from bertjobs.data.shards.manifest import ShardFile
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.files.arrays import map_arrays

Int64s = NDArray[np.int64]

_TOKENS = 250_000  # laid out at a time


def write_shards(work: WorkFolder, number: int, vocabulary: Vocabulary) -> None:
    """Run one task: write a shard number's files, one per bin, and the marker that lists them."""
    task = work.shard_tasks[number]
    counts = _bucket_rows(work, task)
    files = [_write(work, task, bin_number, counts[:, bin_number], vocabulary) for bin_number in range(counts.shape[1])]
    work.mark_done("shards", number, [asdict(file) for file in files if file])


def _bucket_rows(work: WorkFolder, task: ShardTask) -> Int64s:
    """Rows of each bucket of the split in each bin: ``[buckets, bins]``; buckets of the other split have none."""
    results = work.results("pairs")
    rows = np.array([result["rows"][str(task.shape.phase)] for result in results], dtype=np.int64)
    rows[[bucket.split != task.split for bucket in work.buckets]] = 0
    return rows


def _write(
    work: WorkFolder, task: ShardTask, bin_number: int, bucket_rows: Int64s, vocabulary: Vocabulary
) -> ShardFile | None:
    ends = np.cumsum(rows_per_shard(int(bucket_rows.sum()), work.plan.shards, leave_one=work.options.format == "lddl"))
    end = int(ends[task.number])
    begin = int(ends[task.number - 1]) if task.number else 0
    if begin == end and work.options.format == "ids":
        return None
    folder = work.output / f"phase{task.shape.phase}" / task.split
    folder.mkdir(parents=True, exist_ok=True)
    tokens = 0
    with new_shard(work, folder, task.number, bin_number, vocabulary) as shard:
        for rows in _rows(work, task, bin_number, bucket_rows, begin, end, vocabulary.sep_id):
            tokens += int(rows.num_tokens.sum())
            shard.append(_masked(work, task, bin_number, rows, vocabulary))
    return ShardFile(shard.path.name, bin_number, end - begin, tokens, shard.bytes, shard.sha256)


def _rows(
    work: WorkFolder, task: ShardTask, bin_number: int, bucket_rows: Int64s, begin: int, end: int, separator: int
) -> Iterator[BinRows]:
    """Rows ``begin`` to ``end`` of a bin, a part at a time; ``separator`` is the id that stands between documents."""
    at_a_time = max(1, _TOKENS // task.shape.sequence_length)
    offsets = offsets_of(bucket_rows)
    for bucket in np.flatnonzero((offsets[:-1] < end) & (offsets[1:] > begin) & (bucket_rows > 0)).tolist():
        arrays, _ = map_arrays(work.file("pairs", bucket, ".safetensors"))
        # The bucket's rows are ordered by bin: this bin's begin after those of the bins before.
        before = sum(work.result("pairs", bucket)["rows"][str(task.shape.phase)][:bin_number])
        first, last = max(begin, int(offsets[bucket])), min(end, int(offsets[bucket + 1]))
        for start in range(first, last, at_a_time):
            stop = min(start + at_a_time, last)
            local = slice(before + start - int(offsets[bucket]), before + stop - int(offsets[bucket]))
            if work.options.next_sentence:
                yield _take(arrays, task.shape.phase, local, start)
            else:
                yield _take_spans(arrays, task.shape.phase, local, start, separator)


def _take(arrays: dict[str, NDArray], phase: int, rows: slice, number: int) -> BinRows:
    a_starts, a_lengths, b_starts, b_lengths, is_random_next = (
        arrays[f"{phase}.{name}"][rows].astype(np.int64)
        for name in ("a_starts", "a_lengths", "b_starts", "b_lengths", "is_random_next")
    )
    starts = np.stack([a_starts, b_starts], axis=1).ravel()
    lengths = np.stack([a_lengths, b_lengths], axis=1).ravel()
    return BinRows(
        ids=gather(arrays["ids"], starts, lengths),
        lengths=a_lengths + b_lengths,
        a_lengths=a_lengths,
        is_random_next=is_random_next.astype(np.bool_),
        first=number,
    )


def _take_spans(arrays: dict[str, NDArray], phase: int, rows: slice, number: int, separator: int) -> BinRows:
    """Rows without B."""
    corpus, offsets = arrays["ids"], arrays[f"{phase}.offsets"][rows.start : rows.stop + 1].astype(np.int64)
    pieces = slice(offsets[0], offsets[-1])
    starts, lengths = (arrays[f"{phase}.{name}"][pieces].astype(np.int64) for name in ("starts", "lengths"))
    between = starts == len(corpus)
    starts[between] = 0
    ids, places = gather(corpus, starts, lengths), offsets_of(lengths)
    ids[places[:-1][between]] = separator
    row_lengths = np.diff(places[offsets - offsets[0]])
    return BinRows(ids, row_lengths, row_lengths, np.zeros(len(row_lengths), dtype=np.bool_), number)


def _masked(work: WorkFolder, task: ShardTask, bin_number: int, rows: BinRows, vocabulary: Vocabulary) -> BinRows:
    options = work.options
    if options.masking == "dynamic":
        return rows
    seed = seed_of(options.seed, "mask", task.shape.phase, task.split, bin_number)
    keys = sample_keys(seed, FIXED_EPOCH, rows.first + np.arange(len(rows.lengths)))
    how = StaticMasking(options.masked_share, task.shape.max_predictions, options.masked_units == "words")
    return mask_rows(rows, keys, how, vocabulary)
