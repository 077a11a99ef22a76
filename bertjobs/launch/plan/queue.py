"""What a run asks of Slurm's queue, what Slurm answers, and which requests can never be met.

Parsers and checks are pure; `ask_queue` runs the commands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bertjobs.errors import nearest
from bertjobs.launch.plan.problem import Problem
from bertjobs.recipe.groups import NodeGroup, components
from bertjobs.recipe.spec import RunSpec
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.cluster import Partition, partitions_of
from bertjobs.slurm.environment import CLUSTERS, clean_environment, not_passed_on
from bertjobs.slurm.refusals import RUN_HINTS
from bertjobs.slurm.start_estimate import StartEstimate
from bertjobs.slurm.times import format_time, limit_s, parse_time


@dataclass(frozen=True)
class Queue:
    """What is asked of the queue, and what Slurm answers; if it was not asked, nothing is known.

    Attributes:
        partition: if several, separated by commas, whichever starts the job first; "": the cluster's default.
        time: time limit of a job as Slurm writes it; "": the partition's default.
        partitions: those of the cluster.
        test: the answer of `sbatch --test-only` to the first phase's script; the others ask for the same.
        of_groups: the partition of each component of a heterogeneous job; "" for ``partition``.
    """

    partition: str = ""
    time: str = ""
    partitions: tuple[Partition, ...] = ()
    test: StartEstimate = field(default_factory=StartEstimate)
    of_groups: tuple[str, ...] = ("",)

    @property
    def chosen(self) -> list[Partition]:
        """The cluster's partitions that the job may go to."""
        names = self.partition.split(",") if self.partition else [p.name for p in self.partitions if p.default]
        return [partition for partition in self.partitions if partition.name in names]

    @property
    def limit_s(self) -> float | None:
        """Time limit of a job in seconds, infinite for none; None if unknown."""
        if self.time:
            try:
                return limit_s(self.time)
            except ValueError:
                return None
        chosen = [one for names in self.of_groups for one in replace(self, partition=names or self.partition).chosen]
        defaults = [one.limit_s if one.default_s is None else one.default_s for one in chosen]
        return min(map(_limit, defaults), default=None)


def _limit(seconds: int | None) -> float:
    """A limit of 0 means none, as for Slurm."""
    return float(seconds) if seconds else math.inf


NOT_ASKED = Queue()
NOT_NOW = "Requested node configuration is not available"
"""What ``sbatch --test-only`` says of nodes that are drained or down, where sbatch itself queues the job."""


def ask_queue(
    script: str, partition: str, time: str, environ: Mapping[str, str], groups: Sequence[NodeGroup] = ()
) -> Queue:
    """Ask Slurm for the partitions, and whether it would accept this script; queues nothing, never fails."""
    slurm = Slurm(clean_environment(environ))
    of_groups = tuple(group.partition for group in groups) or ("",)
    return Queue(partition, time, partitions_of(slurm), slurm.start_estimate(script), of_groups)


def shell_problems(environ: Mapping[str, str]) -> list[Problem]:
    """A warning for each variable of sbatch's in the user's shell that has no effect."""
    words = {
        True: ("jobs go to this machine's own cluster", "log in to that cluster, and submit there"),
        False: ("it is not passed on", "give the option itself: --sbatch KEY=VALUE, or sbatch in the site file"),
    }
    return [
        Problem(f"{name} has no effect: {why}", where="your shell", hint=hint, is_warning=True)
        for name in not_passed_on(environ)
        for why, hint in [words[name in CLUSTERS]]
    ]


def queue_problems(spec: RunSpec, queue: Queue) -> list[Problem]:
    """Problems if no partition would ever start such a job, or if ``sbatch --test-only`` refuses it."""
    if queue.time:
        try:
            parse_time(queue.time)
        except ValueError as error:
            hint = "minutes, HH:MM:SS or D-HH:MM:SS, such as 240, 4:00:00 or 1-12:00:00"
            return [Problem(str(error), where="--time", hint=hint)]
    parts = components(spec.node_groups)
    problems = [problem for part in parts for problem in _against_all(spec, queue, part)] or _together(parts, queue)
    if problems or not queue.test.refusal:  # sbatch would say the same in fewer words
        return problems
    if queue.chosen and NOT_NOW in queue.test.refusal:
        # The nodes exist: sbatch queues the job, and it waits for them.
        what = f"enough nodes exist, but not all of them can be used now: {queue.test.refusal}"
        hint = "the job waits until they are back; `sinfo -R` says why they are drained or down"
        return [Problem(what, where="sbatch --test-only", hint=hint, is_warning=True)]
    hint = RUN_HINTS.about(queue.test.refusal)
    return [Problem(f"sbatch refuses: {queue.test.refusal}", where="sbatch --test-only", hint=hint)]


