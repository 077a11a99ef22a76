"""Which shards are checked, and what is known of them beforehand."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bertjobs.data.ragged import offsets_of
from bertjobs.data.shards.ids_shard import SPECIALS
from bertjobs.data.shards.manifest import MANIFEST_NAME, SPLITS, DataManifest, PhaseData, ShardFile
from bertjobs.data.shards.shard_set import ShardReader, shard_reader
from bertjobs.data.shards.source_counts import MUCH_UNKNOWN
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.errors import InputError
from bertjobs.files.arrays import map_arrays
from bertjobs.recipe.predictions import MASKED_SHARE
from bertjobs.slurm.shell import quote

_LONGEST = 1 << 16  # tokens, where nothing else is known


@dataclass(frozen=True)
class ShardToCheck:
    """A shard to check: where it is, its bin, what the manifest says of it, and its first row's number in the split."""

    path: Path
    bin: int
    entry: ShardFile | None
    first_row: int


@dataclass(frozen=True)
class Expected:
    """What is known of shards beforehand; 0, None or "" if it is not.

    Attributes:
        shard_format: "ids" or "lddl".
        masking: "dynamic" or "static".
        masked_share, max_predictions: of static masking, and what a run's dynamic masking is thought to have.
        next_sentence: whether rows are A and B, or A alone.
        duplicates: how often each document was drawn.
        most_unknown: share of the tokens that may be [UNK].
        balanced: the shards of a bin are to be equal within one, and no row is to be in both splits.
    """

    shard_format: str
    sequence_length: int = 0
    bin_size: int = 0
    bins: int = 0
    masking: str = ""
    next_sentence: bool | None = None
    masked_share: float = MASKED_SHARE
    max_predictions: int = _LONGEST
    duplicates: int = 0
    most_unknown: float = MUCH_UNKNOWN
    balanced: bool = False

    @property
    def longest(self) -> int:
        """The most tokens that a row may have."""
        return self.sequence_length or _LONGEST

    def reader(self, vocabulary: Vocabulary) -> ShardReader:
        """Reads one of the shards as training does; raises OSError and ValueError if that refuses it."""
        return shard_reader(self.shard_format, vocabulary, self.longest)


@dataclass(frozen=True)
class TargetPart:
    """Shards that are checked together: a split of a phase, or one file, whose ``split`` may be "" (unknown)."""

    name: str
    split: str
    shards: tuple[ShardToCheck, ...]
    expected: Expected


@dataclass(frozen=True)
class CheckTarget:
    """What is checked; ``data`` is None for a file that is not in a data folder.

    Attributes:
        metadata: what a single file of token ids says of itself.
    """

    data: DataManifest | None
    vocabulary: Vocabulary
    parts: tuple[TargetPart, ...]
    metadata: dict[str, str]


def find_target(
    path: Path, vocabulary: Path | None = None, phase: int | None = None, split: str | None = None
) -> CheckTarget:
    """What there is to check: all of a data folder, or a phase or split of it, or one file.

    Args:
        vocabulary: needed for a file that is not in a data folder; one in a folder is read with the folder's.

    Raises:
        InputError: there is no such folder, file or phase, or the vocabulary cannot be read or is missing.
    """
    if path.is_dir():
        _refuse_foreign_folder(path)
        data = DataManifest.read(path)
        phases = [data.phase(phase)] if phase is not None else [data.phases[number] for number in sorted(data.phases)]
        parts = tuple(_part(data, each, name) for each in phases for name in SPLITS if split in (None, name))
        return CheckTarget(data, Vocabulary.of_folder(path, data.lowercase), parts, {})
    if not path.is_file() and not path.is_symlink():
        raise InputError(f"{str(path)!r} does not exist", where="PATH", hint="give a data folder or one of its shards")
    folder = path.absolute().parent
    for root in folder.parents[:2]:
        if (root / MANIFEST_NAME).is_file():
            return _file_of_folder(path, DataManifest.read(root))
    if vocabulary is None:
        raise InputError(
            f"{str(path)!r} is not in a data folder", where="PATH", hint="name its vocabulary: --vocab FILE"
        )
    with path.open("rb") as file:
        expected = Expected("lddl" if file.read(4) == b"PAR1" else "ids")
    part = TargetPart(path.name, "", (ShardToCheck(path, bin_of_name(path.name), None, 0),), expected)
    return CheckTarget(None, Vocabulary.read(vocabulary), (part,), _metadata(path))


