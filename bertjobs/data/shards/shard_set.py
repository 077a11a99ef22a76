"""The sequences of a split, read in place: from mapped files, or from arrays decoded from Parquet."""

from __future__ import annotations

import resource
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bertjobs.data.ragged import gather, offsets_of
from bertjobs.data.shards.ids_shard import SPECIALS, SPECIALS_ALONE, ShardRows, places_in_text, read_ids_shard
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.errors import InputError

Array = NDArray[Any]
Int64s = NDArray[np.int64]

_AGAIN = "it is damaged: run `bertjobs data prepare` again, into a new folder, or set on_bad_shard=skip"
_LONG = 150  # items: ranges of this length are copied faster one by one than item by item
_OTHER_FILES = 512  # open files a process needs besides its shards


@dataclass(frozen=True)
class SelectedRows:
    """Some rows, located but not read; all ``[rows]``.

    Attributes:
        rows: their numbers in the shard set.
        shards: which shard each is in.
        starts: where its tokens begin in the shard.
        lengths, a_lengths: tokens in A and B, and in A alone.
        mask_starts, mask_counts: its stored masks in the shard; 0 without static masking.
    """

    rows: Int64s
    shards: Int64s
    starts: Int64s
    lengths: Int64s
    a_lengths: Int64s
    is_random_next: NDArray[np.bool_]
    mask_starts: Int64s
    mask_counts: Int64s

    def __getitem__(self, rows: slice) -> SelectedRows:
        return SelectedRows(*(value[rows] for value in vars(self).values()))


