"""Small data folders whose shards are made by hand, of random rows, without ``prepare``."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards.ids_shard import ShardRows, StoredMasks, ids_type
from bertjobs.data.shards.manifest import DataManifest, PhaseData, ShardFile, Split
from bertjobs.files.arrays import write_arrays
from bertjobs.files.atomic import sha256_of

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(95)))
LONGEST = 64


def random_shard(rows: int, draw: np.random.Generator, static: bool = False, vocabulary_size: int = 100) -> ShardRows:
    """Rows of 2 to 61 random tokens; with static masks some of them are masked."""
    lengths = draw.integers(2, LONGEST - 2, rows)
    a_lengths = draw.integers(1, lengths)
    kind, offsets = ids_type(vocabulary_size), offsets_of(lengths)
    ids = draw.integers(5, vocabulary_size, offsets[-1]).astype(kind)
    masks = None
    if static:
        counts = np.maximum(1, lengths // 7)
        places = [
            np.sort(draw.choice(length, count, replace=False)) for length, count in zip(lengths, counts, strict=True)
        ]
        positions = [place + 1 + (place >= a) for place, a in zip(places, a_lengths, strict=True)]
        none = np.zeros(0, dtype=np.int64)
        flat = np.concatenate([none, *(place + offset for place, offset in zip(places, offsets, strict=False))])
        masks = StoredMasks(np.concatenate([none, *positions]).astype(np.uint16), ids[flat], offsets_of(counts))
        ids = ids.copy()
        ids[flat] = 4
    return ShardRows(ids, offsets, a_lengths.astype(np.uint16), draw.random(rows) < 0.5, masks)


def write_lddl(path: Path, shard: ShardRows, bin_number: int) -> None:
    """A shard as LDDL writes it."""
    ends = shard.offsets.tolist()
    rows = [[TOKENS[number] for number in shard.ids[start:end]] for start, end in pairwise(ends)]
    columns = {
        "A": [" ".join(row[:a]) for row, a in zip(rows, shard.a_lengths.tolist(), strict=True)],
        "B": [" ".join(row[a:]) for row, a in zip(rows, shard.a_lengths.tolist(), strict=True)],
        "is_random_next": shard.is_random_next,
        "num_tokens": shard.num_tokens.astype(np.uint16),
    }
    if shard.masks is not None:
        ends = shard.masks.offsets.tolist()
        pairs = list(pairwise(ends))
        columns["masked_lm_positions"] = [_npy(shard.masks.positions[start:end]) for start, end in pairs]
        columns["masked_lm_labels"] = [
            " ".join(TOKENS[number] for number in shard.masks.labels[start:end]) for start, end in pairs
        ]
    columns["bin_id"] = np.full(shard.rows, bin_number)
    pq.write_table(pa.table(columns), path)


def _npy(positions: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, positions)
    return buffer.getvalue()


def write_folder(
    folder: Path, rows: Sequence[int], *, shard_format: str = "ids", static: bool = False, seed: int = 0,
    tokens: Sequence[str] = TOKENS,
) -> tuple[DataManifest, list[ShardRows]]:  # fmt: skip
    """A folder with phase 1, whose training shards have these numbers of rows; and the rows' content, in order."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    contents = [random_shard(count, draw, static, len(tokens)) for count in rows]
    train = _write_split(folder / "phase1" / "train", contents, shard_format)
    held_out = [random_shard(count, draw, static, len(tokens)) for count in (5, 3)]
    validation = _write_split(folder / "phase1" / "validation", held_out, shard_format)
    manifest = DataManifest(
        folder=folder,
        sha256=hashlib.sha256(repr((train, validation)).encode()).hexdigest(),
        shard_format=shard_format,
        vocabulary_sha256=sha256_of(folder / "vocab.txt"),
        vocabulary_size=len(tokens),
        lowercase=True,
        masking="static" if static else "dynamic",
        settings={},
        documents={},
        corpus={},
        held_out=(),
        phases={1: PhaseData(1, LONGEST, 8, train, validation)},
        plan=None,
        has_hash=True,
        files_beside={},
    )
    return manifest, contents


def _write_split(folder: Path, shards: Sequence[ShardRows], shard_format: str) -> Split:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, shard in enumerate(shards):
        if shard_format == "ids":
            path = folder / f"shard-{number}.safetensors_0"
            write_arrays(path, shard.arrays(), {})
        else:
            path = folder / f"shard-{number}.parquet_0"
            write_lddl(path, shard, 0)
        tokens = int(shard.num_tokens.sum())
        files.append(ShardFile(path.name, 0, shard.rows, tokens, path.stat().st_size, sha256_of(path)))
    return Split(folder, tuple(files))