def bin_of_name(name: str) -> int:
    """The bin that a shard's name ends with; 0 where it names none."""
    suffix = re.search(r"\.(?:parquet|safetensors)_(\d+)$", name)
    return int(suffix[1]) if suffix else 0


def _refuse_foreign_folder(path: Path) -> None:
    if not (path / MANIFEST_NAME).exists() and any(path.glob("*.parquet*")):
        raise InputError(
            f"{str(path)!r} is not a data folder, but holds Parquet files",
            where="PATH",
            hint="give one of its files and --vocab FILE, or make it a data folder with `bertjobs data adopt`",
        )


def _file_of_folder(path: Path, data: DataManifest) -> CheckTarget:
    vocabulary = Vocabulary.of_folder(data.folder, data.lowercase)
    for phase in data.phases.values():
        for split in SPLITS:
            part = _part(data, phase, split)
            for shard in part.shards:
                if shard.path.name == path.name and shard.path.parent == path.absolute().parent:
                    one = replace(part, name=f"{part.name}, {path.name}", shards=(shard,))
                    return CheckTarget(data, vocabulary, (one,), _metadata(path))
    raise InputError(
        f"{path.name!r} is not in the manifest of its data folder", where=str(data.folder / MANIFEST_NAME),
        hint=f"bertjobs data verify {quote(str(data.folder))} lists such files",
    )  # fmt: skip


def _metadata(path: Path) -> dict[str, str]:
    try:
        return map_arrays(path)[1]
    except (OSError, ValueError):  # of the other format; or damaged, which its reader reports
        return {}


def _part(data: DataManifest, phase: PhaseData, split: str) -> TargetPart:
    settings, listed = data.settings, phase.split(split)
    adopted = "adopted_from" in settings
    bins = 1 + max(file.bin for each in SPLITS for file in phase.split(each).files)
    bin_size = settings.get("bin_size") or phase.sequence_length // bins
    expected = Expected(
        shard_format=data.shard_format,
        sequence_length=phase.sequence_length,
        bin_size=bin_size,
        bins=phase.sequence_length // bin_size,
        masking=data.masking,
        next_sentence=data.next_sentence,
        masked_share=settings.get("masked_share", MASKED_SHARE),
        max_predictions=phase.max_predictions,
        duplicates=0 if adopted else 1 if split == SPLITS[1] else settings["duplicates"],
        most_unknown=_most_unknown(data),
        balanced=not adopted,
    )
    first_rows = offsets_of(np.array([file.rows for file in listed.files])).tolist()
    shards = tuple(
        ShardToCheck(listed.folder.absolute() / file.name, file.bin, file, first)
        for file, first in zip(listed.files, first_rows, strict=False)
    )
    return TargetPart(f"phase {phase.phase} {split}", split, shards, expected)


def _most_unknown(data: DataManifest) -> float:
    """The share of [UNK] above which something is wrong: what the prepare accepted, or twice what it counted in the
    worst source where that is more, as a split is but a sample of the text."""
    accepted = data.limits.get("max_unknown_share", MUCH_UNKNOWN)
    return max([accepted, *(2 * counts.unknown_share for counts in data.sources if data.limits)])


def length_range(number: int, expected: Expected) -> tuple[int, int]:
    """The fewest and the most tokens of a row in a bin."""
    if not expected.bin_size or not expected.bins:
        return SPECIALS, expected.longest
    last = number == expected.bins - 1
    return max(SPECIALS, number * expected.bin_size + 1), expected.longest if last else (number + 1) * expected.bin_size
