"""MANIFEST.json of a data folder: what is in it and how it was made. Standard library only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.data.shards.duplicate_report import DuplicateReport
from bertjobs.data.shards.manifest_form import (
    FORMAT,
    MANIFEST_NAME,
    SHARD_FORMATS,
    SPLITS,
    TOKENS_FILE,
    VERSION,
    files_beside,
    has_hash,
    read_content,
)
from bertjobs.data.shards.source_counts import SourceCounts, sources_of
from bertjobs.errors import InputError
from bertjobs.files.reading import DamagedFileError, read_bytes
from bertjobs.slurm.shell import quote

if TYPE_CHECKING:
    from bertjobs.recipe.spec import RunSpec

__all__ = ["FORMAT", "MANIFEST_NAME", "SHARD_FORMATS", "SPLITS", "VERSION", "WORK_FOLDER", "DataManifest", "PhaseData",
           "ShardFile", "Split", "vocabulary_sha256"]  # fmt: skip

WORK_FOLDER = ".prepare"
"""In a data folder in the making: what the prepare has done so far."""

_AGAIN = "run `bertjobs data prepare` again, into a new folder"


@dataclass(frozen=True)
class ShardFile:
    """One file of a split: its name, length bin, rows, tokens ([CLS] and [SEP] included), bytes and sha256 (hex)."""

    name: str
    bin: int
    rows: int
    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """The shards of one split of a phase.

    Attributes:
        folder: the folder that holds the files.
        files: ordered by bin, then by shard number.
        pairs: what was counted when its pairs were drawn, see ``prepare.pair_counts``; empty in older folders and in
            adopted ones.
    """

    folder: Path
    files: tuple[ShardFile, ...]
    pairs: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of sequences."""
        return sum(file.rows for file in self.files)

    @property
    def tokens(self) -> int:
        """Tokens in all rows, [CLS] and [SEP] included."""
        return sum(file.tokens for file in self.files)


@dataclass(frozen=True)
class PhaseData:
    """One phase's data.

    Attributes:
        sequence_length: tokens in the longest sequence.
        max_predictions: the most masked tokens per sequence, where the masks are static.
    """

    phase: int
    sequence_length: int
    max_predictions: int
    train: Split
    validation: Split

    def split(self, name: str) -> Split:
        """The split "train" or "validation"; KeyError for another name."""
        return {"train": self.train, "validation": self.validation}[name]


