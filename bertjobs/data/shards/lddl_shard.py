"""Reading one Parquet shard of NVIDIA's LDDL into arrays of ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards.ids_shard import SPECIALS, ShardRows, StoredMasks, ids_type
from bertjobs.data.shards.lddl_columns import MASK_FIELDS, SCHEMA, read_positions, words_of

Int64s = NDArray[np.int64]


def read_lddl_shard(path: Path, tokens: pa.Array, sequence_length: int) -> ShardRows:
    """Decode a shard.

    Args:
        tokens: the vocabulary, by id.
        sequence_length: tokens of the longest sequence allowed.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, has other columns, empty cells, tokens outside the vocabulary or
            sequences that are too long; says what was expected.
    """
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read(use_threads=False)
        _check_columns(table.schema)
        return _decode(table, tokens, sequence_length)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _check_columns(schema: pa.Schema) -> None:
    wanted = [*SCHEMA, *(MASK_FIELDS if MASK_FIELDS[0].name in schema.names else ())]
    for field in wanted:
        if field.name not in schema.names:
            raise ValueError(f"it has no column {field.name!r}, only {', '.join(schema.names)}")
        if schema.field(field.name).type != field.type:
            raise ValueError(f"column {field.name!r} is {schema.field(field.name).type}, not {field.type}")


def _decode(table: pa.Table, tokens: pa.Array, sequence_length: int) -> ShardRows:
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    if any(column.null_count for column in columns.values()):
        raise ValueError("it has empty cells")
    a_lengths = pc.add(pc.count_substring(columns["A"], " "), 1).to_numpy()
    ids, lengths = _to_ids(pc.binary_join_element_wise(columns["A"], columns["B"], " "), tokens)
    num_tokens = columns["num_tokens"].to_numpy()
    if (lengths + SPECIALS != num_tokens).any():
        raise ValueError("num_tokens disagrees with A and B")
    if (num_tokens > sequence_length).any():
        raise ValueError(f"a sequence has {num_tokens.max()} tokens, but the phase allows {sequence_length}")
    masks = None
    if "masked_lm_positions" in columns:
        labels, counts = _to_ids(columns["masked_lm_labels"], tokens)
        positions = read_positions(columns["masked_lm_positions"].to_pylist(), counts.tolist())
        if (positions >= np.repeat(num_tokens, counts)).any():
            raise ValueError("a masked position is beyond the sequence's end")
        masks = StoredMasks(positions, labels, offsets_of(counts))
    is_random_next = columns["is_random_next"].to_numpy(zero_copy_only=False).astype(np.bool_)
    return ShardRows(ids, offsets_of(lengths), a_lengths.astype(np.uint16), is_random_next, masks)


def _to_ids(texts: pa.Array, tokens: pa.Array) -> tuple[NDArray[Any], Int64s]:
    """Tokens joined by spaces to flat ids, and the tokens of each row."""
    split = pc.split_pattern(texts, " ")
    words = split.flatten()
    ids = pc.index_in(words, value_set=tokens)
    if ids.null_count:
        unknown = words_of(words.filter(pc.is_null(ids))[:1])
        raise ValueError(f"the token {unknown[0]!r} is not in the vocabulary")
    return ids.to_numpy().astype(ids_type(len(tokens))), pc.list_value_length(split).to_numpy().astype(np.int64)
