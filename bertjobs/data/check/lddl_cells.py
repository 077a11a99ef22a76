"""What is wrong with the columns and cells of an LDDL shard, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bertjobs.data.shards.ids_shard import SPECIALS
from bertjobs.data.shards.lddl_columns import MASK_FIELDS, SCHEMA, read_positions, words_of
from bertjobs.data.text.vocabulary import Vocabulary

Int64s = NDArray[np.int64]

_SHOWN = 3  # tokens


@dataclass(frozen=True)
class WrongCells:
    """A fault of a table's cells, in ``words``, and the tokens that the vocabulary lacks, if that is the fault."""

    words: str
    unknown: tuple[str, ...] = ()


def wrong_columns(schema: pa.Schema) -> list[str]:
    """How columns differ from LDDL's; [] if they do not. Columns of other names do not matter."""
    static = any(field.name in schema.names for field in MASK_FIELDS)
    wrong = []
    for field in [*SCHEMA, *(MASK_FIELDS if static else ())]:
        if field.name not in schema.names:
            wrong.append(f"it has no column {field.name!r}, only {', '.join(schema.names)}")
        elif schema.field(field.name).type != field.type:
            wrong.append(f"column {field.name!r} is {schema.field(field.name).type}, not {field.type}")
    return wrong


def wrong_cells(table: pa.Table, vocabulary: Vocabulary) -> Iterator[WrongCells]:
    """All that is wrong with the cells of a table that has LDDL's columns."""
    nulls = {name: table.column(name).null_count for name in table.column_names}
    if any(nulls.values()):
        counted = ", ".join(f"{count:,} in column {name}" for name, count in nulls.items() if count)
        yield WrongCells(f"empty cells: {counted}")
        return
    static = "masked_lm_labels" in table.column_names
    words = {name: _words(table, name) for name in ("A", "B", *(("masked_lm_labels",) if static else ()))}
    counts = sum((_lengths(words[name]) for name in ("A", "B")), start=np.array(SPECIALS))
    stated = table.column("num_tokens").to_numpy().astype(np.int64)
    differs = counts != stated
    if differs.any():
        row = int(differs.argmax())
        yield WrongCells(
            f"num_tokens disagrees with A and B in {np.count_nonzero(differs):,} of {len(stated):,} rows: "
            f"row {row} says {stated[row]} but has {counts[row]}"
        )
    known = pa.array(vocabulary.tokens, type=pa.string())
    for name, split in words.items():
        flat = split.flatten()
        unknown = tuple(words_of(pc.unique(flat.filter(pc.is_null(pc.index_in(flat, value_set=known))))))
        if unknown:
            some = ", ".join(map(repr, unknown[:_SHOWN])) + (", ..." if len(unknown) > _SHOWN else "")
            yield WrongCells(f"{len(unknown):,} tokens of column {name} are not in the vocabulary: {some}", unknown)
    if static:
        yield from _wrong_positions(table, _lengths(words["masked_lm_labels"]), counts)


def _wrong_positions(table: pa.Table, masks: Int64s, num_tokens: Int64s) -> Iterator[WrongCells]:
    try:
        positions = read_positions(table.column("masked_lm_positions").to_pylist(), masks.tolist())
    except (ValueError, EOFError) as error:
        yield WrongCells(f"column masked_lm_positions is damaged: {error}")
        return
    if bad := int(np.count_nonzero(positions >= np.repeat(num_tokens, masks))):
        yield WrongCells(f"{bad:,} of {len(positions):,} masked positions are beyond their sequence's end")


def _words(table: pa.Table, name: str) -> pa.Array:
    return pc.split_pattern(table.column(name).combine_chunks(), " ")


def _lengths(words: pa.Array) -> Int64s:
    return pc.list_value_length(words).to_numpy().astype(np.int64)
