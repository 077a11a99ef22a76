"""A rank's batches of a phase, streamed from its shards, which are watched for changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import torch

from bertjobs.data.batches.batches import BatchStream, MicroBatch
from bertjobs.data.batches.lddl_loader import LddlStream
from bertjobs.data.batches.order import StreamState
from bertjobs.data.batches.packed_batches import empty_pack, packing_limits
from bertjobs.data.batches.packing import PackLimits
from bertjobs.data.check.shard_watch import ShardWatch
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_check import shards_of
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.train.pretraining.forward import Forward
from bertjobs.train.pretraining.shards import PhaseShards
from bertjobs.train.ranks import Ranks

Stream = BatchStream | LddlStream


class WatchedBatches:
    """A stream that fails once a shard is no longer the one that was opened."""

    def __init__(self, stream: Stream, watch: ShardWatch) -> None:
        self._stream, self._watch = stream, watch
        self.state, self.samples = stream.state, stream.samples

    def __next__(self) -> Sequence[MicroBatch]:
        """As in `Batches`; an unpadded run's micro-batches are packs."""
        if self._watch.error is not None:
            raise self._watch.error
        return next(self._stream)

    def deal(self, step: int, seconds: Sequence[float], gain: float) -> tuple[int, ...] | None:
        """As in `Batches`: packs can be dealt by speed."""
        if isinstance(self._stream, LddlStream) or self._stream.packing is None:
            return None
        return self._stream.deal(step, seconds, gain)


class PhaseBatches:
    """All that the batches of a phase are made from, on one rank.

    Args:
        data: the manifest of the shards in ``shards``.
        token_budget: at most this many tokens per pack; None pads.
        device: where the batches will be used.
    """

    def __init__(
        self,
        data: DataManifest,
        spec: RunSpec,
        phase: PhaseSpec,
        shards: PhaseShards,
        ranks: Ranks,
        device: torch.device,
        *,
        token_budget: int | None,
    ) -> None:
        self._data, self._spec, self._phase, self._shards, self._ranks = data, spec, phase, shards, ranks
        self._device, self._token_budget = device, token_budget

    @contextmanager
    def opened(self, start: StreamState | None, forward: Forward) -> Iterator[WatchedBatches]:
        """The batches from the position of a checkpoint's stream, or from the beginning; ``forward`` is warmed up for
        their shapes."""
        with self._watch() as watch, closing(self._stream(start)) as stream:
            if isinstance(stream, BatchStream) and stream.packing is not None:
                pack = empty_pack(self._shards.train, self._shards.masking, stream.packing)
                forward.warm_up(pack.to(self._device), self._spec.precision, self._ranks)
            yield WatchedBatches(stream, watch)

    def _watch(self) -> ShardWatch:
        """Watches this rank's share of the shards; none if each node reads a copy of its own."""
        if self._spec.local_copy:
            return ShardWatch([])
        shards = shards_of(self._data.phase(self._phase.phase))
        read = [shard for shard in shards if shard.name not in self._shards.skipped]
        return ShardWatch(read[self._ranks.rank :: self._ranks.size])

    def _stream(self, start: StreamState | None) -> Stream:
        spec, phase, shards, ranks = self._spec, self._phase, self._shards, self._ranks
        if spec.loader == "lddl":
            return self._lddl_stream(start.step if start else 0)
        if start is not None and start.skipped != shards.skipped:
            before, now = (", ".join(names) or "none" for names in (start.skipped, shards.skipped))
            where = f"the epoch continues from position {start.place} of its order"
            ranks.say(f"the skipped shards have changed (before: {before}; now: {now}): {where}")
        return BatchStream(
            shards.train,
            shards.masking,
            global_batch=phase.global_batch,
            micro_batch=phase.micro_batch,
            rank=ranks.rank,
            world_size=ranks.size,
            start=start,
            num_workers=spec.num_workers,
            pin_memory=self._device.type == "cuda",
            manifest_sha256=self._data.sha256,
            skipped=shards.skipped,
            packing=None if self._token_budget is None else self._packing(self._token_budget),
        )

    def _lddl_stream(self, start_step: int) -> LddlStream:
        stream = LddlStream(
            self._data,
            self._phase.phase,
            seed=self._spec.seed,
            micro_batch=self._phase.micro_batch,
            gradient_steps=self._phase.gradient_steps,
            num_workers=self._spec.num_workers,
            local_rank=self._ranks.placement.local_rank,
            world_size=self._ranks.size,
            start_step=start_step,
            pin_memory=self._device.type == "cuda",
        )
        if stream.replayed:
            self._ranks.say(f"LDDL's loader rereads {stream.replayed} micro-batches of the epoch and drops them")
        return stream

    def _packing(self, most: int) -> PackLimits:
        """The shapes of packs of at most ``most`` tokens."""
        phase, shards = self._phase, self._shards
        limits = packing_limits(
            shards.train, shards.masking, most=most, max_length=phase.sequence_length, global_batch=phase.global_batch
        )
        count = f"{limits.packs} packs per step" if limits.packs > 1 else "packs"
        self._ranks.say(
            f"unpadded: {count} of {limits.tokens} tokens, at most {limits.sequences} sequences and "
            f"{limits.predictions} masked tokens"
        )
        return limits
