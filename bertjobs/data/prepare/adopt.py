"""A data folder from what NVIDIA's LDDL wrote: its Parquet shards as they are, with a manifest beside them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertjobs.data.batches.sequences import ALIGNMENT
from bertjobs.data.check.lddl_cells import wrong_cells, wrong_columns
from bertjobs.data.check.verify import ROWS_NAME
from bertjobs.data.corpus.source import HDF5_SUFFIXES
from bertjobs.data.shards.manifest import FORMAT, SPLITS, VERSION, DataManifest, ShardFile
from bertjobs.data.shards.manifest_form import write_manifest
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.data.text.vocabulary_choice import NO_WISHES, Wishes, choose_vocabulary
from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import sha256_of, write_json
from bertjobs.files.faults import may_pass
from bertjobs.files.output_folder import check_output, output_folder
from bertjobs.files.reading import parse_json
from bertjobs.recipe.predictions import MASKED_SHARE, most_predictions

LINKS = ("symlink", "copy")
SAMPLE_ROWS = 1000  # of each file, whose tokens are looked up in the vocabulary

_NAME = re.compile(r"(?P<kind>shard-|part\.)(?P<number>\d+)\.parquet(?:_(?P<bin>\d+))?")

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and their total."""


@dataclass(frozen=True)
class LddlFile:
    """A Parquet file of LDDL's: its shard number, and its bin, 0 where it is not binned."""

    path: Path
    number: int
    bin: int


@dataclass(frozen=True)
class CountedFile:
    """What one of LDDL's files holds.

    Attributes:
        shortest, longest: tokens of a row; 0 where there is none.
        static: whether masks are stored; ``masks`` in all, ``most_masks`` in a row.
    """

    source: LddlFile
    file: ShardFile
    shortest: int
    longest: int
    static: bool
    masks: int
    most_masks: int


@dataclass(frozen=True)
class AdoptOptions:
    """What is adopted, and how.

    Attributes:
        phases: LDDL's output folder of each phase.
        vocabulary: the vocab.txt or tokenizer.json that LDDL's preprocessor was given.
        output: folder to make.
        held_out_shards: the last shards of each bin, which become the validation split.
        sequence_lengths: of a phase, where it is not to be inferred.
        wishes: what flags say of the vocabulary's text.
        link: "symlink" (the shards stay where they are) or "copy".
    """

    phases: Mapping[int, Path]
    vocabulary: Path
    output: Path
    held_out_shards: int = 1
    sequence_lengths: Mapping[int, int] | None = None
    wishes: Wishes = NO_WISHES
    link: str = "symlink"


def adopt(options: AdoptOptions, threads: int, progress: Progress) -> DataManifest:
    """Make a data folder of LDDL's shards. The shards are read, and not changed.

    Raises:
        InputError: an output that exists; a folder without LDDL's files, or with some of them missing; another
            schema; a vocabulary that does not fit; phases of different masking; too few shards to hold some out.
    """
    check_output(options.output)
    if options.held_out_shards < 1:
        raise InputError(f"{options.held_out_shards} is too small: at least 1", where="--held-out-shards")
    vocabulary = choose_vocabulary(options.vocabulary, options.wishes).vocabulary
    files_by_phase = {number: find_files(folder) for number, folder in sorted(options.phases.items())}
    counted = _count_all(files_by_phase, vocabulary, threads, progress)
    _check_masking(options, counted)
    entries = {}
    for number, files in counted.items():
        given = (options.sequence_lengths or {}).get(number)
        length = sequence_length(files, given, str(options.phases[number]), number)
        entries[number] = _entry(files, length, options.held_out_shards, str(options.phases[number]))
    everything = [file for files in counted.values() for file in files]
    _write(options, vocabulary, entries, everything)
    return DataManifest.read(options.output)