@dataclass(frozen=True)
class DataManifest:
    """A data folder made by ``bertjobs data prepare``.

    Attributes:
        sha256: of MANIFEST.json's bytes, 64 hex digits: the name of this data in checkpoints.
        shard_format: "ids" (token ids in safetensors files) or "lddl" (strings in Parquet).
        vocabulary_sha256: of vocab.txt's bytes, 64 hex digits.
        vocabulary_size: tokens.
        masking: "dynamic" (none stored) or "static" (stored in the shards).
        settings: all settings it was made with, by name.
        documents: number of documents by split.
        corpus: what was counted in the corpus: bytes, tokens, documents left out, characters replaced or removed.
        held_out: ids of the validation documents, the first thousand of them.
        plan: what `prepare` planned; None where the data was adopted.
        has_hash: whether the manifest ends with a hash of itself, as all do but those of older versions.
        files_beside: sha256 of each other file at the folder's top, by name; None where an older version does not say.
        odd_files: how much of a file of the corpus was not text, of the hundred worst ones.
        files_without_id: how many lines of a file of LDDL's source have no id, of the hundred worst ones.
        unread_files: some of the files of the corpus's folders that were not read; ``corpus`` has their number.
        sources: what was counted in each source; none where an older version prepared them, or they were adopted.
        duplicates: how many documents repeat an earlier one; None as for ``sources``.
        next_sentence: whether the sequences are next-sentence pairs, or contiguous text.
        limits: shares that the text was accepted by, such as ``max_unknown_share``; none where an older version
            prepared it, or it was adopted.
    """

    folder: Path
    sha256: str
    shard_format: str
    vocabulary_sha256: str
    vocabulary_size: int
    lowercase: bool
    masking: str
    settings: dict[str, Any]
    documents: dict[str, int]
    corpus: dict[str, int]
    held_out: tuple[str, ...]
    phases: dict[int, PhaseData]
    plan: dict[str, Any] | None
    has_hash: bool
    files_beside: dict[str, str] | None
    odd_files: dict[str, int] = field(default_factory=dict)
    files_without_id: dict[str, int] = field(default_factory=dict)
    unread_files: tuple[str, ...] = ()
    sources: tuple[SourceCounts, ...] = ()
    duplicates: DuplicateReport | None = None
    next_sentence: bool = True
    limits: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path | str) -> DataManifest:
        """Read a data folder's manifest.

        Raises:
            InputError: the folder is missing, closed to this user, empty, half-written, or of another format.
        """
        folder = Path(folder)
        where = str(folder)
        try:
            names = {path.name for path in folder.iterdir()}
        except NotADirectoryError:
            raise InputError(
                "this is a file, not a data folder",
                where=where,
                hint="give the folder that `bertjobs data prepare` or `bertjobs data adopt` has made",
            ) from None
        except FileNotFoundError:
            raise InputError(
                f"data folder {where!r} does not exist",
                where="data (DATADIR)",
                hint=f"make it with `bertjobs data prepare --corpus text:DIR --vocab FILE --output {quote(where)}`",
            ) from None
        except OSError as error:
            raise InputError(f"the data folder cannot be read: {error.strerror}", where=where) from error
        if not names:
            raise InputError("the data folder is empty", where=where, hint=_AGAIN)
        path = folder / MANIFEST_NAME
        if MANIFEST_NAME not in names:
            raise _no_manifest(names, folder)
        try:
            return _parse(read_bytes(path) or b"", folder)
        except (DamagedFileError, ValueError) as error:
            what = error.what if isinstance(error, DamagedFileError) else str(error)
            raise InputError(
                f"the manifest is damaged or of another format ({what})",
                where=str(path),
                hint=_AGAIN,
            ) from error

    @property
    def vocabulary_path(self) -> Path:
        """The vocab.txt that the shards were made with."""
        return self.folder / TOKENS_FILE

    def phase(self, number: int) -> PhaseData:
        """The data of a phase; InputError if the folder has none."""
        if number not in self.phases:
            have = ", ".join(str(phase) for phase in sorted(self.phases))
            raise InputError(
                f"the data folder has no phase {number}",
                where=str(self.folder),
                hint=f"it holds phase {have}; make it again with --phases {have},{number}",
            )
        return self.phases[number]

    def training_sequences(self, number: int) -> int:
        """Sequences in one epoch of a phase."""
        return self.phase(number).train.rows

    def check(self, spec: RunSpec) -> None:
        """Everything that a run's phases need of the data.

        Raises:
            InputError: another vocabulary or masking than the run's, no pairs where it needs some, a phase that is
                missing, a shard that is missing or of another size unless the run skips those, a model with fewer
                tokens than the vocabulary.
        """
        self.check_vocabulary(spec.vocabulary)
        self.check_masking(spec.masking)
        self.check_next_sentence(spec.next_sentence)
        for phase in spec.phases:
            self.phase(phase.phase)
            if spec.on_bad_shard == "stop":
                self.check_files(phase.phase)
        self.check_vocabulary_file()
        if spec.model.vocab_size and spec.model.vocab_size < self.vocabulary_size:
            raise InputError(
                f"model {spec.model.name} has {spec.model.vocab_size} tokens, but the data's vocabulary has "
                f"{self.vocabulary_size}",
                where=str(self.vocabulary_path),
                hint="leave vocab_size out of the model: the vocabulary decides it",
            )

    def check_weights(self, folder: Path) -> None:
        """InputError if a model folder's vocab.txt is not the data's: token ids mean nothing under another
        vocabulary, of the same size or not."""
        path = folder / "vocab.txt"
        if path.is_file() and vocabulary_sha256(path) != self.vocabulary_sha256:
            raise InputError(
                "the weights were trained with another vocabulary than the data's",
                where=f"{path} and {self.vocabulary_path}",
                hint="prepare the data with the vocab.txt of the weights, or choose other weights",
            )

    def sized(self, spec: RunSpec) -> RunSpec:
        """The run with its vocabulary's size, where its model leaves that to the data."""
        model = replace(spec.model, vocab_size=spec.model.vocab_size or self.vocabulary_size)
        return replace(spec, model=model)

    def check_files(self, number: int) -> None:
        """InputError that names the first listed file of a phase that is missing or of another size."""
        phase = self.phase(number)
        expected = [(split.folder / file.name, file.bytes) for split in (phase.train, phase.validation)
                    for file in split.files]  # fmt: skip
        for path, size in expected:
            if not path.is_file():
                raise InputError(f"shard {path.name!r} is missing", where=str(path), hint=_AGAIN)
            if path.stat().st_size != size:
                raise InputError(
                    f"shard {path.name!r} has {path.stat().st_size} bytes, the manifest says {size}",
                    where=str(path),
                    hint=f"it was cut off or changed: {_AGAIN}",
                )
        self.check_vocabulary_file()

    def check_vocabulary_file(self) -> None:
        """InputError if vocab.txt or a file beside it, such as tokenizer.json, is not the one of the shards."""
        for name, sha256 in {TOKENS_FILE: self.vocabulary_sha256, **(self.files_beside or {})}.items():
            if vocabulary_sha256(self.folder / name) != sha256:
                raise InputError(f"{name} was changed", where=str(self.folder / name), hint=_AGAIN)

    def check_vocabulary(self, sha256: str) -> None:
        """InputError unless the shards were made with the vocabulary of this sha256 ("": any)."""
        if sha256 and sha256 != self.vocabulary_sha256:
            raise InputError(
                f"the shards were made with another vocabulary ({self.vocabulary_sha256[:12]}...) "
                f"than the recipe's ({sha256[:12]}...)",
                where=str(self.vocabulary_path),
                hint="prepare the data with the recipe's vocabulary, or accept any: VOCABULARY=any in the environment "
                "(with sbatch), --set vocabulary=any (with bertjobs), or vocabulary: any in a recipe of your own",
            )

    def check_masking(self, masking: str) -> None:
        """InputError unless the shards hold what this masking ("dynamic" or "static") needs."""
        if masking != self.masking:
            raise InputError(
                f"masking is {masking}, but the shards were made for {self.masking} masking",
                where=str(self.folder),
                hint=f"set MASKING={self.masking}, or prepare the data with --masking {masking}",
            )

    def check_next_sentence(self, wanted: bool) -> None:
        """InputError unless the shards hold next-sentence pairs, if those are ``wanted``. Otherwise pairs will do as
        well: their labels are ignored."""
        if wanted and not self.next_sentence:
            raise InputError(
                "the run predicts next sentences, but the shards were made without next-sentence pairs",
                where=str(self.folder),
                hint="train on masked words alone: --set next_sentence=false, or next_sentence: false in a recipe of "
                "your own; or prepare the data without --no-next-sentence",
            )


