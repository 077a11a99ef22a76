"""A copy of a phase's shards on each node: FOLDER/<manifest sha256>/phaseN/{train,validation}/.

Each file is complete or absent. Shards of ids are copied and verified; LDDL's are decoded once and kept as shards
of ids. What is complete is used again by later runs; removing old copies is left to the folder's owner.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bertjobs.data.shards.manifest import DataManifest, ShardFile, Split
from bertjobs.data.shards.shard_check import PhaseShard, SumOverRanks, damage, shards_of, shared_out
from bertjobs.data.shards.shard_set import ShardReader, shard_reader
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.files.arrays import map_arrays, write_arrays
from bertjobs.files.atomic import PRIVATE_FOLDER, new_file, remove_leftovers

_BLOCK = 1 << 22  # bytes copied at a time
_SOURCE = "source_sha256"  # in a decoded shard's metadata


@dataclass(frozen=True)
class NodeCopy:
    """How a copy turned out, as one rank sees it.

    Attributes:
        data: the manifest to read from: with the node's folders, or the shared ones where the node has no
            complete copy. The sizes and hashes in it are those of the shared files.
        bad: shared shards that any node reported as damaged; the same on all ranks.
        everywhere: whether all nodes have a complete copy, so that no shared file is read any more.
        reason: why this node has none, or "".
    """

    data: DataManifest
    bad: list[PhaseShard]
    everywhere: bool
    reason: str = ""


def copy_to_node(
    data: DataManifest, phase: int, folder: Path, *, local_rank: int, local_size: int, world_size: int,
    total: SumOverRanks,
) -> NodeCopy:  # fmt: skip
    """Copy a phase's shards to this node, its ranks sharing the work; all ranks of all nodes call it together.

    A node without room, or whose folder cannot be written, continues without a copy and says why.
    """
    copier = _Copier(data, phase, folder / data.sha256[:16] / f"phase{phase}")
    shards = shards_of(data.phase(phase))
    if local_rank == 0:
        copier.open()
    total(0)  # all have seen the same free room before any of it is taken
    copier.check_room(shards)
    total(0)
    bad = shared_out(shards, local_rank, local_size, total, lambda shard: not copier.has(shard))
    reason = copier.reason
    missing = [shard for shard in shards if shard not in bad and not copier.target(shard).is_file()]
    if missing and not reason:
        reason = f"{missing[0].name} could not be copied"
    everywhere = total(int(not reason))[0] == world_size
    return NodeCopy(data if reason else copier.local_manifest(), bad, everywhere, reason)


class _Copier:
    """Copies files into ``root``; after the first that cannot be written it copies no more and has a ``reason``."""

    def __init__(self, data: DataManifest, phase: int, root: Path) -> None:
        self.reason = ""
        self._data, self._phase, self._root = data, data.phase(phase), root
        self._decodes = data.shard_format == "lddl"
        self._reader: ShardReader | None = None

    def target(self, shard: PhaseShard) -> Path:
        """Where the copy of a shard is."""
        return self._root / shard.split / self._local_name(shard.file)

    def open(self) -> None:
        """Make the folders, and clear away what a killed copy left."""
        try:
            for folder in (self._root.parent.parent, self._root.parent, self._root):
                folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            for split in ("train", "validation"):
                (self._root / split).mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
                remove_leftovers(self._root / split)
        except OSError as error:
            self.reason = f"{error.filename}: {error.strerror}"

    def check_room(self, shards: Sequence[PhaseShard]) -> None:
        """Set ``reason`` where what is missing does not fit, or the folder is not ours alone to write."""
        try:
            if self._root.parent.stat().st_uid != os.getuid():
                self.reason = f"{self._root.parent} belongs to another user"
                return
            needed = sum(self._size(shard.file) for shard in shards if not self.target(shard).is_file())
            free = shutil.disk_usage(self._root).free
        except OSError as error:
            self.reason = f"{error.filename}: {error.strerror}"
            return
        if needed > free:
            self.reason = f"{needed / 1e9:.1f} GB are needed in {self._root}, but only {free / 1e9:.1f} GB are free"

    def has(self, shard: PhaseShard) -> bool:
        """Copy a shard unless it is there already; False if the shared file is damaged."""
        if self.reason:
            return True  # the later check of the shared files tells
        try:
            return self._decode(shard) if self._decodes else self._copy(shard)
        except OSError as error:
            self.reason = f"{error.filename or self._root}: {error.strerror}"
            return True

    def local_manifest(self) -> DataManifest:
        """The manifest with this node's folders."""
        phase = self._phase
        local = replace(phase, train=self._local_split("train"), validation=self._local_split("validation"))
        return replace(self._data, shard_format="ids", phases={**self._data.phases, phase.phase: local})

    def _local_split(self, name: str) -> Split:
        files = tuple(replace(file, name=self._local_name(file)) for file in self._phase.split(name).files)
        return Split(self._root / name, files)

    def _local_name(self, file: ShardFile) -> str:
        return file.name.replace(".parquet", ".safetensors") if self._decodes else file.name

    def _size(self, file: ShardFile) -> int:
        """Bytes of the copy; where it is decoded an estimate: ids of two bytes, 15% of them masked, and offsets."""
        return 3 * file.tokens + 20 * file.rows if self._decodes else file.bytes

    def _copy(self, shard: PhaseShard) -> bool:
        target = self.target(shard)
        if target.is_file() and damage(replace(shard, path=target)) is None:
            return True
        digest = hashlib.sha256()
        try:
            with new_file(target) as file:
                for block in _blocks(shard.path):
                    digest.update(block)
                    file.write(block)
                if digest.hexdigest() != shard.file.sha256:
                    raise _DamagedError
        except _DamagedError:
            return False
        return True

    def _decode(self, shard: PhaseShard) -> bool:
        target, sha256 = self.target(shard), shard.file.sha256
        if target.is_file() and _source_of(target) == sha256:
            return True
        if damage(shard) is not None:
            return False
        if self._reader is None:
            vocabulary = Vocabulary.read(self._data.vocabulary_path, self._data.lowercase)
            self._reader = shard_reader("lddl", vocabulary, self._phase.sequence_length)
        try:
            decoded = self._reader(shard.path)
        except ValueError:
            return False
        write_arrays(target, decoded.arrays(), {_SOURCE: sha256})
        return True


class _DamagedError(Exception):
    """A shared file cannot be read to its end, or its bytes are not those that the manifest lists."""


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise _DamagedError from error


def _source_of(path: Path) -> str | None:
    """The sha256 of the shard that a file was decoded from; None if it is not whole."""
    try:
        return map_arrays(path)[1].get(_SOURCE)
    except (OSError, ValueError):
        return None
