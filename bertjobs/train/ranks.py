"""The group of ranks: what they sum, agree on and wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bertjobs.errors import BertjobsError
from bertjobs.model.bert import BertForPreTraining
from bertjobs.train.placement import Placement

TIMEOUT = timedelta(minutes=10)
T = TypeVar("T")


class FirstRankFailedError(Exception):
    """Rank 0 has failed in what it does for all. It says why, and its exit code is the run's."""


class Ranks:
    """All ranks of the run, seen from one of them. With one rank nothing is communicated.

    Gradients travel over NCCL between GPUs and over gloo between CPUs; the rest over gloo.
    """

    def __init__(self, placement: Placement):
        self.rank = placement.rank
        self.size = placement.world_size
        self.gradients: distributed.ProcessGroup | None = None  # None: torch's default group

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def say(self, text: str) -> None:
        """A line of the log, from rank 0 alone."""
        if self.is_first:
            print(text, flush=True)

    def connect_gradients(self, device: torch.device) -> None:
        """Open the network that the gradients travel over; all ranks call it once, before training."""
        if self.size > 1 and device.type == "cuda":
            self.gradients = distributed.new_group(backend="nccl", timeout=TIMEOUT)

    def wrapped(self, model: BertForPreTraining, device: torch.device) -> nn.Module:
        """``model`` with its gradients averaged over ranks in each backward pass."""
        if self.size == 1:
            return model
        parallel = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            process_group=self.gradients,
            gradient_as_bucket_view=True,
        )
        _settle_buckets(parallel, device)
        return parallel

    def sum_on_device(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum over ranks, in place, over the same network as the gradients."""
        if self.size > 1:
            distributed.all_reduce(values, group=self.gradients)
        return values

    def sum_on_host(self, *values: int) -> list[int]:
        """Sums of integers over ranks. Runs over gloo, so that the GPU is not waited for."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(tensor)
        return tensor.tolist()

    def decided(self, decide: Callable[[], T]) -> T:
        """What ``decide`` returns on rank 0, which alone calls it, on all ranks.

        Raises:
            FirstRankFailedError: on the other ranks, where ``decide`` has raised on rank 0.
        """
        if self.size == 1:
            return decide()
        failure: Exception | None = None
        box: list = [False, None]
        if self.is_first:
            try:
                box = [True, decide()]
            except Exception as error:
                failure = error
        distributed.broadcast_object_list(box, src=0)
        if failure is not None:
            raise failure
        if not box[0]:
            raise FirstRankFailedError
        return box[1]

    def in_turn(self, act: Callable[[], T]) -> T:
        """What ``act`` returns on this rank; the others act after rank 0 has succeeded.

        What is wrong on all ranks is so said by rank 0 alone, and what is wrong on one by that one.

        Raises:
            FirstRankFailedError: on the other ranks, where ``act`` has raised on rank 0.
        """
        results: list[T] = []
        self.decided(lambda: results.append(act()))
        return results[0] if self.is_first else act()


def _settle_buckets(model: DistributedDataParallel, device: torch.device) -> None:
    """One backward pass for nothing. After its first, DDP orders its buckets anew, and over three or more ranks the
    order decides how a sum is rounded: the first step after a restart would not be what it is without one."""
    tokens = torch.zeros(1, 8, dtype=torch.int64, device=device)
    out = model(tokens, tokens, torch.ones_like(tokens), tokens, tokens[:, 0])
    (out.mlm_loss_sum + out.nsp_loss_sum).backward()
    model.zero_grad()


@contextmanager
def joined(placement: Placement) -> Iterator[Ranks]:
    """Join the process group. After an error it is not taken down: others may still wait in it.

    Raises:
        BertjobsError: rank 0 cannot be reached; names the host and the port.
    """
    if placement.world_size == 1:
        yield Ranks(placement)
        return
    try:
        distributed.init_process_group(
            "gloo",
            init_method=f"tcp://{placement.master}:{placement.port}",
            rank=placement.rank,
            world_size=placement.world_size,
            timeout=TIMEOUT,
        )
    except (distributed.DistError, RuntimeError) as error:
        raise BertjobsError(
            f"rank {placement.rank} of {placement.world_size} cannot join the others: {str(error).splitlines()[0]}",
            where=f"MASTER_ADDR={placement.master} MASTER_PORT={placement.port}",
            hint="check that all nodes reach this host and port, and that no other job uses the port",
        ) from error
    yield Ranks(placement)
    distributed.destroy_process_group()


def is_lost_connection(error: Exception) -> bool:
    """Whether ``error`` says that another rank is gone, and not that this one has failed."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