def _against_all(spec: RunSpec, queue: Queue, nodes: NodeGroup) -> list[Problem]:
    """Why none of the partitions that they may be in would ever start the job, for nodes of a run that are alike."""
    queue = replace(queue, partition=nodes.partition or queue.partition)
    unknown = _unknown(queue, "groups" if nodes.partition else "--partition")
    gpus = nodes.tasks_per_node if spec.groups and spec.gpus else spec.gpus
    kind = nodes.gpu_type or spec.gpu_type
    alone = replace(spec, groups=(), nodes=nodes.nodes, gpus=gpus, gpu_type=kind)
    against = [_against(alone, queue, partition) for partition in queue.chosen]
    if not all(against):  # one that starts it is enough
        return unknown
    problems = [problem for problems_of_one in against for problem in problems_of_one]
    if spec.groups:
        place, hint = f"groups {nodes}", "change the group, or its partition"
        problems = [replace(problem, where=f"{place}, {problem.where}", hint=hint) for problem in problems]
    return unknown + problems


def _together(parts: Sequence[NodeGroup], queue: Queue) -> list[Problem]:
    """Partitions that have enough nodes for each of the groups that go there, and too few for all of them."""
    by_partition: dict[str, list[NodeGroup]] = {}
    for part in parts:
        by_partition.setdefault(part.partition or queue.partition, []).append(part)
    problems = []
    for names, there in by_partition.items():
        partitions, wanted = replace(queue, partition=names).chosen, sum(part.nodes for part in there)
        if len(there) > 1 and partitions and wanted > sum(one.nodes for one in partitions):
            have = " and ".join(f"{one.name} has {one.nodes}" for one in partitions)
            what = f"the groups ask for {wanted} nodes together, but partition {have}: the job would wait forever"
            where = f"groups {', '.join(map(str, there))}"
            problems.append(Problem(what, where, "ask for fewer nodes, or give a group a partition of its own"))
    return problems


def _unknown(queue: Queue, where: str) -> list[Problem]:
    """Partitions that are asked for, and that the cluster does not have."""
    known = [partition.name for partition in queue.partitions]
    names = filter(None, queue.partition.split(",")) if known else ()
    return [
        Problem(f"the cluster has no partition {name!r}", where, nearest(name, known))
        for name in names
        if name not in known
    ]


def _against(spec: RunSpec, queue: Queue, partition: Partition) -> list[Problem]:
    """Why a partition would never start the job."""
    where = f"partition {partition.name}"
    problems = []
    if not partition.up:
        problems.append(Problem(f"partition {partition.name} is down", where, "choose another with --partition"))
    if spec.nodes > partition.nodes:
        what = f"the run asks for {spec.nodes} nodes, but partition {partition.name} has {partition.nodes}"
        problems.append(Problem(what, where, "set --nodes"))
    problems += _against_gpus(spec, partition, where)
    limit = _limit(partition.limit_s)
    if queue.time and (queue.limit_s or 0) > limit:
        problems.append(
            Problem(
                f"the job asks for a time limit of {queue.time}, but partition {partition.name} allows "
                f"{format_time(partition.limit_s)}: the job would wait forever",
                where,
                f"set --time {format_time(partition.limit_s)}: a run that needs longer continues in further jobs",
            )
        )
    return problems


def _against_gpus(spec: RunSpec, partition: Partition, where: str) -> list[Problem]:
    """Why no node of a partition has the GPUs that the run asks for."""
    if not spec.gpus:
        return []
    types = partition.gpu_types
    if spec.gpu_type and spec.gpu_type not in types:
        listed = ", ".join(f"{kind} ({count} per node)" for kind, count in types.items())
        what = f"partition {partition.name} has no GPUs of type {spec.gpu_type!r}; its types: {listed or 'none'}"
        kind, count = next(iter(types.items()), ("", spec.gpus))
        hint = f"ask for one of these, such as --gpus {kind}:{count}" if kind else "leave the type out"
        return [Problem(what, where, hint)]
    most = max((kind.gpu_count(spec.gpu_type) for kind in partition.kinds), default=0)
    if spec.gpus <= most:
        return []
    asked = f"{spec.gpus} {spec.gpu_type}".strip() + " GPUs per node"
    what = f"the run asks for {asked}, but nodes of partition {partition.name} have {most}"
    return [Problem(what, where, "choose another with --partition, or set --gpus")]
