"""Length bins, and how many of a bin's rows each of its shards gets."""

from __future__ import annotations

import numpy as np

from bertjobs.data.shards.lddl_columns import Int64s


def bin_ids(num_tokens: Int64s, bin_size: int, sequence_length: int) -> Int64s:
    """The length bin of each sequence: ``bin_size`` tokens per bin, counted from 0."""
    return np.minimum((num_tokens - 1) // bin_size, sequence_length // bin_size - 1)


def rows_per_shard(rows: int, shards: int, leave_one: bool = True) -> list[int]:
    """Rows of each of a bin's shards, equal within one.

    With ``leave_one`` a row is left out where they divide evenly: LDDL's loader refuses a bin whose shards are
    all equal.
    """
    if leave_one and rows and shards > 1 and rows % shards == 0:
        rows -= 1
    base, more = divmod(rows, shards)
    return [base + 1] * more + [base] * (shards - more)