class ShardSet:
    """The sequences of a split, numbered in the order of the manifest's files.

    Nothing is kept per row, and shards are not joined: see `_Flat`.

    Attributes:
        rows: number of sequences, those of skipped shards included: skipping one changes no other row's number.
        left_out: ranges of rows, start and stop, of skipped shards.
        shards: the shards that were not skipped.
        vocabulary: what the ids stand for.
        static: whether the rows have stored masks.
        pairs: whether the rows are A and B, or A alone.
        specials: [CLS] and [SEP] around each row's text.
    """

    def __init__(
        self,
        entries: Sequence[tuple[Path, int, ShardRows | None]],
        vocabulary: Vocabulary,
        *,
        static: bool,
        sequence_length: int,
        pairs: bool = True,
    ) -> None:
        """Takes the path, the rows and the content, None if it is skipped, of each file."""
        self.vocabulary, self.static, self.pairs = vocabulary, static, pairs
        self.specials = SPECIALS if pairs else SPECIALS_ALONE
        self._longest = sequence_length - self.specials
        starts = offsets_of(np.array([rows for _, rows, _ in entries], dtype=np.int64)).tolist()
        self.rows: int = starts[-1]
        ranges = zip(starts, starts[1:], entries, strict=False)
        self.left_out = tuple((start, stop) for start, stop, (*_, shard) in ranges if shard is None and stop > start)
        self.shards = [shard for *_, shard in entries if shard is not None]
        filled = [
            (start, path, shard)
            for start, (path, _, shard) in zip(starts, entries, strict=False)
            if shard is not None and shard.rows
        ]
        if not filled:
            raise InputError("the shards hold no sequence", where=str(entries[0][0].parent))
        self._paths = [path for _, path, _ in filled]
        self._first_rows = np.array([start for start, _, _ in filled], dtype=np.int64)
        parts = [shard for _, _, shard in filled]
        self._ends = self._first_rows + [part.rows for part in parts]
        self._ids = _Flat([part.ids for part in parts])
        self._offsets = _Flat([part.offsets for part in parts])
        self._a_lengths = _Flat([part.a_lengths for part in parts])
        self._is_random_next = _Flat([part.is_random_next for part in parts])
        if static:
            masks = [part.masks for part in parts if part.masks is not None]
            self._mask_offsets = _Flat([mask.offsets for mask in masks])
            self._mask_positions = _Flat([mask.positions for mask in masks])
            self._mask_labels = _Flat([mask.labels for mask in masks])

    @classmethod
    def load(cls, data: DataManifest, phase: int, split: str, skipped: Collection[str] = ()) -> ShardSet:
        """Open the shards of a phase's split, "train" or "validation", without those whose names are ``skipped``.

        Of mapped files only the form is checked here; their tokens are checked when they are read.

        Raises:
            InputError: names the first shard that is missing, damaged, of another form, or has another
                number of rows than the manifest lists.
        """
        vocabulary = Vocabulary.read(data.vocabulary_path, data.lowercase)
        entry = data.phase(phase)
        listed = entry.split(split)
        read = shard_reader(data.shard_format, vocabulary, entry.sequence_length)
        _allow_open_files(len(listed.files))
        entries = []
        for file in listed.files:
            path = listed.folder / file.name
            shard = None if file.name in skipped else _read(read, path, file.rows, data.masking)
            entries.append((path, file.rows, shard))
        return cls(
            entries,
            vocabulary,
            static=data.masking == "static",
            sequence_length=entry.sequence_length,
            pairs=data.next_sentence,
        )

    @property
    def kept(self) -> Int64s:
        """The numbers of all rows that can be read, ascending."""
        ranges = zip(self._first_rows.tolist(), self._ends.tolist(), strict=True)
        return np.concatenate([np.arange(start, end) for start, end in ranges])

    def lengths(self, rows: Int64s) -> Int64s:
        """Tokens of A and B of some rows: ``[rows]``."""
        shards, local = self._find(rows)
        return self._offsets.at(shards, local + 1) - self._offsets.at(shards, local)

    def num_tokens(self, rows: Int64s) -> Int64s:
        """Tokens of some rows with [CLS] and [SEP]: ``[rows]``."""
        return self.lengths(rows) + self.specials

    def select(self, rows: Int64s) -> SelectedRows:
        """Locate some rows.

        Raises:
            InputError: a shard's offsets are damaged; names it.
        """
        shards, local = self._find(rows)
        starts = self._offsets.at(shards, local)
        lengths = self._offsets.at(shards, local + 1) - starts
        a_lengths = self._a_lengths.at(shards, local).astype(np.int64)
        wrong = (starts < 0) | (lengths > self._longest)
        wrong |= (lengths <= a_lengths) if self.pairs else (lengths != a_lengths) | (lengths < 1)
        wrong |= starts + lengths > self._ids.sizes[shards]
        mask_starts = mask_counts = np.zeros(len(rows), dtype=np.int64)
        if self.static:
            mask_starts = self._mask_offsets.at(shards, local)
            mask_counts = self._mask_offsets.at(shards, local + 1) - mask_starts
            beyond = mask_starts + mask_counts > self._mask_labels.sizes[shards]
            wrong |= (mask_starts < 0) | (mask_counts < 0) | beyond
        if wrong.any():
            raise self._damaged(shards[wrong][0], "its offsets do not fit its tokens")
        is_random_next = self._is_random_next.at(shards, local)
        return SelectedRows(rows, shards, starts, lengths, a_lengths, is_random_next, mask_starts, mask_counts)

    def text(self, chosen: SelectedRows) -> Array:
        """The tokens of A and B of the rows, flat: a copy, of the type of the shards' ids.

        Raises:
            InputError: a token is outside the vocabulary; names the shard.
        """
        tokens = self._ids.ranges(chosen.shards, chosen.starts, chosen.lengths)
        self._check_vocabulary(tokens, chosen.shards, chosen.lengths)
        return tokens

    def stored_masks(self, chosen: SelectedRows) -> tuple[Int64s, Array]:
        """The places in the rows' `text`, and the original ids, of their masks: both ``[masks]``.

        Raises:
            InputError: a place is not a token of its row's text, or an id is outside the vocabulary; names the shard.
        """
        where = (chosen.shards, chosen.mask_starts, chosen.mask_counts)
        positions, labels = self._mask_positions.ranges(*where), self._mask_labels.ranges(*where)
        self._check_vocabulary(labels, chosen.shards, chosen.mask_counts)
        rows = np.repeat(np.arange(len(chosen.rows)), chosen.mask_counts)
        a_lengths = chosen.a_lengths[rows]
        places = places_in_text(positions, a_lengths)
        wrong = (places < 0) | (positions == a_lengths + 1) | (places >= chosen.lengths[rows])
        if wrong.any():
            raise self._damaged(chosen.shards[rows[wrong][0]], "a mask is not on a token")
        places += offsets_of(chosen.lengths)[rows]
        return places, labels

    def segments(self, row: int) -> tuple[Array, Array]:
        """The tokens of A and of B of one row, as they were before static masking."""
        chosen = self.select(np.array([row]))
        tokens, middle = self.text(chosen), int(chosen.a_lengths[0])
        if self.static:
            places, labels = self.stored_masks(chosen)
            tokens[places] = labels
        return tokens[:middle], tokens[middle:]

    def names(self, rows: Int64s) -> list[str]:
        """Some rows as a person would look them up: ``shard's file name:row in it``, counted from 0."""
        shards, local = self._find(rows)
        return [f"{self._paths[shard].name}:{row}" for shard, row in zip(shards, local, strict=True)]

    def _find(self, rows: Int64s) -> tuple[Int64s, Int64s]:
        """The shard of each row, and the row's number in it."""
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        if (rows >= self._ends[shards]).any():  # nothing may be read beyond a shard's memory
            raise IndexError("a row of a skipped shard, or beyond the last")
        return shards, rows - self._first_rows[shards]

    def _check_vocabulary(self, ids: Array, shards: Int64s, counts: Int64s) -> None:
        if len(ids) and (largest := int(ids.max())) >= self.vocabulary.size:
            shard = np.repeat(shards, counts)[int(ids.argmax())]
            raise self._damaged(
                shard, f"it holds the id {largest}, but the vocabulary has {self.vocabulary.size} tokens"
            )

    def _damaged(self, shard: int, reason: str) -> InputError:
        return _unreadable(self._paths[shard], reason)


