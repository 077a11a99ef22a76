"""Nodes that differ in the number of their ranks, or in what they are: the groups of a run. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

from bertjobs.wording import counted

RANKS_OF_NODES = "BERTJOBS_RANKS_OF_NODES"
"""The variable in which our launchers give the ranks on each node, as Slurm writes them."""

_KEYS = {"nodes", "gpus", "tasks_per_node", "constraint", "system", "speed"}
_TEXT = re.compile(r"\s*([1-9][0-9]{0,5})x([1-9][0-9]{0,3})(?:@([^\s/]+))?((?:/[^\s/]+){0,2})\s*")
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+")
_SYSTEM = re.compile(r"[^\s/,]+")
_CONSTRAINT = re.compile(r"[A-Za-z0-9_.:=+*|&()\[\]-]+")


SLOWEST = 0.001
"""The least of the speeds that can be given; its inverse is the largest."""


@dataclass(frozen=True)
class NodeGroup:
    """Some nodes that are alike.

    Attributes:
        nodes: how many.
        tasks_per_node: ranks on each of them: one per GPU, or per CPU process.
        constraint: what the nodes must be, as sbatch's ``--constraint`` takes it; "": anything.
        system: the kind of node, a key of `systems`; "": the run's.
        speed: of a rank, as a multiple of what it would be on the run's system.
    """

    nodes: int
    tasks_per_node: int
    constraint: str = ""
    system: str = ""
    speed: float = 1.0

    def __str__(self) -> str:
        constraint = f"@{self.constraint}" if self.constraint else ""
        speed = "/" + str(self.speed).removesuffix(".0") if self.speed != 1 else ""
        return f"{self.nodes}x{self.tasks_per_node}{constraint}" + (f"/{self.system}" if self.system else "") + speed

    def plain(self) -> dict[str, Any]:
        """As a recipe file has it."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}


def parse_groups(value: Any) -> tuple[NodeGroup, ...] | None:
    """Groups as a recipe file has them, a list of mappings, or as text: ``2x4@v100/0.4,1x8``; None if neither."""
    if value is None or value == "":
        return ()
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list | tuple):
        return None
    groups = [_from_text(entry) if isinstance(entry, str) else _from_mapping(entry) for entry in entries]
    known = [group for group in groups if group]
    return tuple(known) if len(known) == len(groups) else None


def groups_text(groups: Sequence[NodeGroup]) -> str:
    """The text that `parse_groups` reads."""
    return ",".join(map(str, groups))


def _from_text(text: str) -> NodeGroup | None:
    if (match := _TEXT.fullmatch(text)) is None:
        return None
    further: dict[str, Any] = {}
    for part in match[4].split("/")[1:]:
        key, value = ("speed", float(part)) if _NUMBER.fullmatch(part) else ("system", part)
        if key in further:
            return None
        further[key] = value
    return _checked({"nodes": int(match[1]), "constraint": match[3] or "", **further}, int(match[2]))


def _from_mapping(entry: Any) -> NodeGroup | None:
    if not isinstance(entry, Mapping) or not entry.keys() <= _KEYS:
        return None
    sizes = [entry[key] for key in ("gpus", "tasks_per_node") if key in entry]
    return _checked(entry, sizes[0]) if sizes and sizes[0] == sizes[-1] else None


def _checked(entry: Mapping[str, Any], tasks: Any) -> NodeGroup | None:
    nodes, constraint, system = entry.get("nodes"), entry.get("constraint", ""), entry.get("system", "")
    speed = entry.get("speed", 1.0)
    if any(isinstance(number, bool) for number in (nodes, tasks, speed)):
        return None
    if not (isinstance(nodes, int) and isinstance(tasks, int) and min(nodes, tasks) > 0):
        return None
    words = all(isinstance(text, str) for text in (constraint, system))
    if not (words and isinstance(speed, int | float) and SLOWEST <= speed <= 1 / SLOWEST):
        return None
    if constraint and not _CONSTRAINT.fullmatch(constraint):
        return None
    if system and (not _SYSTEM.fullmatch(system) or _NUMBER.fullmatch(system)):  # the text could not hold it
        return None
    return NodeGroup(nodes, tasks, constraint, system, float(speed))


def ranks_of(groups: Sequence[NodeGroup]) -> tuple[int, ...]:
    """The ranks on each node, in the order of the ranks."""
    return tuple(group.tasks_per_node for group in groups for _ in range(group.nodes))


def speeds_of(groups: Sequence[NodeGroup]) -> tuple[float, ...]:
    """The given speed of each rank; () if all are alike."""
    speeds = tuple(group.speed for group in groups for _ in range(group.nodes * group.tasks_per_node))
    return speeds if len(set(speeds)) > 1 else ()


def groups_of(ranks_of_nodes: Sequence[int]) -> tuple[NodeGroup, ...]:
    """Groups with these numbers of ranks; () for nodes that have the same number."""
    if len(set(ranks_of_nodes)) < 2:
        return ()
    return tuple(NodeGroup(len(list(nodes)), tasks) for tasks, nodes in groupby(ranks_of_nodes))


def place_of(rank: int, ranks_of_nodes: Sequence[int]) -> tuple[int, int]:
    """The number of a rank's node, and the rank's number on that node: ranks are laid out node by node.

    Raises:
        IndexError: there is no such rank.
    """
    for node, ranks in enumerate(ranks_of_nodes):
        if rank < ranks:
            return node, rank
        rank -= ranks
    raise IndexError(f"no rank {rank} beyond {sum(ranks_of_nodes)}")


def nodes_words(ranks_of_nodes: Sequence[int]) -> str:
    """``2 nodes x 4 tasks + 1 node x 8 tasks``."""
    parts = [(len(list(nodes)), tasks) for tasks, nodes in groupby(ranks_of_nodes)]
    return " + ".join(f"{counted(nodes, 'node')} x {counted(tasks, 'task')}" for nodes, tasks in parts)


_COUNT = re.compile(r"([0-9]+)(?:\(x([0-9]+)\))?")


def parse_ranks_of_nodes(text: str) -> tuple[int, ...] | None:
    """The ranks on each node, as Slurm writes them: ``2(x2),3``; None if this is something else."""
    matches = [_COUNT.fullmatch(part) for part in text.split(",")]
    known = [match for match in matches if match]
    if len(known) != len(matches):
        return None
    return tuple(int(match[1]) for match in known for _ in range(int(match[2] or 1)))
