"""Nodes that differ in the number of their ranks, or in what they are: the groups of a run. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any

from bertjobs.errors import InputError
from bertjobs.wording import counted

RANKS_OF_NODES = "BERTJOBS_RANKS_OF_NODES"
"""The variable in which our launchers give the ranks on each node, as Slurm writes them."""

_KEYS = {"nodes", "gpus", "tasks_per_node", "gpu_type", "constraint", "partition", "system", "speed"}
_SIZE = r"(?:([^\s:/@]+):)?([1-9][0-9]{0,3})"
_TEXT = re.compile(rf"\s*([1-9][0-9]{{0,5}})x{_SIZE}(?:@([^\s/]+))?((?:/[^\s/]+){{0,3}})\s*")
_PARTITION = "partition="
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+")
_NAMES = {
    "gpu_type": re.compile(r"[A-Za-z0-9_.-]+"),
    "constraint": re.compile(r"[A-Za-z0-9_.:=+*|&()\[\]-]+"),
    "partition": re.compile(r"[A-Za-z0-9_.-]+"),
    "system": re.compile(rf"(?!{_NUMBER.pattern}$)[^\s/,=]+"),  # what the text can hold
}
_FEATURE = re.compile(r"[A-Za-z0-9_.:=+-]+")


SLOWEST = 0.001
"""The least of the speeds that can be given; its inverse is the largest."""


@dataclass(frozen=True)
class NodeGroup:
    """Some nodes that are alike.

    Attributes:
        nodes: how many.
        tasks_per_node: ranks on each of them: one per GPU, or per CPU process.
        gpu_type: the type of their GPUs, as Slurm knows it; "": the run's.
        constraint: what the nodes must be, as sbatch's ``--constraint`` takes it; "": anything.
        partition: where they are; "": where the run is queued.
        system: the kind of node, a key of `systems`; "": the run's.
        speed: of a rank, as a multiple of what it would be on the run's system.
    """

    nodes: int
    tasks_per_node: int
    constraint: str = ""
    system: str = ""
    speed: float = 1.0
    gpu_type: str = ""
    partition: str = ""

    def __str__(self) -> str:
        kind = f"{self.gpu_type}:" if self.gpu_type else ""
        constraint = f"@{self.constraint}" if self.constraint else ""
        partition = _PARTITION + self.partition if self.partition else ""
        speed = str(self.speed).removesuffix(".0") if self.speed != 1 else ""
        further = "".join(f"/{part}" for part in (self.system, partition, speed) if part)
        return f"{self.nodes}x{kind}{self.tasks_per_node}{constraint}{further}"

    def plain(self) -> dict[str, Any]:
        """As a recipe file has it."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}


def parse_groups(value: Any) -> tuple[NodeGroup, ...] | None:
    """Groups as a recipe file has them, a list of mappings, or as text:
    ``2xv100:4@ib/dgx1-32g/partition=old/0.4,1x8``; None if neither."""
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
    nodes, kind, tasks, constraint, parts = match.groups()
    given: dict[str, Any] = {"nodes": int(nodes), "gpu_type": kind or "", "constraint": constraint or ""}
    for part in parts.split("/")[1:]:
        key, value = _part(part)
        if key in given:
            return None
        given[key] = value
    return _checked(given, int(tasks))


def _part(text: str) -> tuple[str, Any]:
    """Of a group's text one of the parts that a slash begins: the key, and the value."""
    if text.startswith(_PARTITION):
        return "partition", text.removeprefix(_PARTITION) or None  # which is refused
    return ("speed", float(text)) if _NUMBER.fullmatch(text) else ("system", text)


def _from_mapping(entry: Any) -> NodeGroup | None:
    if not isinstance(entry, Mapping) or not entry.keys() <= _KEYS:
        return None
    gpus = entry.get("gpus")
    if isinstance(gpus, str) and "gpu_type" not in entry and (match := re.fullmatch(_SIZE, gpus)):
        entry = {**entry, "gpus": int(match[2]), "gpu_type": match[1] or ""}
    sizes = [entry[key] for key in ("gpus", "tasks_per_node") if key in entry]
    return _checked(entry, sizes[0]) if sizes and sizes[0] == sizes[-1] else None


def _checked(entry: Mapping[str, Any], tasks: Any) -> NodeGroup | None:
    nodes, speed = entry.get("nodes"), entry.get("speed", 1.0)
    if any(isinstance(number, bool) for number in (nodes, tasks, speed)):
        return None
    if not (isinstance(nodes, int) and isinstance(tasks, int) and min(nodes, tasks) > 0):
        return None
    if not (isinstance(speed, int | float) and SLOWEST <= speed <= 1 / SLOWEST):
        return None
    names = {key: entry.get(key, "") for key in _NAMES}
    for key, name in names.items():
        if not isinstance(name, str) or (name and not _NAMES[key].fullmatch(name)):
            return None
    return NodeGroup(nodes, tasks, speed=float(speed), **names)


def gpus_asked(gpu_type: str, gpus: int) -> str:
    """As many GPUs of a node as ``sbatch --gpus-per-node`` takes them: ``8``, or ``a100:8`` of one type."""
    return f"{gpu_type}:{gpus}" if gpu_type else str(gpus)


def components(groups: Sequence[NodeGroup]) -> tuple[NodeGroup, ...]:
    """The groups as components of a Slurm job: one, if one can have all their nodes.

    Then its constraint counts the nodes of each kind, ``[v100*2&a100*1]``. Slurm gives it the nodes in an order of its
    own, so this is only for groups of which nothing else is said.
    """
    first = groups[0]
    nodes: dict[str, int] = {}
    for group in groups:
        nodes[group.constraint] = nodes.get(group.constraint, 0) + group.nodes
    alike = all(replace(group, nodes=first.nodes, constraint=first.constraint) == first for group in groups)
    if not alike or (len(nodes) > 1 and not all(map(_FEATURE.fullmatch, nodes))):
        return tuple(groups)
    counted_nodes = "&".join(f"{constraint}*{count}" for constraint, count in nodes.items())
    constraint = f"[{counted_nodes}]" if len(nodes) > 1 else first.constraint
    return (replace(first, nodes=sum(nodes.values()), constraint=constraint),)


def only_component(groups: Sequence[NodeGroup], what: str, hint: str) -> NodeGroup:
    """The groups as one component.

    Args:
        what: what takes only one, in words that ``heterogeneous jobs`` complete.

    Raises:
        InputError: they are several.
    """
    first, *others = components(groups)
    if others:
        raise InputError(
            f"{what} heterogeneous jobs, which groups of nodes with different numbers of GPUs, systems or partitions "
            "need",
            where=f"groups {groups_text(groups)}",
            hint=hint,
        )
    return first


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
