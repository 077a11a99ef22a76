"""Parquet shards in the form of NVIDIA's LDDL: balanced, one set of files per length bin.

Columns, in this order: A and B (WordPiece tokens joined by a space), is_random_next, num_tokens (with
[CLS] and two [SEP]); with static masking masked_lm_positions (``numpy.save`` bytes of uint16, ascending
places in [CLS] A [SEP] B [SEP]) and masked_lm_labels (the original tokens); then bin_id.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertjobs.data.ragged import offsets_of

Int64s = NDArray[np.int64]

SCHEMA = pa.schema(
    [("A", pa.string()), ("B", pa.string()), ("is_random_next", pa.bool_()), ("num_tokens", pa.uint16())]
)
MASK_FIELDS = (pa.field("masked_lm_positions", pa.binary()), pa.field("masked_lm_labels", pa.string()))
BIN_FIELD = pa.field("bin_id", pa.int64())
FIXED_EPOCH = -1  # the "epoch" of masks that never change


@lru_cache
def _npy_header(count: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(count, dtype="<u2"))
    return buffer.getvalue()[: len(buffer.getvalue()) - 2 * count]


def encode_positions(positions: NDArray[np.uint16], counts: Int64s) -> list[bytes]:
    """masked_lm_positions of rows that have ``counts`` places each, flat in ``positions``."""
    raw, ends = positions.astype("<u2").tobytes(), (2 * offsets_of(counts)).tolist()
    return [_npy_header((end - start) // 2) + raw[start:end] for start, end in pairwise(ends)]


def read_positions(values: Iterable[bytes], counts: Iterable[int]) -> NDArray[np.uint16]:
    """Decode masked_lm_positions, one after the other; ValueError if a row does not hold its count."""
    decoded = []
    for value, count in zip(values, counts, strict=True):
        header = _npy_header(count)
        if value.startswith(header):
            positions = np.frombuffer(value, dtype="<u2", offset=len(header))
        else:  # written by a numpy that pads the header differently
            try:
                positions = np.lib.format.read_array(io.BytesIO(value), allow_pickle=False)
            except Exception as error:  # of damaged bytes numpy raises almost any class
                raise ValueError(f"masked positions are truncated or damaged: {error}") from error
        if positions.shape != (count,):
            raise ValueError(f"{positions.shape} masked positions, {count} labels")
        decoded.append(positions.astype(np.uint16))
    return np.concatenate(decoded) if decoded else np.zeros(0, dtype=np.uint16)


def words_of(values: pa.Array) -> list[str]:
    """The strings of an array, to be shown: damaged ones may not be UTF-8."""
    return [value.decode("utf-8", "replace") for value in values.cast(pa.binary()).to_pylist()]
