"""A phase's shards as the ranks read them: copied to the node if asked, checked, opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bertjobs.data.batches.batches import Masking
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.node_copy import copy_to_node
from bertjobs.data.shards.shard_check import bad_shards, described, refusal, shards_of
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.train.ranks import Ranks


@dataclass(frozen=True)
class PhaseShards:
    """The sequences of a phase.

    ``skipped`` holds the names of shards that are left out, as ``split/name``.
    """

    train: ShardSet
    held_out: ShardSet
    masking: Masking
    skipped: tuple[str, ...]


def open_shards(shared: DataManifest, spec: RunSpec, phase: PhaseSpec, ranks: Ranks) -> PhaseShards:
    """Check all shards of the phase against the manifest, the ranks sharing the work, and open them.

    Raises:
        InputError: a shard is missing or damaged, and the run does not skip those; or all are.
    """
    number, placement = phase.phase, ranks.placement
    data, everywhere = shared, False
    bad: set[str] = set()
    if spec.local_copy:
        copy = copy_to_node(
            data,
            number,
            Path(spec.local_copy),
            local_rank=placement.local_rank,
            local_size=placement.tasks_on_node,
            world_size=ranks.size,
            total=ranks.sum_on_host,
        )
        if copy.reason and placement.local_rank == 0:
            print(f"rank {ranks.rank}: no copy on this node, reading from {data.folder}: {copy.reason}", flush=True)
        data, everywhere = copy.data, copy.everywhere
        bad.update(shard.name for shard in copy.bad)
    shards = shards_of(shared.phase(number))
    if not everywhere:
        rest = [shard for shard in shards if shard.name not in bad]
        bad.update(shard.name for shard in bad_shards(rest, ranks.rank, ranks.size, ranks.sum_on_host))
    skipped = tuple(shard.name for shard in shards if shard.name in bad)
    ranks.decided(lambda: _decide(shared, number, skipped, refuse=spec.on_bad_shard == "stop"))
    train, held_out = ranks.in_turn(lambda: _open(shared, data, number, skipped))
    whole_word = spec.masked_units == "words"
    masking = Masking(spec.masking, spec.seed, phase.max_predictions, spec.masked_share, whole_word)
    return PhaseShards(train, held_out, masking, skipped)


def _decide(shared: DataManifest, phase: int, skipped: tuple[str, ...], *, refuse: bool) -> None:
    """Refuse damaged shards, or say that they are skipped."""
    if not skipped:
        return
    by_name = {shard.name: shard for shard in shards_of(shared.phase(phase))}
    bad = [by_name[name] for name in skipped]
    if refuse:
        raise refusal(bad)
    for shard in bad:
        print(f"warning: {described(shard)}: its {shard.file.rows} rows are left out", flush=True)


def _open(shared: DataManifest, data: DataManifest, phase: int, skipped: tuple[str, ...]) -> tuple[ShardSet, ShardSet]:
    """Open ``data``, which is ``shared`` or a node's copy, whose files have the same order but not the same names."""

    def opened(split: str) -> ShardSet:
        files = zip(shared.phase(phase).split(split).files, data.phase(phase).split(split).files, strict=True)
        names = {file.name for original, file in files if f"{split}/{original.name}" in skipped}
        return ShardSet.load(data, phase, split, names)

    return opened("train"), opened("validation")