class _Flat:
    """One array of each shard, addressed together.

    A view spans all memory from the lowest of the arrays on, of which only the arrays are ever touched. So one call
    reads from any number of shards, and none of them is copied.
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        self._arrays = arrays  # keeps the memory
        self.sizes = np.array([len(array) for array in arrays], dtype=np.int64)
        addresses = np.array([array.ctypes.data for array in arrays], dtype=np.int64)
        lowest, itemsize = int(addresses.argmin()), arrays[0].itemsize
        self._starts = (addresses - addresses[lowest]) // itemsize
        end = int((self._starts + self.sizes).max())
        self._view = np.lib.stride_tricks.as_strided(arrays[lowest], (end,), (itemsize,), writeable=False)

    def at(self, shards: Int64s, places: Int64s) -> Array:
        """Single items, by their shard and their place in its array."""
        return self._view.take(self._starts[shards] + places)

    def ranges(self, shards: Int64s, starts: Int64s, lengths: Int64s) -> Array:
        """Ranges of items, one after the other, by their shard and their start and length in its array."""
        begins, view = self._starts[shards] + starts, self._view
        if lengths.mean() < _LONG:
            return gather(view, begins, lengths)
        return np.concatenate(
            [view[begin:end] for begin, end in zip(begins.tolist(), (begins + lengths).tolist(), strict=True)]
        )


ShardReader = Callable[[Path], ShardRows]


def shard_reader(shard_format: str, vocabulary: Vocabulary, sequence_length: int) -> ShardReader:
    """Reads one file of a format, "ids" or "lddl"; raises OSError and ValueError as the formats' readers do."""
    if shard_format == "ids":
        return partial(read_ids_shard, vocabulary_size=vocabulary.size)
    from bertjobs.data.shards.lddl_shard import read_lddl_shard  # imports pyarrow.compute, which takes a while

    tokens = pa.array(vocabulary.tokens, type=pa.string())
    return partial(read_lddl_shard, tokens=tokens, sequence_length=sequence_length)


def _read(read: ShardReader, path: Path, rows: int, masking: str) -> ShardRows:
    try:
        shard = read(path)
    except FileNotFoundError as error:
        raise InputError(f"shard {path.name!r} is missing", where=str(path), hint=_AGAIN) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if shard.rows != rows:
        raise InputError(f"shard {path.name!r} has {shard.rows} rows, the manifest says {rows}", where=str(path))
    if shard.rows and (shard.masks is None) != (masking == "dynamic"):
        raise InputError(f"shard {path.name!r} was not made for {masking} masking", where=str(path))
    return shard


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"shard {path.name!r} cannot be read: {reason}", where=str(path), hint=_AGAIN)


def _allow_open_files(count: int) -> None:
    """Raise the process's limit of open files, as far as allowed, so that ``count`` shards per split can be mapped."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count + _OTHER_FILES  # training and held-out shards
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
