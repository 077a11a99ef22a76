"""Whether a phase's shards are those that the manifest lists, the work shared among ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertjobs.data.shards.manifest import PhaseData, ShardFile
from bertjobs.errors import InputError
from bertjobs.files.atomic import sha256_of
from bertjobs.run.causes import Cause

SumOverRanks = Callable[..., list[int]]
"""Takes integers and returns each one's sum over all ranks; a rank waits in it for the others."""


@dataclass(frozen=True)
class PhaseShard:
    """One file of a phase: "train" or "validation", where it is, and what the manifest says of it."""

    split: str
    path: Path
    file: ShardFile

    @property
    def name(self) -> str:
        """The file's name below the phase's folder."""
        return f"{self.split}/{self.file.name}"


def shards_of(phase: PhaseData) -> list[PhaseShard]:
    """All files of a phase, in the manifest's order."""
    return [
        PhaseShard(split, phase.split(split).folder / file.name, file)
        for split in ("train", "validation")
        for file in phase.split(split).files
    ]


def damage(shard: PhaseShard) -> str | None:
    """What is wrong with a file, and what was expected; None if its bytes are those that the manifest lists."""
    expected = shard.file
    try:
        size = shard.path.stat().st_size
        if size != expected.bytes:
            return f"has {size:,} bytes, the manifest says {expected.bytes:,}"
        sha256 = sha256_of(shard.path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if sha256 != expected.sha256:
        return f"was altered: its sha256 is {sha256[:12]}..., the manifest says {expected.sha256[:12]}..."
    return None


def bad_shards(shards: Sequence[PhaseShard], rank: int, world_size: int, total: SumOverRanks) -> list[PhaseShard]:
    """The damaged ones among ``shards``; all ranks call it and get the same list.

    Each rank hashes every ``world_size``-th file. The ranks wait for each other after each file, so that none
    waits longer than one file takes.
    """
    return shared_out(shards, rank, world_size, total, lambda shard: damage(shard) is not None)


def shared_out(
    shards: Sequence[PhaseShard], worker: int, workers: int, total: SumOverRanks, is_bad: Callable[[PhaseShard], bool]
) -> list[PhaseShard]:
    """The shards that are bad on any rank; worker w asks ``is_bad`` about every ``workers``-th from the w-th on."""
    bad = []
    for first in range(0, len(shards), workers):
        these = shards[first : first + workers]
        flags = [int(number == worker and is_bad(shard)) for number, shard in enumerate(these)]
        bad += [shard for shard, count in zip(these, total(*flags), strict=True) if count]
    return bad


def described(bad: PhaseShard) -> str:
    """A damaged shard's name, what is wrong with it and what was expected."""
    return f"shard {bad.name} {damage(bad) or 'is damaged, another node reports'}"


def refusal(bad: Sequence[PhaseShard]) -> InputError:
    """The error that names damaged shards, the first of them with what was expected."""
    more = f" ({len(bad) - 1} more shards are damaged too)" if len(bad) > 1 else ""
    return InputError(
        described(bad[0]) + more,
        where=str(bad[0].path),
        hint="restore it from a copy, prepare the data again into a new folder, or set on_bad_shard=skip",
        cause=Cause.DAMAGED_SHARD,
    )
