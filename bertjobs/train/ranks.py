"""The group of ranks: what they sum, agree on and wait for."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from operator import add
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

import torch
from torch import distributed, nn
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.nn.parallel import DistributedDataParallel

from bertjobs.errors import BertjobsError
from bertjobs.run.causes import Cause
from bertjobs.train.failure import cause_of
from bertjobs.train.nodes.interface import interface_variables, trap
from bertjobs.train.placement import Placement

JOIN_TIMEOUT_S = 300.0
START_TIMEOUT_S = 900.0  # until the recipe is read, which sets how long a rank waits for the others
MARGIN_S = 60.0
"""How much longer the process groups wait than the watchdog, which knows better what is wrong."""

NEVER = timedelta(days=365)
REPORT_S = 2.0  # for telling rank 0 of a failure
TRY_S, RETRY_S = 5.0, 0.5  # for a connection to rank 0
_FAILURE = "ranks/failure"
COMPRESSIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
T = TypeVar("T")


class FirstRankFailedError(Exception):
    """Rank 0 has failed in what it does for all. It prints why, and its exit code is the run's."""


class Ranks:
    """All ranks of the run, seen from one of them. A single rank communicates nothing.

    Gradients travel over NCCL between GPUs and over gloo between CPUs; the rest over gloo.
    """

    def __init__(self, placement: Placement, store: distributed.Store | None = None):
        """``store``: the key-value store that rank 0 hosts; it outlives the connections between the ranks."""
        self._store = store
        self.placement = placement
        self.rank = placement.rank
        self.size = placement.world_size
        self.gradients: distributed.ProcessGroup | None = None  # None: torch's default group
        self._timeout = NEVER

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print a line to the log, on rank 0 only."""
        if self.is_first:
            print(text, flush=True)

    def set_timeout(self, hang_timeout_s: float) -> None:
        """Set how long a rank waits for the others: a little longer than the watchdog; 0: forever. All ranks call it,
        before `connect_gradients`."""
        self._timeout = timedelta(seconds=hang_timeout_s + MARGIN_S) if hang_timeout_s else NEVER
        if self.size > 1:
            _set_pg_timeout(self._timeout)

    def connect_gradients(self, device: torch.device) -> None:
        """Open the network that the gradients travel over; all ranks call it once, before training."""
        if self.size > 1 and device.type == "cuda":
            self.gradients = distributed.new_group(backend="nccl", timeout=self._timeout)

    def wrapped(
        self, model: nn.Module, probe: object, *, bucket_mb: float = 25.0, compression: str = "none"
    ) -> nn.Module:
        """``model`` with its gradients averaged over ranks in each backward pass, in buckets that travel while the
        rest is still computed. Its gradients are views of these buckets as long as they are set to 0 in place.

        Args:
            model, probe: as `Learner` has them; ``model`` is its ``forward``.
            bucket_mb: megabytes (2^20 bytes) of gradients sent at a time.
            compression: "none", or the format in which gradients travel and are summed. In "fp16" what is above
                65,504 becomes infinite, and the step is skipped; what is below 6e-8 is lost, so it needs a loss
                scale. "bf16" has float32's range and 8 bits of precision.
        """
        if self.size == 1:
            return model
        return averaged(model, probe, self.gradients, bucket_mb=bucket_mb, compression=compression)

    def turns(self, count: int) -> range:
        """The numbers of this rank's first ``count`` things, of which the ranks have taken one each in turns."""
        return range(self.rank, count * self.size, self.size)

    def arrivals(self) -> int:
        """How many collective operations this rank has begun, those of `wrapped` included. All ranks begin the same
        ones in the same order. Any thread may call it."""
        if self.size == 1:
            return 0
        groups = [group for group in (distributed.group.WORLD, self.gradients) if group is not None]
        return sum(group._get_sequence_number_for_group() for group in groups)  # type: ignore[attr-defined]

    def sum_on_device(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum over ranks, in place, by the same network as the gradients."""
        if self.size > 1:
            distributed.all_reduce(values, group=self.gradients)
        return values

    def sum_on_host(self, *values: int) -> list[int]:
        """Sums of integers over ranks. Runs over gloo, so as not to wait for the GPU."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(tensor)
        return tensor.tolist()

    def decided(self, decide: Callable[[], T]) -> T:
        """Call ``decide`` on rank 0 only, and return its result on all ranks.

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

    def agree_on_attempt(self) -> None:
        """Take rank 0's names for job, attempt and chain: of a run whose nodes a person starts, only node 0 knows them.
        All ranks call it once, first of all."""
        own = self.placement
        job, attempt, chain = self.decided(lambda: (own.job, own.attempt, own.chain))
        self.placement = replace(own, job=job, attempt=attempt, chain=chain)

    def node_of(self, rank: int) -> str:
        """The name of that rank's node; all ranks call it."""
        box = [self.placement.node]
        if self.size > 1:
            distributed.broadcast_object_list(box, src=rank)
        return box[0]

    def in_turn(self, act: Callable[[], T]) -> T:
        """What ``act`` returns on this rank; the others act after rank 0 has succeeded.

        So what is wrong on all ranks is reported by rank 0 only, and what is wrong on one rank by that rank.

        Raises:
            FirstRankFailedError: on the other ranks, where ``act`` has raised on rank 0.
        """
        results: list[T] = []
        self.decided(lambda: results.append(act()))
        return results[0] if self.is_first else act()

    def raise_first(self, error: Exception | None) -> NoReturn:
        """Raise on rank 0 the ``error`` of the first rank that has one; all ranks call it, at least one with an error.

        Raises:
            FirstRankFailedError: on the other ranks.
        """
        if self.size == 1:
            raise error or ValueError("no rank has an error")
        first = torch.tensor(self.size if error is None else self.rank)
        distributed.all_reduce(first, distributed.ReduceOp.MIN)
        # Not every exception can be sent; ours can.
        sendable = error
        if not isinstance(error, BertjobsError) and error is not None:
            sendable = BertjobsError(repr(error), where=f"rank {self.rank}", cause=cause_of(error))
        box: list = [sendable]
        distributed.broadcast_object_list(box, src=int(first))
        if self.is_first:
            raise error if int(first) == 0 and error is not None else box[0]
        raise FirstRankFailedError

    def report_failure(self, failure: Mapping[str, Any]) -> None:
        """Tell rank 0 why this rank fails, since it would only see that it is gone; the first rank's report is kept."""
        store = self._store
        if store is None:
            return

        def report() -> None:
            with suppress(RuntimeError):  # rank 0 itself is gone
                store.compare_set(_FAILURE, "", json.dumps(failure))

        thread = threading.Thread(target=report, name="report", daemon=True)
        thread.start()
        thread.join(REPORT_S)  # rank 0 may hang

    def reported_failure(self) -> dict[str, Any] | None:
        """What the first of the other ranks to fail reported; for rank 0, which hosts the store."""
        with suppress(RuntimeError):
            if self._store is not None and self._store.check([_FAILURE]):
                return dict(json.loads(self._store.get(_FAILURE)))
        return None


def averaged(
    model: nn.Module,
    probe: object,
    group: distributed.ProcessGroup | None,
    *,
    bucket_mb: float = 25,
    compression: str = "none",
) -> DistributedDataParallel:
    """What `Ranks.wrapped` makes of several ranks, for a group of any size; None: torch's default group."""
    parallel = DistributedDataParallel(
        model,
        device_ids=None,  # inputs stay where they are: the labels are on the CPU
        process_group=group,
        bucket_cap_mb=bucket_mb,
        gradient_as_bucket_view=True,
    )
    if compression != "none":
        dtype = COMPRESSIONS[compression]
        parallel.register_comm_hook(group, lambda group, bucket: _average(group, bucket, dtype))
    _settle_buckets(parallel, probe)
    return parallel


def _average(
    group: distributed.ProcessGroup | None, bucket: distributed.GradBucket, dtype: torch.dtype
) -> torch.futures.Future[torch.Tensor]:
    """The mean over ranks of a bucket, which travels as ``dtype``. It is divided before it is rounded (torch's own
    hooks do it after), so that multiplying the loss by the number of ranks causes no overflow."""
    gradients = bucket.buffer()
    sent = gradients.div_(distributed.get_world_size(group)).to(dtype)
    summed = distributed.all_reduce(sent, group=group, async_op=True).get_future()
    return summed.then(lambda done: gradients.copy_(done.value()[0]))


def _settle_buckets(model: DistributedDataParallel, probe: object) -> None:
    """One backward pass whose result is discarded. After the first one DDP reorders its buckets, and with three or more
    ranks their order decides how sums are rounded: the first step after a restart would differ from the same step
    without a restart.

    It leaves zeros, so that gradients are views of the buckets from the first step on."""
    reduce(add, [term.loss_sum for term in model(probe)]).backward()
    model.zero_grad(set_to_none=False)


@contextmanager
def joined(
    placement: Placement, timeout_s: float = JOIN_TIMEOUT_S, environ: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Ranks]:
    """Join the process group. After an error it is not taken down: other ranks may still be waiting in it.

    Args:
        environ: what the user has set; gloo and NCCL read the rest from this process's environment.

    Raises:
        BertjobsError: rank 0 cannot be reached or a rank is missing after ``timeout_s``; names the host and port.
    """
    if placement.world_size == 1:
        yield Ranks(placement)
        return
    deadline = time.monotonic() + timeout_s
    try:
        if not placement.is_first:
            _wait_for_listener(placement.master, placement.port, deadline)
        store = _meet(placement, deadline)
        os.environ.update(interface_variables(placement, store, environ))
        distributed.init_process_group(
            "gloo",
            store=store,
            rank=placement.rank,
            world_size=placement.world_size,
            timeout=timedelta(seconds=_left(deadline)),
        )
    except (RuntimeError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise BertjobsError(
            f"rank {placement.rank} of {placement.world_size} cannot join the others: {reason}",
            where=f"MASTER_ADDR={placement.master} MASTER_PORT={placement.port}, after {timeout_s:g} s at most",
            hint=_join_hint(placement),
            cause=Cause.PORT,
        ) from error
    ranks = Ranks(placement, store)
    ranks.set_timeout(START_TIMEOUT_S)
    yield ranks
    distributed.destroy_process_group()


def _join_hint(placement: Placement) -> str:
    if why := trap(placement):
        return f"{why}: give that name its real address, or set GLOO_SOCKET_IFNAME to the interface between the nodes"
    return "check that all nodes reach this host and port, and that no other job uses the port"


def _left(deadline: float) -> float:
    """Seconds until then, at least one."""
    return max(1.0, deadline - time.monotonic())


def _wait_for_listener(host: str, port: int, deadline: float) -> None:
    """Return once a program listens there. torch waits as well, but does not say why it failed.

    Raises:
        OSError: at the deadline, with the last error.
    """
    while True:
        try:
            socket.create_connection((host, port), timeout=min(_left(deadline), TRY_S)).close()
            return
        except OSError:
            if time.monotonic() + RETRY_S > deadline:
                raise
        time.sleep(RETRY_S)


def _meet(placement: Placement, deadline: float) -> distributed.TCPStore:
    """The key-value store that rank 0 hosts and all others know.

    Raises:
        OSError: the program that listens there does not answer by the deadline. torch would wait forever, hence the
            thread; the rank that listens itself cannot meet another program.
        RuntimeError: the port is taken, or a rank is missing.
    """
    met: Future[distributed.TCPStore] = Future()

    def meet() -> None:
        try:
            limit = timedelta(seconds=_left(deadline))
            store = distributed.TCPStore(
                placement.master, placement.port, placement.world_size, is_master=placement.is_first, timeout=limit
            )
            met.set_result(store)
        except RuntimeError as error:
            met.set_exception(error)

    threading.Thread(target=meet, name="meet", daemon=True).start()
    if placement.is_first:
        return met.result()  # torch itself ends the waiting for others, on a busy machine seconds late
    try:
        return met.result(_left(deadline) + TRY_S)
    except TimeoutError:
        raise TimeoutError("another program, not rank 0, is listening on that port") from None
