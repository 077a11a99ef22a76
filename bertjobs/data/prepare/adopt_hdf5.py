"""A data folder from the HDF5 files of NVIDIA's earlier scripts: rows become shards of token ids with static masks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.prepare.adopt import Progress, manifest_content
from bertjobs.data.prepare.hdf5_rows import Hdf5File, find_files, read_rows, row_lengths
from bertjobs.data.prepare.shard_files import BinRows, IdsWriter, Masks, new_ids_shard
from bertjobs.data.prepare.work_folder import shards_for
from bertjobs.data.ragged import gather, offsets_of
from bertjobs.data.shards.bins import bin_ids, rows_per_shard
from bertjobs.data.shards.ids_shard import ids_type
from bertjobs.data.shards.manifest import SPLITS, DataManifest, ShardFile
from bertjobs.data.shards.manifest_form import write_manifest
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.data.text.vocabulary_choice import NO_WISHES, Wishes, choose_vocabulary
from bertjobs.errors import InputError
from bertjobs.files.output_folder import check_output, output_folder

Int64s = NDArray[np.int64]
BIN_SIZE = 64
_HELD_OUT_ROWS = 0.05  # of a single file
_HELD_OUT_NAME = re.compile(r"(?:^|[/_.-])(?:test|val|valid|validation|dev|eval)(?:$|[/_.-])", re.IGNORECASE)


@dataclass(frozen=True)
class Hdf5Options:
    """What is adopted, and how.

    Attributes:
        phases: the folder of each phase.
        vocabulary: the vocab.txt that the files were made with.
        output: folder to make.
        held_out_files: the last files, which become the validation split unless files are named as test files.
        wishes: what flags say of the vocabulary's text.
    """

    phases: Mapping[int, Path]
    vocabulary: Path
    output: Path
    held_out_files: int = 1
    wishes: Wishes = NO_WISHES


@dataclass(frozen=True)
class _Stretch:
    """Some rows of a file."""

    file: Hdf5File
    first: int
    last: int


def adopt_hdf5(options: Hdf5Options, progress: Progress) -> DataManifest:
    """Make a data folder of HDF5 files, which are read, a block of rows at a time, and not changed.

    Raises:
        InputError: an output that exists; a folder without such files; a damaged file or an impossible row, which it
            names; a vocabulary that does not fit; too few files to hold some out.
    """
    check_output(options.output)
    vocabulary = choose_vocabulary(options.vocabulary, options.wishes).vocabulary
    files = {number: find_files(folder) for number, folder in sorted(options.phases.items())}
    splits = {number: split_files(listed, options.held_out_files, options.phases[number])
              for number, listed in files.items()}  # fmt: skip
    reading = _Reading(2 * sum(file.path.stat().st_size for listed in files.values() for file in listed), progress)
    with output_folder(options.output) as folder:
        made = {}
        for number, listed in files.items():
            length = max(file.tokens for file in listed)
            for name, stretches in splits[number].items():
                target = folder / f"phase{number}" / name
                made[number, name] = _write_split(target, stretches, length, vocabulary, reading)
                if not made[number, name].files:
                    raise InputError(f"the files for {name} hold no rows", where=str(options.phases[number]))
        vocabulary.write(folder)
        write_manifest(folder, _content(options, vocabulary, files, splits, made))
    return DataManifest.read(options.output)


def split_files(files: Sequence[Hdf5File], held_out: int, where: Path) -> dict[str, list[_Stretch]]:
    """Which rows are of which split: files named as test files are held out, else the last ``held_out``, else, of one
    file, its last rows.

    Raises:
        InputError: no file or no row would be left for training.
    """
    named = [file for file in files if _HELD_OUT_NAME.search(_below(file.path, where))]
    if not named and len(files) == 1 and files[0].rows > 1:
        file = files[0]
        middle = file.rows - max(1, round(file.rows * _HELD_OUT_ROWS))
        return {"train": [_Stretch(file, 0, middle)], "validation": [_Stretch(file, middle, file.rows)]}
    if held_out < 1:
        raise InputError(f"{held_out} is too small: at least 1", where="--held-out-shards")
    validation = named or files[-held_out:]
    train = [file for file in files if file not in set(validation)]
    if not train:
        raise InputError(f"none of the {len(files)} HDF5 files would be left for training", where=str(where),
                         hint="hold out fewer: --held-out-shards, or give another folder")  # fmt: skip
    return {"train": [_Stretch(file, 0, file.rows) for file in train],
            "validation": [_Stretch(file, 0, file.rows) for file in validation]}  # fmt: skip


def _below(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path != folder else path.name


@dataclass(frozen=True)
class _Made:
    """The shards of a split, and how many masks they hold."""

    files: tuple[ShardFile, ...]
    masks: int


class _Reading:
    """Adds up what has been read, in bytes of the files; each is read twice."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._progress, self._done = total, progress, 0.0
        progress(0, total)

    def read(self, file: Hdf5File, rows: int) -> None:
        """Count some rows of a file."""
        self._done += file.path.stat().st_size * rows / max(1, file.rows)
        self._progress(min(self._total, round(self._done)), self._total)


