"""The HDF5 files of NVIDIA's earlier create_pretraining_data.py, which HetSeq reads too: rows of fixed length.

``input_ids``, ``input_mask`` and ``segment_ids`` are ``[rows, tokens]``: [CLS] A [SEP] B [SEP], the masks applied,
padded with 0. ``masked_lm_positions`` and ``masked_lm_ids`` are ``[rows, predictions]``: places in the row and original
ids, padded with 0. ``next_sentence_labels`` is ``[rows]``: 1 where B is a random segment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.corpus.folders import files_below
from bertjobs.data.corpus.source import HDF5_SUFFIXES
from bertjobs.data.prepare.shard_files import BinRows, Masks
from bertjobs.data.shards.ids_shard import ids_type
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.errors import InputError, first_line, install_hint

Int64s = NDArray[np.int64]
Block = Mapping[str, NDArray[Any]]

PER_TOKEN = ("input_ids", "input_mask", "segment_ids")
PER_PREDICTION = ("masked_lm_positions", "masked_lm_ids")
PER_ROW = ("next_sentence_labels",)
KEYS = (*PER_TOKEN, *PER_PREDICTION, *PER_ROW)

_CELLS = 1 << 20  # tokens read at a time
_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Hdf5File:
    """A file: its rows, the tokens and the predictions that a row has room for."""

    path: Path
    rows: int
    tokens: int
    predictions: int


def find_files(folder: Path) -> list[Hdf5File]:
    """The HDF5 files in a folder or below it, or the one file, by name, numbers by their value. Links are followed.

    Raises:
        InputError: there are none; a link leads nowhere; one that cannot be read, lacks an array or has one of another
            shape.
    """
    if folder.is_file():
        return [describe(folder)]
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist", where="--phase")
    try:
        paths = [Path(path) for path in files_below(str(folder)) if Path(path).suffix.lower() in HDF5_SUFFIXES]
    except OSError as error:
        raise InputError(f"{error.filename!r} cannot be read: {error.strerror}", where="--phase",
                         hint="restore what it leads to, or remove the link") from error  # fmt: skip
    if not paths:
        raise InputError("the folder holds no HDF5 file", where=str(folder), hint="they are called *.hdf5 or *.h5")
    return [describe(path) for path in sorted(paths, key=_order)]


def _order(path: Path) -> list[tuple[str, int]]:
    parts = [*_NUMBERS.split(str(path)), "0"]
    return [(text, int(number)) for text, number in zip(parts[::2], parts[1::2], strict=True)]


def describe(path: Path) -> Hdf5File:
    """What a file holds, from its shapes alone. Raises InputError as ``find_files`` does."""
    with opened(path) as file:
        shapes = {}
        for key in KEYS:
            if key not in file:
                raise InputError(
                    f"{path.name!r} has no array {key!r}, only {', '.join(sorted(file)) or 'none'}", where=str(path),
                    hint=f"the six arrays are {', '.join(KEYS)}",
                )  # fmt: skip
            array = file[key]
            dimensions = 1 if key in PER_ROW else 2
            if getattr(array, "ndim", None) != dimensions or array.dtype.kind not in "iub":
                raise InputError(f"{key!r} of {path.name!r} is not an array of whole numbers with {dimensions} "
                                 f"dimension{'s' * (dimensions > 1)}", where=str(path))  # fmt: skip
            shapes[key] = array.shape
    for key, same in (*((key, "input_ids") for key in PER_TOKEN), ("masked_lm_ids", "masked_lm_positions")):
        if shapes[key] != shapes[same]:
            raise _shapes_differ(path, shapes, key, same)
    rows, tokens = shapes["input_ids"]
    for key in (*PER_PREDICTION, *PER_ROW):
        if shapes[key][0] != rows:
            raise _shapes_differ(path, shapes, key, "input_ids")
    if not 5 <= tokens < 1 << 16:
        raise InputError(f"the rows of {path.name!r} have {tokens:,} tokens, not 5 to 65535", where=str(path))
    return Hdf5File(path, rows, tokens, shapes["masked_lm_positions"][1])


def _shapes_differ(path: Path, shapes: Mapping[str, tuple[int, ...]], key: str, other: str) -> InputError:
    return InputError(
        f"the arrays of {path.name!r} do not match: {key} is {list(shapes[key])}, {other} is {list(shapes[other])}",
        where=str(path),
        hint="was the file written completely?",
    )


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file for reading; InputError if it is damaged, or if h5py is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise InputError("HDF5 files are read with the package h5py, which is not installed", where=str(path),
                         hint=install_hint("hdf5")) from error  # fmt: skip
    try:
        with h5py.File(path, "r", rdcc_nbytes=1 << 24) as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        hint = "is it a whole HDF5 file? copy it again, or leave it out"
        raise InputError(f"{path.name!r} cannot be read: {first_line(error)}", where=str(path), hint=hint) from error


def row_lengths(file: Hdf5File) -> Int64s:
    """Tokens of each row, [CLS] and [SEP] included: ``[rows]``."""
    with opened(file.path) as content:
        mask = content["input_mask"]
        parts = [np.count_nonzero(mask[start:stop], axis=1) for start, stop in _blocks(file, mask)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def read_rows(file: Hdf5File, first: int, last: int, vocabulary: Vocabulary) -> Iterator[BinRows]:
    """Rows ``first`` to ``last`` of a file, a block at a time, with their static masks.

    Raises:
        InputError: a row that is not [CLS] A [SEP] B [SEP] and padding, or whose masks are not in A or B; an id that
            the vocabulary does not have. Names file and row.
    """
    with opened(file.path) as content:
        for start, stop in _blocks(file, content["input_ids"], first, last):
            block = {key: content[key][start:stop] for key in KEYS}
            yield _to_rows(block, vocabulary, _Place(file.path, start))


def _blocks(file: Hdf5File, array: Any, first: int = 0, last: int | None = None) -> Iterator[tuple[int, int]]:
    """Runs of rows of about ``_CELLS`` tokens; whole chunks of the file where these are not larger."""
    step = max(1, _CELLS // max(1, file.tokens))
    chunk = array.chunks[0] if array.chunks else 1
    if chunk < step:
        step -= step % chunk
    end = file.rows if last is None else last
    for start in range(first - first % step, end, step):
        yield max(start, first), min(start + step, end)


@dataclass(frozen=True)
class _Place:
    """Where a block is: its file, and the number of its first row there."""

    path: Path
    first: int

    def refuse(self, wrong: NDArray[np.bool_], what: str, hint: str | None = None) -> None:
        """InputError that names the first row that is wrong, if one is: ``[rows]`` or ``[rows, ...]``."""
        rows = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))
        if len(rows):
            raise InputError(f"row {self.first + int(rows[0]):,} of {self.path.name!r} {what}", where=str(self.path),
                             hint=hint)  # fmt: skip


def _to_rows(block: Block, vocabulary: Vocabulary, place: _Place) -> BinRows:
    """A block's arrays as rows of A and B with static masks. Raises InputError as ``read_rows`` does."""
    ids, mask, segments = (block[key] for key in PER_TOKEN)
    labels = block["next_sentence_labels"]
    columns = np.arange(ids.shape[1])
    lengths = np.count_nonzero(mask, axis=1).astype(np.int64)
    b_tokens = np.count_nonzero(segments, axis=1).astype(np.int64)
    a_lengths = lengths - b_tokens - 2
    inside = columns < lengths[:, None]
    place.refuse(mask != inside, "has an input_mask that is not 1 for its tokens and then 0")
    place.refuse((a_lengths < 1) | (b_tokens < 2), "is not a pair: its segment_ids leave A or B without a token")
    place.refuse(segments != (inside & (columns >= (lengths - b_tokens)[:, None])),
                 "has segment_ids that are not 0 for [CLS] A [SEP], 1 for B [SEP] and 0 for padding")  # fmt: skip
    place.refuse((labels != 0) & (labels != 1), "has a next_sentence_label that is neither 0 nor 1")
    _check_ids(ids, inside, vocabulary, place)
    is_special = (columns == 0) | (columns == (a_lengths + 1)[:, None]) | (columns == (lengths - 1)[:, None])
    place.refuse(ids[:, 0] != vocabulary.cls_id, "does not begin with [CLS]", _OTHER_VOCABULARY)
    for last in (a_lengths + 1, lengths - 1):
        place.refuse(ids[np.arange(len(ids)), last] != vocabulary.sep_id,
                     "has a segment that does not end with [SEP]", _OTHER_VOCABULARY)  # fmt: skip
    return BinRows(
        ids=ids[inside & ~is_special].astype(ids_type(vocabulary.size)),
        lengths=lengths - 3,
        a_lengths=a_lengths,
        is_random_next=labels == 1,
        first=place.first,
        masks=_masks(block, a_lengths, lengths, vocabulary, place),
    )


