"""A rank's part of a checkpoint, copied to host memory as safetensors files.

The copies run during the next step's forward and backward passes, which only read what is copied.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bertjobs.files.safetensors_header import TensorEntry, header_bytes
from bertjobs.model.huggingface import TRAINING_ONLY, TRAINING_ONLY_FILE, WEIGHTS_FILE, WEIGHTS_METADATA
from bertjobs.optim.base import Optimizer
from bertjobs.optim.sharding import spread
from bertjobs.train.checkpoint.page_locked import page_locked

MOMENTS = ("exp_avg", "exp_avg_sq")
PART_BYTES = 1 << 28
"""Approximate size of a file of moments: so that several ranks write them, and several threads verify them."""
BLOCK_BYTES = 1 << 24  # handed to the system at a time
COPYING_THREADS = 4
"""On a CPU; one thread does not use all of the memory's bandwidth."""
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Part:
    """One file of the optimizer's state: the rank that writes it, and the parameters whose moments it holds."""

    file: str
    rank: int
    parameters: tuple[str, ...]


def plan_parts(elements: Mapping[str, int], world_size: int) -> list[Part]:
    """Which rank writes which moments, if all ranks hold all of them; pure, so that all know it without a message.

    The files depend only on the model: as many as give ``PART_BYTES`` each. Rank 0 writes the weights, which count as
    half as many files; all of them are spread evenly over the ranks, and so over the nodes.

    Args:
        elements: numbers in each parameter, by name.
        world_size: ranks.
    """
    count = max(1, math.ceil(sum(elements.values()) * len(MOMENTS) * _FLOAT_BYTES / PART_BYTES))
    dealt = dict(zip(elements, spread(list(elements.values()), count), strict=True))
    weights = math.ceil(count / len(MOMENTS))
    return [
        Part(
            file=part_name(number, count),
            rank=(weights + number) * world_size // (weights + count),
            parameters=tuple(name for name in elements if dealt[name] == number),
        )
        for number in range(count)
    ]


def parts_of(model: nn.Module, optimizer: Optimizer, world_size: int) -> list[Part]:
    """As `plan_parts`; with sharded states each rank writes what it owns, and does not know what the others own."""
    shard = optimizer.shard
    if shard.size == 1:
        return plan_parts({name: parameter.numel() for name, parameter in model.named_parameters()}, world_size)
    owned = tuple(name for name, parameter in model.named_parameters() if parameter in optimizer.owned)
    return [Part(part_name(rank, shard.size), rank, owned if rank == shard.rank else ()) for rank in range(shard.size)]


def part_name(number: int, count: int) -> str:
    """``training_state-00000-of-00004.safetensors``; numbers count from 0."""
    return f"training_state-{number:05d}-of-{count:05d}.safetensors"


class TensorFile:
    """A safetensors file of float32 tensors in host memory that is allocated, and touched, once.

    Args:
        name: of the file.
        shapes: of its tensors, in their order in the file.
        metadata: text in its header.
        pinned: the memory is page-locked, so that a GPU copies into it asynchronously.

    Attributes:
        tensors: by name; copy into them to set the file's content.
    """

    def __init__(
        self, name: str, shapes: Mapping[str, Sequence[int]], *, metadata: Mapping[str, str], pinned: bool
    ) -> None:
        self.name = name
        sizes = [math.prod(shape) for shape in shapes.values()]
        entries = {
            tensor: TensorEntry("F32", tuple(shape), _FLOAT_BYTES * size)
            for (tensor, shape), size in zip(shapes.items(), sizes, strict=True)
        }
        self._header = header_bytes(entries, metadata or None, alignment=8)
        count = sum(sizes)
        self._content = page_locked(count, self) if pinned else torch.empty(count, dtype=torch.float32).fill_(0.0)
        self.tensors = {
            name: flat.view(tuple(shape))
            for (name, shape), flat in zip(shapes.items(), self._content.split(sizes), strict=True)
        }

    @property
    def size(self) -> int:
        """The file's bytes."""
        return len(self._header) + self._content.nbytes

    def copy(self, sources: Mapping[str, Tensor]) -> None:
        """Fill the file's tensors from the sources of the same names, or with zeros if there is none."""
        for name, target in self.tensors.items():
            if name in sources:
                target.copy_(sources[name], non_blocking=True)
            else:
                target.zero_()

    def blocks(self) -> Iterator[bytes | memoryview]:
        """The file's bytes, in large blocks, not copied."""
        yield self._header
        content = self._content.numpy().view(np.uint8).data
        for start in range(0, content.nbytes, BLOCK_BYTES):
            yield content[start : start + BLOCK_BYTES]


