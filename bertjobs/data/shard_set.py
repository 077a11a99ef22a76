"""All sequences of a split in memory, as flat arrays of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bertjobs.data.manifest import DataManifest
from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards import MASK_FIELDS, SCHEMA, read_positions
from bertjobs.data.vocabulary import Vocabulary
from bertjobs.errors import InputError

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class StoredMasks:
    """Static masks: the places in [CLS] A [SEP] B [SEP] and the original ids, flat over the rows.

    ``offsets`` is ``[rows + 1]``.
    """

    positions: NDArray[np.uint16]
    labels: NDArray[Any]
    offsets: Int64s


@dataclass(frozen=True)
class ShardSet:
    """The sequences of a split, in the order of the manifest's files.

    Attributes:
        ids: the tokens of A and then B of each row, flat; 2 bytes each where the vocabulary allows.
        offsets: ``[rows + 1]``, into ``ids``.
        a_lengths: ``[rows]``, tokens in A.
        is_random_next: ``[rows]``.
        masks: stored masks, or None. Where there are some, ``ids`` hold the masked tokens.
        vocabulary: what the ids stand for.
    """

    ids: NDArray[Any]
    offsets: Int64s
    a_lengths: Int64s
    is_random_next: NDArray[np.bool_]
    masks: StoredMasks | None
    vocabulary: Vocabulary

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return len(self.a_lengths)

    @property
    def num_tokens(self) -> Int64s:
        """Tokens of each sequence with [CLS] and two [SEP]: ``[rows]``."""
        return np.diff(self.offsets) + 3

    @classmethod
    def load(cls, data: DataManifest, phase: int, split: str) -> ShardSet:
        """Read all shards of a phase's split, "train" or "validation".

        Raises:
            InputError: names the first shard that is missing, damaged, has other columns, tokens outside
                the vocabulary, sequences longer than the phase's, or rows other than the manifest's.
        """
        vocabulary = Vocabulary.read(data.vocabulary_path, data.lowercase)
        tokens = pa.array(vocabulary.tokens, type=pa.string())
        entry = data.phase(phase)
        listed = entry.split(split)
        parts = []
        for file in listed.files:
            path = listed.folder / file.name
            part = _read_shard(path, tokens, entry.sequence_length)
            if part.rows != file.rows:
                raise InputError(
                    f"shard {file.name!r} has {part.rows} rows, the manifest says {file.rows}",
                    where=str(path),
                )
            if (part.masks is None) != (data.masking == "dynamic"):
                raise InputError(f"shard {file.name!r} is not for {data.masking} masking", where=str(path))
            parts.append(part)
        if not any(part.rows for part in parts):
            raise InputError("the shards hold no sequence", where=str(listed.folder))
        return _concatenate(parts, vocabulary)


@dataclass(frozen=True)
class _Shard:
    """One file's part of a ``ShardSet``, with offsets of its own."""

    ids: NDArray[Any]
    lengths: Int64s
    a_lengths: Int64s
    is_random_next: NDArray[np.bool_]
    masks: StoredMasks | None

    @property
    def rows(self) -> int:
        return len(self.lengths)


def _concatenate(parts: Sequence[_Shard], vocabulary: Vocabulary) -> ShardSet:
    kind = np.uint16 if vocabulary.size <= 1 << 16 else np.int32
    stored = [part.masks for part in parts if part.masks is not None]
    masks = None
    if stored:
        masks = StoredMasks(
            np.concatenate([mask.positions for mask in stored]),
            np.concatenate([mask.labels for mask in stored]).astype(kind),
            offsets_of(np.concatenate([np.diff(mask.offsets) for mask in stored])),
        )
    return ShardSet(
        np.concatenate([part.ids for part in parts]).astype(kind),
        offsets_of(np.concatenate([part.lengths for part in parts])),
        np.concatenate([part.a_lengths for part in parts]),
        np.concatenate([part.is_random_next for part in parts]),
        masks,
        vocabulary,
    )


def _read_shard(path: Path, tokens: pa.Array, sequence_length: int) -> _Shard:
    try:
        table = pq.ParquetFile(path).read(use_threads=False)
        _check_columns(table.schema)
        return _decode(table, tokens, sequence_length)
    except FileNotFoundError as error:
        raise InputError("a shard is missing", where=str(path)) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(
            f"a shard cannot be read: {error}",
            where=str(path),
            hint="it is damaged or not LDDL's: run `bertjobs data prepare` again, into a new folder",
        ) from error


def _check_columns(schema: pa.Schema) -> None:
    wanted = [*SCHEMA, *(MASK_FIELDS if MASK_FIELDS[0].name in schema.names else ())]
    for field in wanted:
        if field.name not in schema.names:
            raise ValueError(f"it has no column {field.name!r}, only {', '.join(schema.names)}")
        if schema.field(field.name).type != field.type:
            raise ValueError(f"column {field.name!r} is {schema.field(field.name).type}, not {field.type}")


def _decode(table: pa.Table, tokens: pa.Array, sequence_length: int) -> _Shard:
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    if any(column.null_count for column in columns.values()):
        raise ValueError("it has empty cells")
    a_lengths = pc.add(pc.count_substring(columns["A"], " "), 1).to_numpy().astype(np.int64)
    ids, lengths = _to_ids(pc.binary_join_element_wise(columns["A"], columns["B"], " "), tokens)
    num_tokens = columns["num_tokens"].to_numpy()
    if (lengths + 3 != num_tokens).any():
        raise ValueError("num_tokens disagrees with A and B")
    if (num_tokens > sequence_length).any():
        raise ValueError(f"a sequence has {num_tokens.max()} tokens, the phase {sequence_length}")
    masks = None
    if "masked_lm_positions" in columns:
        labels, counts = _to_ids(columns["masked_lm_labels"], tokens)
        positions = read_positions(columns["masked_lm_positions"].to_pylist(), counts.tolist())
        if (positions >= np.repeat(num_tokens, counts)).any():
            raise ValueError("a masked position is behind the sequence's end")
        masks = StoredMasks(positions, labels, offsets_of(counts))
    is_random_next = columns["is_random_next"].to_numpy(zero_copy_only=False)
    return _Shard(ids, lengths, a_lengths, is_random_next.astype(np.bool_), masks)


def _to_ids(texts: pa.Array, tokens: pa.Array) -> tuple[NDArray[Any], Int64s]:
    """Tokens joined by spaces to flat ids, and the tokens of each row."""
    split = pc.split_pattern(texts, " ")
    words = split.flatten()
    ids = pc.index_in(words, value_set=tokens)
    if ids.null_count:
        unknown = words.filter(pc.is_null(ids))[0].as_py()
        raise ValueError(f"the token {unknown!r} is not in the vocabulary")
    return ids.to_numpy(), pc.list_value_length(split).to_numpy().astype(np.int64)
