"""The group of ranks: what they sum, agree on and wait for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from bertjobs.errors import BertjobsError
from bertjobs.train.placement import Placement

TIMEOUT = timedelta(minutes=10)


class Ranks:
    """All ranks of the run, seen from one of them. With one rank nothing is communicated."""

    def __init__(self, placement: Placement, device: torch.device, control: Any = None):
        self.rank = placement.rank
        self.size = placement.world_size
        self.device = device
        self._control = control

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum_on_device(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum over ranks, in place, over the same network as the gradients."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def sum_on_host(self, *values: int) -> list[int]:
        """Sums of integers over ranks. Runs over gloo, so that the GPU is not waited for."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(tensor, group=self._control)
        return tensor.tolist()

    def tell(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def wait(self) -> None:
        """Return once all ranks have come here."""
        if self.size > 1:
            distributed.barrier(group=self._control)


@contextmanager
def joined(placement: Placement, device: torch.device) -> Iterator[Ranks]:
    """Join the process group: NCCL on GPUs, gloo on CPUs, and gloo on the host for control.

    Raises:
        BertjobsError: rank 0 cannot be reached; names the host and the port.
    """
    if placement.world_size == 1:
        yield Ranks(placement, device)
        return
    try:
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
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
    try:
        yield Ranks(placement, device, distributed.new_group(backend="gloo", timeout=TIMEOUT))
    finally:
        distributed.destroy_process_group()
