"""A phase's shards as the ranks read them: copied to the node if asked, checked, opened, streamed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from bertjobs.data.batches.batches import BatchStream, Masking
from bertjobs.data.batches.lddl_loader import LddlStream
from bertjobs.data.batches.order import StreamState
from bertjobs.data.batches.packed_batches import packing_limits
from bertjobs.data.batches.packing import Limits
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.node_copy import copy_to_node
from bertjobs.data.shards.shard_check import bad_shards, described, refusal, shards_of
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.train.job import Job
from bertjobs.train.ranks import Ranks


@dataclass(frozen=True)
class PhaseShards:
    """The sequences of a phase.

    ``skipped`` names the shards that are left out, as ``split/name``.
    """

    train: ShardSet
    held_out: ShardSet
    masking: Masking
    skipped: tuple[str, ...]


def open_shards(job: Job, ranks: Ranks) -> PhaseShards:
    """Check all shards of the phase against the manifest, the ranks sharing the work, and open them.

    Raises:
        InputError: a shard is missing or damaged, and the run does not skip those; or all are.
    """
    spec, number = job.spec, job.phase.phase
    data, everywhere = job.data, False
    bad: set[str] = set()
    if spec.local_copy:
        copy = copy_to_node(
            data,
            number,
            Path(spec.local_copy),
            local_rank=job.placement.local_rank,
            local_size=job.placement.tasks_per_node,
            world_size=ranks.size,
            total=ranks.sum_on_host,
        )
        if copy.reason and job.placement.local_rank == 0:
            print(f"rank {ranks.rank}: no copy on this node, reading {data.folder}: {copy.reason}", flush=True)
        data, everywhere = copy.data, copy.everywhere
        bad.update(shard.name for shard in copy.bad)
    shards = shards_of(job.data.phase(number))
    if not everywhere:
        rest = [shard for shard in shards if shard.name not in bad]
        bad.update(shard.name for shard in bad_shards(rest, ranks.rank, ranks.size, ranks.sum_on_host))
    skipped = tuple(shard.name for shard in shards if shard.name in bad)
    ranks.decided(lambda: _decide(job, skipped))
    train, held_out = ranks.in_turn(lambda: _open(job.data, data, number, skipped))
    whole_word = spec.masked_units == "words"
    masking = Masking(spec.masking, spec.seed, job.phase.max_predictions, spec.masked_share, whole_word)
    return PhaseShards(train, held_out, masking, skipped)


def open_stream(
    job: Job, ranks: Ranks, shards: PhaseShards, start: StreamState | None, device: torch.device
) -> BatchStream | LddlStream:
    """This rank's batches from where a checkpoint's stream stood, or from the beginning."""
    spec, phase = job.spec, job.phase
    if spec.loader == "lddl":
        stream = LddlStream(
            job.data,
            phase.phase,
            seed=spec.seed,
            micro_batch=phase.micro_batch,
            gradient_steps=phase.gradient_steps,
            num_workers=spec.num_workers,
            local_rank=job.placement.local_rank,
            world_size=ranks.size,
            start_step=start.step if start else 0,
            pin_memory=device.type == "cuda",
        )
        if stream.replayed:
            ranks.say(f"LDDL's loader reads {stream.replayed} micro-batches of the epoch again and drops them")
        return stream
    if start is not None and start.skipped != shards.skipped:
        before, now = (", ".join(names) or "none" for names in (start.skipped, shards.skipped))
        ranks.say(f"skipped shards were {before}, are {now}: the epoch goes on from place {start.place} of its order")
    return BatchStream(
        shards.train,
        shards.masking,
        global_batch=phase.global_batch,
        micro_batch=phase.micro_batch,
        rank=ranks.rank,
        world_size=ranks.size,
        start=start,
        num_workers=spec.num_workers,
        pin_memory=device.type == "cuda",
        manifest_sha256=job.data.sha256,
        skipped=shards.skipped,
        packing=_packing(job, ranks, shards) if spec.is_unpadded else None,
    )


def _packing(job: Job, ranks: Ranks, shards: PhaseShards) -> Limits:
    """The shapes of packs that take the memory of the recipe's padded micro-batch at most."""
    phase = job.phase
    tokens = min(job.spec.pack_tokens(phase), phase.global_batch * phase.sequence_length)
    limits = packing_limits(shards.train, shards.masking, tokens=tokens, max_length=phase.sequence_length)
    ranks.say(
        f"unpadded: packs of {limits.tokens} tokens, at most {limits.sequences} sequences and "
        f"{limits.predictions} masked tokens"
    )
    return limits


def _decide(job: Job, skipped: tuple[str, ...]) -> None:
    """Refuse damaged shards, or say that they are skipped."""
    if not skipped:
        return
    by_name = {shard.name: shard for shard in shards_of(job.data.phase(job.phase.phase))}
    bad = [by_name[name] for name in skipped]
    if job.spec.on_bad_shard == "stop":
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
