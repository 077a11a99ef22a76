"""A run whose nodes a person starts, a command on each, where no Slurm does it. `place` is pure.

Node 0 is like a run on one machine that has the first ranks alone: it keeps the journal and owns the run. The others
only start their ranks; all nodes see the folder of runs.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TextIO

from bertjobs.errors import EXIT_DONE, EXIT_FAILURE, InputError
from bertjobs.launch import local
from bertjobs.recipe.groups import nodes_words
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.run.journal import read_story
from bertjobs.slurm.environment import clean_environment
from bertjobs.wording import counted

_ADDRESS = re.compile(r"(?:tcp://)?(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})")
LAST_PORT = 65_535
LOOK_S = 1.0


def parse_address(text: str, flag: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``[IPV6]:PORT`` or, as torch writes it, ``tcp://HOST:PORT``; InputError for
    anything else."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is not an address", where=flag, hint="HOST:PORT of node 0, such as node1:29400")
    if not 0 < int(match[3]) < LAST_PORT:
        raise InputError(f"port {match[3]} is not from 1 to {LAST_PORT - 1:,}: a second phase uses the next one",
                         where=flag, hint="HOST:PORT of node 0, such as node1:29400")  # fmt: skip
    return match[1] or match[2], int(match[3])


def check_host(host: str, port: int, flag: str) -> None:
    """Make sure that a host is known here, before ranks wait minutes for it.

    Raises:
        InputError: no name server or hosts file knows it.
    """
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"no host {host!r} is known here: {error.strerror or error}", where=flag,
                         hint="name node 0 as this machine resolves it, or by its address") from None  # fmt: skip


def hetseq_groups(world_size: int, gpus: int, rank: int) -> str:
    """``groups`` for nodes of ``gpus`` ranks each, as HetSeq's three numbers describe them.

    Raises:
        InputError: they do not: nodes have different numbers of ranks.
    """
    if min(world_size, gpus) < 1 or rank < 0 or world_size % gpus or rank % gpus or rank >= world_size:
        raise InputError(
            f"rank {rank} of {world_size} cannot be the first of {gpus} on its node if all nodes have as many",
            where="--distributed-rank, --distributed-world-size and --distributed-gpus",
            hint="name all nodes in the order of their ranks, on each of them: --groups 2x4,1x8",
        )
    return f"{world_size // gpus}x{gpus}"


def place(
    ranks_of_nodes: Sequence[int], address: str, port: int, *, node: int = -1, rank: int = -1
) -> local.LocalRanks:
    """The ranks of a node, which is given by its number or by its first rank.

    Raises:
        InputError: there is no such node.
    """
    firsts = [0, *accumulate(ranks_of_nodes)][:-1]
    if node < 0 and rank in firsts:
        node = firsts.index(rank)
    if not 0 <= node < len(ranks_of_nodes):
        what = f"there is no node {node} among" if rank < 0 else f"rank {rank} is not the first rank of a node in"
        raise InputError(
            f"{what} {nodes_words(ranks_of_nodes)}",
            where="--node-rank" if rank < 0 else "--distributed-rank",
            hint=f"nodes are 0 to {len(ranks_of_nodes) - 1}, their first ranks {', '.join(map(str, firsts))}",
        )
    return local.LocalRanks(node, range(firsts[node], firsts[node] + ranks_of_nodes[node]), address, port)


def described(here: local.LocalRanks, spec: RunSpec) -> str:
    """What this machine does, for a person."""
    ranks = here.ranks
    own = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    return (
        f"node {here.node} of {nodes_words(spec.ranks_of_nodes)}: {own}; rank 0 listens at {here.address}:{here.port}"
    )


def follow(
    directory: RunDirectory,
    spec: RunSpec,
    environ: Mapping[str, str],
    out: TextIO,
    here: local.LocalRanks,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Train the phases of ``spec`` on a node that is not the first; returns the exit code of the first phase that did
    not end with 0, else 0."""
    if not directory.lockfile.exists():
        out.write(f"waiting for node 0 to write {directory.lockfile}\n")
        out.flush()
    while not directory.lockfile.exists():
        sleep(LOOK_S)
    environment = clean_environment(environ)
    for phase in spec.phases:
        folder = directory.phase(phase.phase)
        folder.create()
        log = folder.logs / f"node{here.node}-{time.strftime('%Y%m%d-%H%M%S')}.out"
        out.write(f"phase {phase.phase}: {counted(len(here.ranks), 'rank')}; log: {log}\n")
        out.flush()
        with local.started(spec, phase.phase, environment, log, f"node{here.node}", here=here) as ranks:
            code, _ = local.wait_for(ranks, watch=lambda: None)
        code = code or _code_of_run(directory, phase.phase)
        out.write(f"phase {phase.phase} ended with code {code}\n")
        if code != EXIT_DONE:
            out.write(local.tail(log))
            return code
    return EXIT_DONE


def _code_of_run(directory: RunDirectory, phase: int) -> int:
    """The exit code of a phase's last attempt, which only rank 0 returns."""
    if directory.phase(phase).done():
        return EXIT_DONE
    codes = [one.exit_code for one in read_story(directory.events()).attempts if one.phase == phase and one.has_ended]
    return codes[-1] or EXIT_FAILURE if codes else EXIT_FAILURE
