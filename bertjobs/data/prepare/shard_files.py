"""Writing one shard, part by part: token ids in safetensors' layout, or LDDL's strings in Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertjobs.data.batches.masking import mask_text, prediction_counts
from bertjobs.data.prepare.work_folder import WorkFolder
from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards.ids_shard import ids_type, with_specials
from bertjobs.data.shards.lddl_columns import BIN_FIELD, MASK_FIELDS, SCHEMA, encode_positions
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.files.arrays import ArraysWriter
from bertjobs.files.atomic import new_file, sha256_of

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Masks:
    """Static masks of rows: places in [CLS] A [SEP] B [SEP] and the original ids, ``counts`` of them per row."""

    counts: Int64s
    positions: NDArray[np.uint16]
    labels: NDArray[Any]


@dataclass(frozen=True)
class BinRows:
    """Sequences of one bin.

    Attributes:
        ids: the tokens of A and then B of each row, flat. With masks: the masked tokens.
        lengths, a_lengths: ``[rows]``, tokens in A and B, and in A.
        first: number of the first row in its bin, over all shards.
    """

    ids: NDArray[Any]
    lengths: Int64s
    a_lengths: Int64s
    is_random_next: NDArray[np.bool_]
    first: int
    masks: Masks | None = None

    @property
    def num_tokens(self) -> Int64s:
        """Tokens of each row with [CLS] and [SEP]: ``[rows]``."""
        return with_specials(self.a_lengths, self.lengths)


@dataclass(frozen=True)
class StaticMasking:
    """Masks stored in the shards: the share of the tokens, the most per sequence, and whether by whole words."""

    ratio: float
    max_predictions: int
    whole_word: bool


def mask_rows(rows: BinRows, keys: NDArray[np.uint64], how: StaticMasking, vocabulary: Vocabulary) -> BinRows:
    """The rows with masks, drawn from one key per row."""
    offsets = offsets_of(rows.lengths)
    num_tokens = rows.num_tokens
    counts = prediction_counts(num_tokens, how.ratio, how.max_predictions, num_tokens - rows.lengths)
    masked, chosen = mask_text(rows.ids, offsets, rows.a_lengths, counts, keys, vocabulary, whole_word=how.whole_word)
    tokens = np.flatnonzero(chosen)
    owners = np.repeat(np.arange(len(rows.lengths)), rows.lengths)[tokens]
    places = tokens - offsets[owners]
    positions = places + 1 + (places >= rows.a_lengths[owners])
    masks = Masks(np.bincount(owners, minlength=len(rows.lengths)), positions.astype(np.uint16), rows.ids[tokens])
    return replace(rows, ids=masked, masks=masks)


class ShardWriter(Protocol):
    """A shard being written; ``sha256`` and ``bytes`` are known once it is closed."""

    path: Path
    sha256: str
    bytes: int

    def append(self, rows: BinRows) -> None: ...


@contextmanager
def new_shard(
    work: WorkFolder, folder: Path, number: int, bin_number: int, vocabulary: Vocabulary
) -> Iterator[ShardWriter]:
    """A shard that appears in ``folder``, whole, when the block ends without an error."""
    static = work.options.masking == "static"
    if work.options.format == "lddl":
        path = folder / f"shard-{number}.parquet_{bin_number}"
        with new_file(path) as file:
            lddl = LddlWriter(path, file, bin_number, vocabulary, static)
            yield lddl
            lddl.close()
        lddl.sha256, lddl.bytes = sha256_of(path), path.stat().st_size
        return
    metadata = {"seed": str(work.options.seed), "settings_sha256": work.plan.settings_sha256}
    with new_ids_shard(folder / f"shard-{number}.safetensors_{bin_number}", vocabulary, static, metadata) as ids:
        yield ids


@contextmanager
def new_ids_shard(path: Path, vocabulary: Vocabulary, static: bool, metadata: Mapping[str, str]) -> Iterator[IdsWriter]:
    """A shard of token ids that appears, whole, when the block ends without an error; ``metadata`` is what its header
    says besides form and vocabulary."""
    metadata = {"format": "bertjobs-ids", "vocabulary_sha256": vocabulary.sha256, **metadata}
    with ArraysWriter(path, _kinds(ids_type(vocabulary.size), static), metadata) as arrays:
        ids = IdsWriter(path, arrays)
        yield ids
    ids.sha256, ids.bytes = arrays.sha256, arrays.bytes


def _kinds(id_type: Any, static: bool) -> dict[str, Any]:
    kinds = {"ids": id_type, "offsets": np.int64, "a_lengths": np.uint16, "is_random_next": np.bool_}
    if static:
        kinds |= {"mask_offsets": np.int64, "mask_positions": np.uint16, "mask_labels": id_type}
    return kinds


class IdsWriter:
    """Token ids and offsets. The arrays are explained in ``data/ids_shard.py``."""

    def __init__(self, path: Path, arrays: ArraysWriter) -> None:
        self.path, self.sha256, self.bytes = path, "", 0
        self._arrays = arrays
        self._ends: dict[str, int] = {}

    def append(self, rows: BinRows) -> None:
        """Add rows."""
        self._arrays.append("ids", rows.ids)
        self._append_offsets("offsets", rows.lengths)
        self._arrays.append("a_lengths", rows.a_lengths.astype(np.uint16))
        self._arrays.append("is_random_next", rows.is_random_next)
        if rows.masks is not None:
            self._append_offsets("mask_offsets", rows.masks.counts)
            self._arrays.append("mask_positions", rows.masks.positions)
            self._arrays.append("mask_labels", rows.masks.labels)

    def _append_offsets(self, name: str, lengths: Int64s) -> None:
        offsets = offsets_of(lengths) + self._ends.get(name, 0)
        self._arrays.append(name, offsets[1:] if name in self._ends else offsets)
        self._ends[name] = int(offsets[-1])


class LddlWriter:
    """LDDL's schema: tokens joined by a space, in Parquet. Each part that is added is a row group."""

    def __init__(self, path: Path, file: Any, bin_number: int, vocabulary: Vocabulary, static: bool) -> None:
        import pyarrow.parquet as pq  # only this form of shard needs it

        self.path, self.sha256, self.bytes = path, "", 0
        self._bin, self._static = bin_number, static
        self._tokens = pa.array(vocabulary.tokens, type=pa.string())
        self._schema = pa.schema([*SCHEMA, *(MASK_FIELDS if static else ()), BIN_FIELD])
        self._writer = pq.ParquetWriter(file, self._schema, compression="SNAPPY", use_dictionary=False)

    def append(self, rows: BinRows) -> None:
        """Add rows."""
        lengths = np.stack([rows.a_lengths, rows.lengths - rows.a_lengths], axis=1).ravel()
        segments = self._join(rows.ids, lengths)
        columns = [segments.take(pa.array(np.arange(first, len(lengths), 2))) for first in (0, 1)]
        del segments  # as large as both
        columns += [
            pa.array(rows.is_random_next),
            pa.array(rows.num_tokens.astype(np.uint16)),
        ]
        if rows.masks is not None:
            columns.append(pa.array(encode_positions(rows.masks.positions, rows.masks.counts), type=pa.binary()))
            columns.append(self._join(rows.masks.labels, rows.masks.counts))
        columns.append(pa.array(np.full(len(rows.lengths), self._bin, dtype=np.int64)))
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def _join(self, ids: NDArray[Any], lengths: Int64s) -> pa.Array:
        import pyarrow.compute as pc  # takes a while, and only this form needs it

        words = self._tokens.take(pa.array(ids))
        return pc.binary_join(pa.ListArray.from_arrays(offsets_of(lengths).astype(np.int32), words), " ")