_OTHER_VOCABULARY = "give the vocab.txt that the files were made with"


def _check_ids(ids: NDArray[Any], inside: NDArray[np.bool_], vocabulary: Vocabulary, place: _Place) -> None:
    outside = (ids < 0) | (ids >= vocabulary.size)
    if outside.any():
        place.refuse(outside, f"has the id {ids[outside][0]}, but the vocabulary has {vocabulary.size:,} tokens",
                     _OTHER_VOCABULARY)  # fmt: skip
    place.refuse(~inside & (ids != 0) & (ids != vocabulary.pad_id), "has ids that are not 0 after its tokens")


def _masks(block: Block, a_lengths: Int64s, lengths: Int64s, vocabulary: Vocabulary, place: _Place) -> Masks:
    positions, labels = (block[key].astype(np.int64) for key in PER_PREDICTION)
    counts = np.count_nonzero(positions, axis=1)
    used = np.arange(positions.shape[1]) < counts[:, None]
    place.refuse((positions != 0) != used, "has a masked position after a 0, which ends them")
    wrong = (positions < 0) | (positions >= lengths[:, None] - 1) | (positions == a_lengths[:, None] + 1)
    place.refuse(wrong & used, "masks a position that is not in A or B")
    place.refuse(used & ((labels < 0) | (labels >= vocabulary.size)),
                 f"has a masked_lm_id that the vocabulary of {vocabulary.size:,} tokens does not have",
                 _OTHER_VOCABULARY)  # fmt: skip
    order = np.argsort(np.where(used, positions, 1 << 32), axis=1, kind="stable")  # ascending: nearly always they are
    positions, labels = (np.take_along_axis(values, order, axis=1) for values in (positions, labels))
    place.refuse((np.diff(positions, axis=1) == 0) & used[:, 1:], "masks a position twice")
    return Masks(counts, positions[used].astype(np.uint16), labels[used].astype(ids_type(vocabulary.size)))
