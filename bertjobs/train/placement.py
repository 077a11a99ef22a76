"""Which rank this process is, read from the launcher's environment or from Slurm's."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from bertjobs.errors import InputError
from bertjobs.recipe.groups import RANKS_OF_NODES, parse_ranks_of_nodes, place_of
from bertjobs.run.own_job import own_job

LAUNCHERS = ("BERTJOBS_JOB", "TORCHELASTIC_RUN_ID")
"""Variables that only our local launcher and torchrun set."""


@dataclass(frozen=True)
class Placement:
    """This process among all processes of the job.

    Attributes:
        rank: 0 to world_size - 1.
        local_rank: the rank on its node, which is also its GPU's index.
        tasks_on_node: ranks on this node.
        ranks_of_nodes: on each node, in the order of the ranks.
        master: host that rank 0 listens on.
        port: its TCP port.
        job: the Slurm job's id, or the local launcher's.
        attempt: how many times the job has been requeued.
        scheduler: "slurm" or "local".
        chain: the submission that the job belongs to, or the job itself.
        node: this node's name (`node_name`).
        owner: job and attempt that have taken the run (`bertjobs.run.owner`): a local launcher's own, or these.
    """

    rank: int
    local_rank: int
    world_size: int
    nodes: int
    tasks_on_node: int
    master: str
    port: int
    job: str
    attempt: int
    scheduler: str
    chain: str = ""
    owner: tuple[str, int] = ("", 0)
    node: str = ""
    ranks_of_nodes: tuple[int, ...] = ()

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def read_placement(environ: Mapping[str, str]) -> Placement:
    """The placement that ``environ`` describes; without a launcher, one process on this machine.

    Slurm's variables win over ``RANK``, ``WORLD_SIZE``, ... (torch's names): pyxis sets those in each task of an image
    with ``PYTORCH_VERSION``, and a shell may have them left over. A launcher that marks its processes, ours or
    torchrun, wins over Slurm's, so that a local run inside an allocation is a local run.

    Raises:
        InputError: a variable is not a number, or the numbers contradict each other.
    """
    is_marked = any(environ.get(name) for name in LAUNCHERS)
    if "SLURM_PROCID" in environ and not is_marked:
        scheduler = "slurm"
        names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_NNODES")
        layout, node = "SLURM_STEP_TASKS_PER_NODE", "SLURM_NODEID"
        job, attempt = own_job(environ), "SLURM_RESTART_COUNT"
    else:
        scheduler = "local"
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODES")
        layout, node = RANKS_OF_NODES, ""
        job, attempt = environ.get("BERTJOBS_JOB"), "BERTJOBS_ATTEMPT"
    defaults = dict(zip(names, ("0", "0", "1", "1"), strict=True))

    def number(name: str, default: str) -> int:
        value = environ.get(name) or default
        try:
            return int(value)
        except ValueError:
            raise InputError(f"{name}={value!r} is not a number", where="the launcher's environment") from None

    rank, local_rank, world_size, nodes = (number(name, defaults[name]) for name in names)
    ranks_of_nodes = _ranks_of_nodes(environ.get(layout, ""), world_size, nodes)
    own = number(node, "0") if environ.get(node) else place_of(min(max(rank, 0), world_size - 1), ranks_of_nodes)[0]
    tasks_on_node = ranks_of_nodes[own] if 0 <= own < nodes else 0
    if not (0 <= rank < world_size and 0 <= local_rank < tasks_on_node):
        raise InputError(
            f"rank {rank}, number {local_rank} on its node, cannot be among {world_size} tasks on {nodes} nodes",
            where="the launcher's environment",
        )
    name, times = job or "0", number(attempt, "0")
    return Placement(
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        nodes=nodes,
        tasks_on_node=tasks_on_node,
        ranks_of_nodes=ranks_of_nodes,
        master=environ.get("MASTER_ADDR", "127.0.0.1"),
        port=number("MASTER_PORT", "29400"),
        job=name,
        attempt=times,
        scheduler=scheduler,
        chain=environ.get("BERTJOBS_CHAIN") or name,
        owner=(environ["BERTJOBS_OWNER"], 0) if environ.get("BERTJOBS_OWNER") else (name, times),
        node=node_name(environ),
    )


def _ranks_of_nodes(text: str, world_size: int, nodes: int) -> tuple[int, ...]:
    """The ranks on each node, as the launcher says it; equally many, if it does not."""
    known = parse_ranks_of_nodes(text)
    if known and sum(known) == world_size and len(known) == nodes:
        return known
    if nodes < 1 or world_size < 1 or world_size % nodes:
        raise InputError(
            f"{world_size} tasks cannot be spread evenly over {nodes} nodes",
            where="the launcher's environment",
            hint="give --ntasks-per-node",
        )
    return (world_size // nodes,) * nodes


def node_name(environ: Mapping[str, str]) -> str:
    """Slurm's name for this node, or else its host name."""
    return environ.get("SLURMD_NODENAME") or socket.gethostname()