def _no_manifest(names: set[str], folder: Path) -> InputError:
    """The error for a folder of these files, which has no manifest."""
    where = str(folder)
    resumes = WORK_FOLDER in names
    if resumes or any(name.startswith("phase") for name in names):
        hint = "run the same `bertjobs data prepare` again: it resumes where it stopped" if resumes else _AGAIN
        return InputError(f"the data folder has no {MANIFEST_NAME}: it is half-written", where=where, hint=hint)
    hint = "name the folder that `bertjobs data prepare --output` or `bertjobs data adopt --output` made"
    if any(".parquet" in name for name in names):
        hint = f"for LDDL's Parquet shards: bertjobs data adopt --phase N={quote(where)} --vocab FILE --output DIR"
    elif any(name.lower().endswith((".h5", ".hdf5")) for name in names):
        hint = f"for HDF5 files of NVIDIA's scripts: bertjobs data adopt --from hdf5 {quote(where)}"
        hint += " --vocab FILE --output DIR"
    elif any(".tfrecord" in name for name in names):
        hint = "TFRecord files are not read here: prepare the text that they were made from"
    return InputError(f"it is not a data folder: it has no {MANIFEST_NAME}", where=where, hint=hint)


def vocabulary_sha256(path: Path | str) -> str:
    """sha256 (64 hex digits) of a vocab.txt's bytes; InputError if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read the vocabulary: {error.strerror}", where=str(path)) from error


def _parse(raw: bytes, folder: Path) -> DataManifest:
    content = read_content(raw)
    vocabulary = content["vocabulary"]
    return DataManifest(
        folder=folder,
        sha256=hashlib.sha256(raw).hexdigest(),
        shard_format=content["shard_format"],
        vocabulary_sha256=vocabulary["sha256"],
        vocabulary_size=vocabulary["size"],
        lowercase=vocabulary["lowercase"],
        masking=content["settings"]["masking"],
        settings=content["settings"],
        documents=content["documents"],
        corpus=content["corpus"],
        held_out=tuple(content["held_out"]),
        phases={int(number): _parse_phase(int(number), entry, folder / f"phase{number}")
                for number, entry in content["phases"].items()},
        plan=content["plan"],
        has_hash=has_hash(content),
        files_beside=files_beside(content),
        odd_files=content.get("odd_files", {}),
        files_without_id=content.get("files_without_id", {}),
        unread_files=tuple(content.get("unread_files", ())),
        sources=sources_of(content.get("sources", [])),
        duplicates=DuplicateReport.from_json(content["duplicates"]) if "duplicates" in content else None,
        next_sentence=content["settings"].get("next_sentence", True),
        limits=content.get("limits", {}),
    )  # fmt: skip


def _parse_phase(number: int, entry: Any, folder: Path) -> PhaseData:
    of_file = [column.name for column in fields(ShardFile)]

    def split(name: str) -> Split:
        files = tuple(ShardFile(**{column: file[column] for column in of_file}) for file in entry[name]["files"])
        return Split(folder / name, files, entry[name].get("pairs", {}))

    return PhaseData(number, entry["sequence_length"], entry["max_predictions"], split("train"), split("validation"))
