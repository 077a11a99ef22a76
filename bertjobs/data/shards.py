"""Parquet shards in the form of NVIDIA's LDDL: balanced, one set of files a length bin.

Columns, in this order: A and B (WordPiece tokens joined by a space), is_random_next, num_tokens (with
[CLS] and two [SEP]); with static masking masked_lm_positions (``numpy.save`` bytes of uint16, ascending
places in [CLS] A [SEP] B [SEP]) and masked_lm_labels (the original tokens); then bin_id.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bertjobs.data.manifest import ShardFile
from bertjobs.data.masking import mask_tokens, prediction_counts, sample_keys
from bertjobs.data.pairs import Pairs, TokenizedCorpus
from bertjobs.data.ragged import gather, offsets_of
from bertjobs.data.sequences import lay_out
from bertjobs.data.vocabulary import Vocabulary
from bertjobs.run.atomic import sha256_of

Int64s = NDArray[np.int64]

SCHEMA = pa.schema(
    [("A", pa.string()), ("B", pa.string()), ("is_random_next", pa.bool_()), ("num_tokens", pa.uint16())]
)
MASK_FIELDS = (pa.field("masked_lm_positions", pa.binary()), pa.field("masked_lm_labels", pa.string()))
BIN_FIELD = pa.field("bin_id", pa.int64())
FIXED_EPOCH = -1  # the "epoch" of masks that never change


@dataclass(frozen=True)
class StaticMasking:
    """Masks stored in the shards: the share of tokens, the most a sequence, and the seed of the draws."""

    ratio: float
    max_predictions: int
    seed: int


class ShardWriter:
    """Writes the pairs of one tokenised corpus as shards."""

    def __init__(self, corpus: TokenizedCorpus, vocabulary: Vocabulary) -> None:
        self._ids, self._vocabulary = corpus.ids, vocabulary
        self._tokens = np.array(vocabulary.tokens, dtype=object)
        # The whole corpus as one string: an unmasked segment is a slice of it.
        self._text = " ".join(self._tokens[corpus.ids].tolist())
        widths = np.array([len(token) for token in vocabulary.tokens], dtype=np.int64)
        self._places = offsets_of(widths[corpus.ids] + 1)

    def write(
        self,
        folder: Path,
        pairs: Pairs,
        sequence_length: int,
        bin_size: int,
        shards: int,
        masking: StaticMasking | None,
        shuffle_seed: int,
    ) -> tuple[list[ShardFile], int]:
        """Shuffle the pairs, deal them to ``shards`` files a bin, write these and ``.num_samples.json``.

        Returns:
            The files, by bin and shard number, and the tokens in all of them.
        """
        folder.mkdir(parents=True)
        order = np.argsort(np.random.Philox(key=shuffle_seed).random_raw(len(pairs)), kind="stable")
        bins = bin_ids(pairs.num_tokens, bin_size, sequence_length)
        files, tokens = [], 0
        for bin_id in range(sequence_length // bin_size):
            members = order[bins[order] == bin_id]
            ends = np.cumsum(deal(len(members), shards))
            for number, rows in enumerate(np.split(members[: ends[-1]], ends[:-1])):
                path = folder / f"shard-{number}.parquet_{bin_id}"
                _write_parquet(self._table(pairs, rows, bin_id, masking), path)
                files.append(ShardFile(path.name, bin_id, len(rows), path.stat().st_size, sha256_of(path)))
                tokens += int(pairs.num_tokens[rows].sum())
        (folder / ".num_samples.json").write_text(json.dumps({file.name: file.rows for file in files}))
        return files, tokens

    def _table(self, pairs: Pairs, rows: Int64s, bin_id: int, masking: StaticMasking | None) -> pa.Table:
        common = [pairs.is_random_next[rows], pairs.num_tokens[rows].astype(np.uint16)]
        bin_column = np.full(len(rows), bin_id, dtype=np.int64)
        if masking is None:
            a = self._slices(pairs.a_starts[rows], pairs.a_lengths[rows])
            b = self._slices(pairs.b_starts[rows], pairs.b_lengths[rows])
            return pa.table([a, b, *common, bin_column], schema=SCHEMA.append(BIN_FIELD))
        a, b, positions, labels = self._masked(pairs, rows, masking)
        schema = pa.schema([*SCHEMA, *MASK_FIELDS, BIN_FIELD])
        return pa.table([a, b, *common, positions, labels, bin_column], schema=schema)

    def _slices(self, starts: Int64s, lengths: Int64s) -> list[str]:
        begins, ends = self._places[starts].tolist(), (self._places[starts + lengths] - 1).tolist()
        return [self._text[begin:end] for begin, end in zip(begins, ends, strict=True)]

    def _masked(
        self, pairs: Pairs, rows: Int64s, masking: StaticMasking
    ) -> tuple[list[str], list[str], list[bytes], list[str]]:
        if not len(rows):
            return [], [], [], []
        a_lengths, num_tokens = pairs.a_lengths[rows], pairs.num_tokens[rows]
        starts = np.stack([pairs.a_starts[rows], pairs.b_starts[rows]], axis=1).ravel()
        lengths = np.stack([a_lengths, pairs.b_lengths[rows]], axis=1).ravel()
        offsets = offsets_of(lengths)
        laid_out = lay_out(gather(self._ids, starts, lengths), offsets[:-1:2], a_lengths, num_tokens, self._vocabulary)
        counts = prediction_counts(num_tokens, masking.ratio, masking.max_predictions)
        keys = sample_keys(masking.seed, FIXED_EPOCH, rows)
        masked, chosen = mask_tokens(
            laid_out.input_ids, laid_out.text, counts, keys, self._vocabulary.mask_id, self._vocabulary.size
        )
        segments = self._join(masked[laid_out.text], offsets)
        label_offsets = offsets_of(counts)
        columns = np.nonzero(chosen)[1].astype("<u2")
        positions = [
            _npy_header(end - start) + columns[start:end].tobytes() for start, end in pairwise(label_offsets.tolist())
        ]
        return segments[::2], segments[1::2], positions, self._join(laid_out.input_ids[chosen], label_offsets)

    def _join(self, ids: Int64s, offsets: Int64s) -> list[str]:
        tokens, ends = self._tokens[ids].tolist(), offsets.tolist()
        return [" ".join(tokens[start:end]) for start, end in pairwise(ends)]


def bin_ids(num_tokens: Int64s, bin_size: int, sequence_length: int) -> Int64s:
    """The length bin of each sequence: ``bin_size`` tokens a bin, from 0."""
    return np.minimum((num_tokens - 1) // bin_size, sequence_length // bin_size - 1)


def deal(rows: int, shards: int) -> list[int]:
    """Rows of each of a bin's shards, equal within one.

    Where rows divide evenly one row is left out: LDDL's loader refuses a bin whose shards are all equal.
    """
    if rows and shards > 1 and rows % shards == 0:
        rows -= 1
    base, more = divmod(rows, shards)
    return [base + 1] * more + [base] * (shards - more)


@lru_cache
def _npy_header(count: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(count, dtype="<u2"))
    return buffer.getvalue()[: len(buffer.getvalue()) - 2 * count]


def read_positions(values: Iterable[bytes], counts: Iterable[int]) -> NDArray[np.uint16]:
    """Decode masked_lm_positions, one after the other; ValueError where a row does not hold its count."""
    decoded = []
    for value, count in zip(values, counts, strict=True):
        header = _npy_header(count)
        if value.startswith(header):
            positions = np.frombuffer(value, dtype="<u2", offset=len(header))
        else:  # written by a numpy that pads the header otherwise
            positions = np.load(io.BytesIO(value), allow_pickle=False)
        if positions.shape != (count,):
            raise ValueError(f"{positions.shape} masked positions, {count} labels")
        decoded.append(positions.astype(np.uint16))
    return np.concatenate(decoded) if decoded else np.zeros(0, dtype=np.uint16)


def _write_parquet(table: pa.Table, path: Path) -> None:
    with path.open("xb") as file:
        pq.write_table(table, file, compression="SNAPPY", use_dictionary=False)
        file.flush()
        os.fsync(file.fileno())