class Snapshot:
    """What this rank writes: its parts of the moments and, on rank 0, the weights.

    Between `take` and the end of the copies only the optimizer's step may change the tensors.

    Attributes:
        parts: of all ranks.
        files: those of this rank, with what the last `take` copied.
        held_s: seconds that the optimizer's step waited for the last `take`.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, parts: Sequence[Part], rank: int) -> None:
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._device = next(model.parameters()).device
        pinned = self._device.type == "cuda"
        self.parts = tuple(parts)
        self.files = [
            TensorFile(part.file, _moment_shapes(part, shapes), metadata={}, pinned=pinned)
            for part in self.parts
            if part.rank == rank
        ]
        if rank == 0:
            self.files += [
                TensorFile(name, of_file, metadata=WEIGHTS_METADATA, pinned=pinned)
                for name, of_file in _weights_files(shapes).items()
            ]
        self.held_s = 0.0
        self._queued: torch.cuda.Event | None = None
        self._copying: list[Future[None]] = []
        if not pinned:
            self._pool = ThreadPoolExecutor(COPYING_THREADS, "snapshot")
            optimizer.register_step_pre_hook(self._hold)

    def take(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Begin to copy the tensors as they are now; moments that the optimizer has not made yet are zeros.

        On a GPU the copies run before anything that is queued later on the same stream. On a CPU threads copy, and
        the optimizer's next step waits for them.
        """
        self.held_s = 0.0
        sources = _sources(model, optimizer)
        if self._device.type == "cuda":
            for file in self.files:
                file.copy(sources)
            self._queued = torch.cuda.current_stream(self._device).record_event()
        else:
            self._copying = [self._pool.submit(file.copy, sources) for file in self.files]

    def wait(self) -> None:
        """Wait until all is copied; raises any error of the copies. Any thread may call it."""
        if self._queued is not None:
            torch.cuda.set_device(self._device)  # each thread has its own; else this opens the first GPU as well
            self._queued.synchronize()
        for copying in self._copying:
            copying.result()

    def _hold(self, *_: object) -> None:
        started = time.perf_counter()
        futures.wait(self._copying)
        self.held_s += time.perf_counter() - started


def _sources(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Weights and moments by their names in the files."""
    held = optimizer.moments()
    sources: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        sources[name] = parameter.detach()
        for moment, tensor in zip(MOMENTS, held.get(parameter, ()), strict=False):
            sources[f"{moment}/{name}"] = tensor
    return sources


def _weights_files(shapes: Mapping[str, Sequence[int]]) -> dict[str, dict[str, Sequence[int]]]:
    """The weights by file: the model's own, and, if there are any, those that only training needs."""
    files: dict[str, dict[str, Sequence[int]]] = {WEIGHTS_FILE: {}}
    for name, shape in shapes.items():
        file = TRAINING_ONLY_FILE if name.startswith(f"{TRAINING_ONLY}.") else WEIGHTS_FILE
        files.setdefault(file, {})[name] = shape
    return files


def _moment_shapes(part: Part, shapes: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    return {f"{moment}/{name}": shapes[name] for moment in MOMENTS for name in part.parameters}