def _bin_size(sequence_length: int) -> int:
    return BIN_SIZE if sequence_length % BIN_SIZE == 0 else sequence_length


def _write_split(
    folder: Path, stretches: Sequence[_Stretch], sequence_length: int, vocabulary: Vocabulary, reading: _Reading
) -> _Made:
    """Read the lengths of all rows, then all rows, and write them into the shards of their bins, in their order."""
    size = _bin_size(sequence_length)
    bins = sequence_length // size
    counts, tokens, masks = np.zeros(bins, dtype=np.int64), 0, 0
    for one in stretches:
        lengths = row_lengths(one.file)[one.first : one.last]
        counts += np.bincount(bin_ids(lengths, size, sequence_length), minlength=bins)
        tokens += int(lengths.sum())
        reading.read(one.file, one.last - one.first)
    size_of_ids = tokens * np.dtype(ids_type(vocabulary.size)).itemsize
    shards = shards_for(size_of_ids / bins)
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        writers = [_BinWriter(folder, number, rows_per_shard(count, shards, leave_one=False), vocabulary)
                   for number, count in enumerate(counts.tolist())]  # fmt: skip
        for writer in writers:
            stack.enter_context(writer)
        for one in stretches:
            for rows in read_rows(one.file, one.first, one.last, vocabulary):
                bin_of = bin_ids(rows.num_tokens, size, sequence_length)
                for number in np.unique(bin_of).tolist():
                    writers[number].append(_take(rows, np.flatnonzero(bin_of == number)))
                masks += len(rows.masks.positions) if rows.masks else 0
                reading.read(one.file, len(rows.lengths))
    return _Made(tuple(file for writer in writers for file in writer.files), masks)


class _BinWriter:
    """Writes a bin's rows into its shards, one after the other; ``room``: the rows of each."""

    def __init__(self, folder: Path, number: int, room: Sequence[int], vocabulary: Vocabulary) -> None:
        self.files: list[ShardFile] = []
        self._folder, self._number, self._vocabulary = folder, number, vocabulary
        self._room = list(room)
        self._stack = ExitStack()
        self._shard: IdsWriter | None = None
        self._rows = self._tokens = 0

    def __enter__(self) -> _BinWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def append(self, rows: BinRows) -> None:
        """Add rows."""
        first = 0
        while first < len(rows.lengths):
            shard = self._shard or self._begin()
            last = min(len(rows.lengths), first + self._room[len(self.files)] - self._rows)
            part = _take(rows, np.arange(first, last))
            shard.append(part)
            self._rows += last - first
            self._tokens += int(part.num_tokens.sum())
            first = last
            if self._rows == self._room[len(self.files)]:
                self._finish(shard)

    def _begin(self) -> IdsWriter:
        path = self._folder / f"shard-{len(self.files)}.safetensors_{self._number}"
        new = new_ids_shard(path, self._vocabulary, True, {"adopted_form": "hdf5"})
        self._shard = self._stack.enter_context(new)
        return self._shard

    def _finish(self, shard: IdsWriter) -> None:
        self._stack.close()
        self.files.append(ShardFile(shard.path.name, self._number, self._rows, self._tokens, shard.bytes, shard.sha256))
        self._shard, self._rows, self._tokens = None, 0, 0


def _take(rows: BinRows, places: Int64s) -> BinRows:
    """Some of the rows."""
    if len(places) == len(rows.lengths):
        return rows
    masks = rows.masks
    if masks is not None:
        starts, counts = offsets_of(masks.counts)[places], masks.counts[places]
        masks = Masks(counts, gather(masks.positions, starts, counts), gather(masks.labels, starts, counts))
    return replace(
        rows,
        ids=gather(rows.ids, offsets_of(rows.lengths)[places], rows.lengths[places]),
        lengths=rows.lengths[places],
        a_lengths=rows.a_lengths[places],
        is_random_next=rows.is_random_next[places],
        masks=masks,
    )


def _content(
    options: Hdf5Options,
    vocabulary: Vocabulary,
    files: Mapping[int, Sequence[Hdf5File]],
    splits: Mapping[int, Mapping[str, Sequence[_Stretch]]],
    made: Mapping[tuple[int, str], _Made],
) -> dict[str, Any]:
    """What MANIFEST.json holds."""
    lengths = {number: max(file.tokens for file in listed) for number, listed in files.items()}
    tokens = sum(file.tokens for one in made.values() for file in one.files)
    settings: dict[str, Any] = {
        "masking": "static",
        "masked_share": round(sum(one.masks for one in made.values()) / tokens, 3),
        "adopted_form": "hdf5",
        "adopted_from": [str(folder.absolute()) for _, folder in sorted(options.phases.items())],
        "held_out_files": [str(one.file.path) for split in splits.values() for one in split[SPLITS[1]]],
    }
    if len(sizes := {_bin_size(length) for length in lengths.values()}) == 1:
        settings["bin_size"] = sizes.pop()
    phases = {
        number: {
            "sequence_length": lengths[number],
            "max_predictions": max(file.predictions for file in listed),
            **{name: {"files": [asdict(file) for file in made[number, name].files]} for name in SPLITS},
        }
        for number, listed in files.items()
    }
    return manifest_content("ids", vocabulary, settings, phases)
