"""How long the sequences of a phase are, from a few shards, without opening all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bertjobs.data.shards.ids_shard import read_ids_shard
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import InputError

Int64s = NDArray[np.int64]

_SAMPLE = 1 << 14


def sampled_lengths(data: DataManifest, number: int) -> Int64s:
    """Tokens of some of a phase's training sequences: from one shard of each length bin, as many as the bin's share.

    Raises:
        InputError: a shard cannot be read; names it. Or there are no sequences.
    """
    split = data.phase(number).train
    if not split.rows:
        raise InputError("the shards hold no sequence", where=str(split.folder))
    bins: dict[int, int] = {}
    shards = {file.bin: file for file in reversed(split.files) if file.rows}  # the first of each bin
    for file in split.files:
        bins[file.bin] = bins.get(file.bin, 0) + file.rows
    parts = []
    for bin_number, file in sorted(shards.items()):
        lengths = _lengths(split.folder / file.name, data)
        wanted = max(1, round(_SAMPLE * bins[bin_number] / split.rows))
        parts.append(lengths[np.linspace(0, len(lengths) - 1, wanted).astype(np.int64)])
    return np.concatenate(parts)


def _lengths(path: Path, data: DataManifest) -> Int64s:
    try:
        if data.shard_format == "ids":
            return read_ids_shard(path, data.vocabulary_size).num_tokens
        column = pq.ParquetFile(path).read(columns=["num_tokens"], use_threads=False).column("num_tokens")
        return column.to_numpy().astype(np.int64)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"the shard cannot be read: {error}", where=str(path)) from error
