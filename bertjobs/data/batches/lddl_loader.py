"""LDDL's own loader (the ``lddl`` package), behind the interface of `BatchStream`.

Its order is its own: one shuffle buffer per worker, bins drawn by the samples that remain, masks from torch's
generator. It can begin with any epoch but not inside one: a restart reads and drops what the epoch has delivered.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Generator, Iterator
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from bertjobs.data.batches.batches import NOT_SCORED, Batch
from bertjobs.data.batches.order import StreamState
from bertjobs.data.shards.manifest import DataManifest, PhaseData
from bertjobs.errors import InputError
from bertjobs.recipe.spec import RunSpec

LOADER = "lddl"


_OTHER = "or use bertjobs' own: --set loader=bertjobs"


def check_lddl_loader(data: DataManifest, spec: RunSpec) -> None:
    """Whether LDDL's loader is installed and can read a run's phases.

    Raises:
        InputError: it is not installed; or as ``check_lddl_shards``.
    """
    try:
        import_module("lddl.torch")
    except ImportError as error:
        raise InputError(
            f"LDDL's loader cannot be imported: {error}",
            where="loader",
            hint=f"pip install --no-deps lddl==0.1.0, and pip install transformers; {_OTHER}",
        ) from error
    check_lddl_shards(data, spec)


def check_lddl_shards(data: DataManifest, spec: RunSpec) -> None:
    """Whether LDDL's loader, where it is installed, can read a run's phases on its ranks, with its worker processes.

    Raises:
        InputError: the shards' format, number or rows, or a setting, do not suit it.
    """
    if data.shard_format != "lddl":
        raise InputError(
            f"LDDL's loader does not read shards of format {data.shard_format!r}",
            where=str(data.folder),
            hint=f"prepare the data with --format lddl, {_OTHER}",
        )
    if spec.num_workers < 1:
        raise InputError("LDDL's loader needs a worker process", where="num_workers", hint=f"NUM_WORKERS=1, {_OTHER}")
    for setting, ours in (("on_bad_shard", "stop"), ("local_copy", "")):
        if (value := getattr(spec, setting)) != ours:
            raise InputError(
                f"LDDL's loader reads whole folders: it takes no {setting}={value}",
                where=setting,
                hint=f"leave {setting} out, {_OTHER}",
            )
    for phase in spec.phases:
        _check_shards(data.phase(phase.phase), spec.world_size, spec.num_workers, phase.micro_batch)


def _check_shards(entry: PhaseData, world_size: int, num_workers: int, micro_batch: int) -> None:
    where, phase, readers = str(entry.train.folder), entry.phase, world_size * num_workers
    for number, rows in _bins(entry).items():
        if len(rows) % readers:
            raise InputError(
                f"bin {number} of phase {phase} has {len(rows)} shards, not a multiple of {world_size} ranks x "
                f"{num_workers} workers",
                where=where,
                hint=f"prepare the data with --shards {-(-len(rows) // readers) * readers}, {_OTHER}",
            )
        if max(rows) != min(rows) + 1:
            raise InputError(
                f"LDDL's loader needs shards of a bin that differ by one row; those of bin {number} of phase {phase} "
                f"have {min(rows)} to {max(rows)}",
                where=where,
                hint=f"prepare the data with more than one shard, {_OTHER}",
            )
    if not _batches_in_epoch(entry, world_size, num_workers, micro_batch):
        raise InputError(
            f"no shard of phase {phase} fills a micro-batch of {micro_batch}",
            where=where,
            hint=f"use fewer shards, ranks or workers, {_OTHER}",
        )


class LddlStream:
    """One rank's micro-batches, optimizer step after optimizer step, without end, in LDDL's order.

    Batches that are not full are dropped. All ranks make one together: LDDL's loader sums over them.

    Args:
        vocabulary: path of vocab.txt.
        micro_batch: sequences in one batch.
        gradient_steps: micro-batches per rank and optimizer step.
        start_step: the step to begin with, from 0.
    """

    def __init__(
        self,
        data: DataManifest,
        phase: int,
        *,
        seed: int,
        micro_batch: int,
        gradient_steps: int,
        num_workers: int,
        local_rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        pin_memory: bool = False,
    ) -> None:
        entry = data.phase(phase)
        self._micro_batch, self._gradient_steps = micro_batch, gradient_steps
        self._identity = (seed, data.sha256)
        self._an_epoch = _batches_in_epoch(entry, world_size, num_workers, micro_batch)
        epoch, self.replayed = divmod(start_step * gradient_steps, self._an_epoch)
        self._loader = _loader(
            entry.train.folder, data, epoch, seed, local_rank,
            batch_size=micro_batch, num_workers=num_workers, pin_memory=pin_memory,
        )  # fmt: skip
        self._batches = self._full_batches()

    def state(self, step: int) -> StreamState:
        """Where the stream stands after ``step`` steps; ``place`` counts the epoch's micro-batches on a rank."""
        seed, sha256 = self._identity
        epoch, place = divmod(step * self._gradient_steps, self._an_epoch)
        return StreamState(epoch, place, step, seed, sha256, loader=LOADER)

    def samples(self, step: int) -> list[str]:  # noqa: ARG002
        """An empty list: LDDL does not say which sequences it reads."""
        return []

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        for _ in range(self.replayed):
            next(self._batches)
        self.replayed = 0
        return [next(self._batches) for _ in range(self._gradient_steps)]

    def close(self) -> None:
        """Stop the worker processes."""
        self._batches.close()
        self._loader = None

    def __enter__(self) -> LddlStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _full_batches(self) -> Generator[Batch, None, None]:
        while True:
            for tensors in self._loader:
                batch = Batch(**tensors)
                if batch.sequences == self._micro_batch:
                    yield batch


def _loader(folder: Path, data: DataManifest, epoch: int, seed: int, local_rank: int, **torch_loader: Any) -> Any:
    return import_module("lddl.torch").get_bert_pretrain_data_loader(
        str(folder),
        local_rank=local_rank,
        vocab_file=str(data.vocabulary_path),
        tokenizer_kwargs={"do_lower_case": data.lowercase},
        data_loader_kwargs=torch_loader,
        base_seed=seed,
        start_epoch=epoch,
        ignore_index=NOT_SCORED,
        log_level=logging.ERROR,
    )


def _bins(entry: PhaseData) -> dict[int, list[int]]:
    """The rows of each training shard, by bin."""
    rows = defaultdict(list)
    for file in entry.train.files:
        rows[file.bin].append(file.rows)
    return dict(rows)


def _batches_in_epoch(entry: PhaseData, world_size: int, num_workers: int, micro_batch: int) -> int:
    """Full batches that a rank gets in an epoch: LDDL takes from each shard as many rows as its bin's smallest has."""
    readers = world_size * num_workers
    return sum(num_workers * (min(rows) * (len(rows) // readers) // micro_batch) for rows in _bins(entry).values())