def find_files(folder: Path) -> list[LddlFile]:
    """LDDL's Parquet files in a folder, by bin and shard number: the balanced ones where there are both.

    Raises:
        InputError: there are none, or one of them is missing.
    """
    where = str(folder)
    if not folder.is_dir():
        raise InputError(f"folder {where!r} does not exist", where="--phase")
    matches = [(path, match) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    if not matches:
        if any(path.suffix.lower() in HDF5_SUFFIXES for path in folder.iterdir()):
            raise InputError("the folder holds HDF5 files, not LDDL's Parquet files", where=where,
                             hint="for those of NVIDIA's earlier scripts: --from hdf5")  # fmt: skip
        below = sorted({path.parent for path in folder.rglob("*.parquet*") if _NAME.fullmatch(path.name)})
        hint = f"there are some in {below[0]}" if below else "LDDL's are called shard-0.parquet_0 or part.0.parquet"
        raise InputError("the folder holds none of LDDL's Parquet files", where=where, hint=hint)
    kind = "shard-" if any(match["kind"] == "shard-" for _, match in matches) else "part."
    chosen = [(path, match) for path, match in matches if match["kind"] == kind]
    binned = {match["bin"] is not None for _, match in chosen}
    if len(binned) > 1:
        raise InputError("the folder holds files with length bins and files without", where=where,
                         hint="adopt them separately, each from its own folder")  # fmt: skip
    files = [LddlFile(path, int(match["number"]), int(match["bin"] or 0)) for path, match in chosen]
    have = {(file.bin, file.number) for file in files}
    bins, numbers = max(file.bin for file in files) + 1, max(file.number for file in files) + 1
    for place in np.ndindex(bins, numbers):
        if place not in have:
            name = f"{kind}{place[1]}.parquet" + (f"_{place[0]}" if binned == {True} else "")
            raise InputError(f"{name!r} is missing: there are {numbers} shards in {bins} bins", where=where,
                             hint="LDDL numbers all from 0; was its output copied completely?")  # fmt: skip
    return sorted(files, key=lambda file: (file.bin, file.number))


def sequence_length(files: Sequence[CountedFile], given: int | None, where: str, phase: int) -> int:
    """Tokens of a phase's longest sequence, from the tokens of the rows of each bin.

    It is the least multiple of 8 tokens per bin that puts all rows where they are: bin b of n holds rows of
    b * size + 1 to (b + 1) * size tokens.

    Raises:
        InputError: no length does, or the one that is given does not.
    """
    filled = [file for file in files if file.file.rows]
    bins = max(file.source.bin for file in files) + 1
    least = max((ceil(file.longest / (file.source.bin + 1)) for file in filled), default=0)
    most = min(((file.shortest - 1) // file.source.bin for file in filled if file.source.bin), default=1 << 16)
    if given is None:
        aligned = ceil(least / ALIGNMENT) * ALIGNMENT
        bin_size = aligned if aligned <= most else least
        hint = f"say how long its sequences are: --sequence-length {phase}=TOKENS"
    else:
        bin_size, hint = given // bins, "it is --target-seq-length of LDDL's preprocessor"
        least = max(least, ceil(max((file.longest for file in filled), default=0) / bins))
    if not least <= bin_size <= most or not bin_size or (given or 0) % bins:
        rows = f"{min(file.shortest for file in filled)} to {max(file.longest for file in filled)}" if filled else "no"
        raise InputError(
            f"{bins} length bins of {given or 'any'} tokens do not fit phase {phase}'s rows of {rows} tokens",
            where=where,
            hint=hint,
        )
    return given or bins * bin_size


def _count_all(
    files_by_phase: Mapping[int, Sequence[LddlFile]], vocabulary: Vocabulary, threads: int, progress: Progress
) -> dict[int, list[CountedFile]]:
    """Count all files, several at a time: Parquet, hashlib and reads let other threads run."""
    total, done = sum(file.path.stat().st_size for files in files_by_phase.values() for file in files), 0
    rows_files = {number: _read_rows(files[0].path.parent) for number, files in files_by_phase.items()}
    counted: dict[int, list[CountedFile]] = {number: [] for number in files_by_phase}
    progress(0, total)
    with ThreadPoolExecutor(max(1, threads), "adopt") as pool:
        order = [(number, file) for number, files in files_by_phase.items() for file in files]
        try:
            for (number, file), one in zip(
                order, pool.map(lambda each: count_file(each[1], vocabulary), order), strict=True
            ):
                _check_rows(one, rows_files[number].get(file.path.name))
                counted[number].append(one)
                done += one.file.bytes
                progress(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return counted


def count_file(source: LddlFile, vocabulary: Vocabulary) -> CountedFile:
    """Count a file's rows, tokens and masks, hash it, and compare some of its rows with the vocabulary.

    Raises:
        InputError: the file is damaged or has another schema, or a token is not in the vocabulary; says which.
    """
    try:
        with pq.ParquetFile(source.path, page_checksum_verification=True) as file:
            if wrong := wrong_columns(file.schema_arrow):
                raise InputError(f"{source.path.name!r} is not LDDL's: {wrong[0]}", where=str(source.path))
            _check_sample(source.path, file, vocabulary)
            static = "masked_lm_positions" in file.schema_arrow.names
            columns = ["num_tokens", *(("masked_lm_labels",) if static else ())]
            lengths, masks = [], []
            for batch in file.iter_batches(columns=columns):
                lengths.append(batch.column("num_tokens").to_numpy(zero_copy_only=False).astype(np.int64))
                if static:
                    masks.append(pc.add(pc.count_substring(batch.column("masked_lm_labels"), " "), 1).to_numpy())
    except (pa.ArrowException, OSError, ValueError) as error:
        kind = BertjobsError if isinstance(error, OSError) and may_pass(error) else InputError
        raise kind(f"{source.path.name!r} cannot be read: {error}", where=str(source.path)) from error
    tokens, places = _joined(lengths), _joined(masks)
    size, sha256 = source.path.stat().st_size, sha256_of(source.path)
    return CountedFile(
        source=source,
        file=ShardFile(source.path.name, source.bin, len(tokens), int(tokens.sum()), size, sha256),
        shortest=int(tokens.min(initial=1 << 16)) if len(tokens) else 0,
        longest=int(tokens.max(initial=0)),
        static=static,
        masks=int(places.sum()),
        most_masks=int(places.max(initial=0)),
    )


def _joined(parts: Sequence[Any]) -> Any:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _check_sample(path: Path, file: pq.ParquetFile, vocabulary: Vocabulary) -> None:
    batch = next(file.iter_batches(batch_size=SAMPLE_ROWS), None)
    if batch is None:
        return
    for wrong in wrong_cells(pa.Table.from_batches([batch]), vocabulary):
        cased = vocabulary.lowercase and any(letter.isupper() for token in wrong.unknown for letter in token)
        hint = "give the vocab.txt that LDDL's preprocessor was given"
        raise InputError(f"{path.name!r}: {wrong.words}", where=str(path),
                         hint=(f"{hint}, a cased one" if cased else hint) if wrong.unknown else None)  # fmt: skip


def _read_rows(folder: Path) -> dict[str, int]:
    """LDDL's file of row counts; {} if it is missing."""
    path = folder / ROWS_NAME
    hint = "remove it, if the shards are whole"
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{ROWS_NAME} is damaged: {error}", where=str(path), hint=hint) from error
    if not isinstance(content, dict) or not all(type(rows) is int for rows in content.values()):
        raise InputError(f"{ROWS_NAME} does not list the rows of each shard", where=str(path), hint=hint)
    return content


def _check_rows(counted: CountedFile, rows: int | None) -> None:
    if rows is not None and rows != counted.file.rows:
        raise InputError(
            f"{counted.file.name!r} has {counted.file.rows:,} rows, but {ROWS_NAME} says {rows:,}",
            where=str(counted.source.path),
            hint="the file was changed after LDDL's balancer; if it is right, remove that line",
        )


def _check_masking(options: AdoptOptions, counted: Mapping[int, Sequence[CountedFile]]) -> None:
    """InputError unless all files hold masks, or none."""
    files = [(number, file) for number, each in counted.items() for file in each]
    (first_phase, first), words = files[0], {True: "holds static masks", False: "holds none"}
    for number, file in files[1:]:
        if file.static != first.static:
            raise InputError(
                f"{first.file.name!r} of phase {first_phase} {words[first.static]}, {file.file.name!r} of phase "
                f"{number} {words[file.static]}",
                where=f"{options.phases[first_phase]} and {options.phases[number]}",
                hint="a data folder is for one kind of masking: adopt the phases into two folders",
            )


def _entry(files: Sequence[CountedFile], length: int, held_out: int, where: str) -> dict[str, Any]:
    """A phase's entry in the manifest."""
    shards = max(file.source.number for file in files) + 1
    if shards <= held_out:
        raise InputError(f"each length bin has {shards} shards, {held_out} of them cannot be held out", where=where,
                         hint="let LDDL's balancer make more: --num-shards")  # fmt: skip
    split = {
        name: [asdict(file.file) for file in files if (file.source.number >= shards - held_out) == (name == SPLITS[1])]
        for name in SPLITS
    }
    for name, listed in split.items():
        if not sum(file["rows"] for file in listed):
            raise InputError(f"the files for {name} hold no rows", where=where)
    masks = max(file.most_masks for file in files) if files[0].static else most_predictions(length, MASKED_SHARE)
    return {"sequence_length": length, "max_predictions": masks,
            **{name: {"files": listed} for name, listed in split.items()}}  # fmt: skip


def _write(
    options: AdoptOptions,
    vocabulary: Vocabulary,
    entries: Mapping[int, Mapping[str, Any]],
    files: Sequence[CountedFile],
) -> None:
    with output_folder(options.output) as folder:
        for number, entry in entries.items():
            for name in SPLITS:
                _place_shards(
                    folder / f"phase{number}" / name, entry[name]["files"], options.phases[number], options.link
                )
        vocabulary.write(folder)
        write_manifest(folder, _content(options, vocabulary, entries, files))


def _place_shards(folder: Path, files: Sequence[Mapping[str, Any]], source: Path, link: str) -> None:
    folder.mkdir(parents=True)
    for file in files:
        target, original = folder / file["name"], (source / file["name"]).resolve()
        if link == "symlink":
            target.symlink_to(original)
        else:
            shutil.copyfile(original, target)
    write_json(folder / ROWS_NAME, {file["name"]: file["rows"] for file in files})


def _content(
    options: AdoptOptions,
    vocabulary: Vocabulary,
    entries: Mapping[int, Mapping[str, Any]],
    files: Sequence[CountedFile],
) -> dict[str, Any]:
    """What MANIFEST.json holds."""
    static = files[0].static
    share = sum(file.masks for file in files) / sum(file.file.tokens for file in files)
    sizes = {entry["sequence_length"] // (1 + max(file["bin"] for file in entry["train"]["files"]))
             for entry in entries.values()}  # fmt: skip
    settings: dict[str, Any] = {
        "masking": "static" if static else "dynamic",
        "masked_share": round(share, 3) if static else MASKED_SHARE,
        "held_out_shards": options.held_out_shards,
        "balanced": all(file.file.name.startswith("shard-") for file in files),
        "adopted_from": [str(folder.absolute()) for _, folder in sorted(options.phases.items())],
    }
    if len(sizes) == 1:
        settings["bin_size"] = sizes.pop()
    return manifest_content("lddl", vocabulary, settings, entries)


def manifest_content(
    shard_format: str, vocabulary: Vocabulary, settings: Mapping[str, Any], phases: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """What MANIFEST.json of adopted data holds: of the documents nothing is known."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "shard_format": shard_format,
        "vocabulary": vocabulary.facts(),
        "settings": settings,
        "documents": {},
        "corpus": {},
        "held_out": [],
        "phases": phases,
        "plan": None,
    }
