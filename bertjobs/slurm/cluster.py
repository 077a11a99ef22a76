"""What a Slurm cluster has: partitions, GPUs, limits, preemption, accounting, containers, as its own commands report.

The parsers are pure and read what Slurm 21.08 and later print; `look` runs the commands.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertjobs.errors import BertjobsError, InputError, nearest
from bertjobs.files.file_system import FileSystem, file_system_of
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.environment import clean_environment
from bertjobs.slurm.shell import shell_line
from bertjobs.slurm.times import parse_time

SINFO_FORMAT = "%P|%a|%l|%L|%D|%c|%m|%G|%M|%p"  # one line for each partition and kind of node in it
SINFO_WORDS = ("sinfo", "--noheader", "--exact", f"--format={SINFO_FORMAT}")
CONFIG_WORDS = ("scontrol", "show", "config")
MAX_ARRAY_SIZE = 1001
"""Slurm's default, if its configuration is not known."""

CONFIG_KEYS = (
    *("ClusterName", "SLURM_VERSION", "SelectType", "PreemptType", "PreemptMode", "JobRequeue"),
    *("MaxArraySize", "AccountingStorageType"),
)

_ABSENT = ("", "(null)", "N/A", "n/a", "none", "NONE")


@dataclass(frozen=True)
class Gpus:
    """GPUs of one type in a node; ``kind`` is their type in gres.conf, "" if it has none."""

    count: int
    kind: str = ""


@dataclass(frozen=True)
class NodeKind:
    """A group of identical nodes of a partition: how many, and what each has. Memory in MB (2^20 bytes)."""

    nodes: int
    cpus: int
    memory_mb: int
    gpus: tuple[Gpus, ...] = ()

    def gpu_count(self, kind: str = "") -> int:
        """GPUs of one node: those of a type, or of all types ("")."""
        return sum(gpus.count for gpus in self.gpus if kind in ("", gpus.kind))


@dataclass(frozen=True)
class Partition:
    """A partition.

    Attributes:
        default: jobs that name no partition go here.
        up: it starts jobs.
        limit_s: the longest that a job may run, in seconds; None: unlimited.
        default_s: the time limit of a job that names none; None: ``limit_s``.
        preempt_mode: what happens to its jobs when others preempt them: REQUEUE, CANCEL, SUSPEND, OFF, ...
        tier: jobs of a higher tier go first, and preempt others if preemption is by partition.
    """

    name: str
    default: bool
    up: bool
    limit_s: int | None
    default_s: int | None
    kinds: tuple[NodeKind, ...]
    preempt_mode: str
    tier: int

    @property
    def nodes(self) -> int:
        """Nodes of all kinds."""
        return sum(kind.nodes for kind in self.kinds)

    @property
    def gpus(self) -> int:
        """GPUs in all of its nodes."""
        return sum(kind.nodes * kind.gpu_count() for kind in self.kinds)

    @property
    def gpu_types(self) -> dict[str, int]:
        """The types of its GPUs, each with the most that one node has; without those of no type."""
        types: dict[str, int] = {}
        for gpus in (gpus for kind in self.kinds for gpus in kind.gpus if gpus.kind):
            types[gpus.kind] = max(gpus.count, types.get(gpus.kind, 0))
        return types


@dataclass(frozen=True)
class Association:
    """What a user may charge: an account, in one partition or (if "") in all, with these QOS."""

    account: str
    partition: str
    qos: tuple[str, ...]
    default_qos: str


@dataclass(frozen=True)
class Cluster:
    """All that `look` found.

    Attributes:
        config: of `scontrol show config`, the keys in `CONFIG_KEYS`.
        partitions: those that this user sees, in Slurm's order.
        sacct: whether accounting answers.
        pyxis: whether srun starts containers.
        apptainer: whether Apptainer or Singularity is installed here.
        associations: the user's; () if accounting does not report any.
        default_account: the user's, or "".
        file_system: of the folder that `look` was given.
    """

    config: Mapping[str, str]
    partitions: tuple[Partition, ...]
    sacct: bool
    pyxis: bool
    apptainer: bool
    associations: tuple[Association, ...]
    default_account: str
    file_system: FileSystem

    @property
    def name(self) -> str:
        """The cluster's own name, or "cluster"."""
        return self.config.get("ClusterName") or "cluster"

    @property
    def preempts(self) -> bool:
        """Whether jobs are preempted at all."""
        return self.config.get("PreemptType", "preempt/none") not in ("preempt/none", "(null)")


def parse_gres(text: str) -> tuple[Gpus, ...]:
    """The GPUs in a node's gres, such as "gpu:a100:8(S:0-1),nvme:2" or "gpu:4"; other resources are left out."""
    gpus: list[Gpus] = []
    for entry in re.sub(r"\([^)]*\)", "", text).split(","):  # sockets and indices may hold commas
        name, *rest = entry.strip().split(":")
        if name != "gpu":
            continue
        count = int(rest.pop()) if rest and rest[-1].isdecimal() else 1
        kind = next((word for word in rest if word != "no_consume"), "")
        gpus += [Gpus(count, kind)] if count else []
    return tuple(gpus)


_GPUS_OF_TRES = re.compile(r"\bgres/gpu(:[^=,]+)?=(\d+)")


def gpus_given(record: Mapping[str, str]) -> int:
    """The GPUs of a running job on all of its nodes, from ``scontrol show job --details``: by the gres themselves, else
    by what accounting counts, where the total may be missing beside the types."""
    if gpus := parse_gres(record.get("JOB_GRES", "")):
        return sum(one.count for one in gpus)
    counts = _GPUS_OF_TRES.findall(record.get("AllocTRES") or record.get("TRES", ""))
    total = [int(count) for kind, count in counts if not kind]
    return total[0] if total else sum(int(count) for _, count in counts)


def parse_sinfo(text: str) -> tuple[Partition, ...]:
    """Partitions from ``sinfo --noheader --exact --format`` with `SINFO_FORMAT`.

    Raises ValueError for a line that is not of this format.
    """
    rows: dict[str, list[list[str]]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != len(SINFO_FORMAT.split("|")):
            raise ValueError(f"this line has another format: {line!r}")
        rows.setdefault(fields[0], []).append(fields)
    return tuple(_partition(mark, lines) for mark, lines in rows.items())


def _partition(mark: str, lines: Sequence[Sequence[str]]) -> Partition:
    _, available, limit, default, *_, preempt_mode, tier = lines[0]
    kinds = [
        NodeKind(_number(nodes), _number(cpus), _number(memory), parse_gres(gres))
        for _, _, _, _, nodes, cpus, memory, gres, _, _ in lines
    ]
    return Partition(
        name=mark.removesuffix("*"),
        default=mark.endswith("*"),
        up=available.startswith("up"),
        limit_s=None if limit in _ABSENT else parse_time(limit),
        default_s=None if default in _ABSENT else parse_time(default),
        kinds=tuple(kind for kind in kinds if kind.nodes),
        preempt_mode=preempt_mode,
        tier=_number(tier),
    )


def _number(text: str) -> int:
    """``16``, and ``16+`` where some nodes have more."""
    return int(text.rstrip("+"))


def parse_config(text: str) -> dict[str, str]:
    """The values of `CONFIG_KEYS` in ``scontrol show config``; unset ones are left out."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    values = {key.strip(): value.strip() for key, value in pairs}
    return {key: values[key] for key in CONFIG_KEYS if values.get(key) not in (None, "", "(null)")}


def parse_associations(text: str) -> tuple[Association, ...]:
    """From ``sacctmgr -nP show associations format=Account,Partition,QOS,DefaultQOS``, in order, each once."""
    associations: dict[Association, None] = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) == 4 and fields[0]:
            account, partition, qos, default = fields
            associations[Association(account, partition, tuple(filter(None, qos.split(","))), default)] = None
    return tuple(associations)


def choose_partition(partitions: Sequence[Partition], asked: str | None = None) -> Partition:
    """The partition asked for, or else the best to train in of those that are up.

    That is one with GPUs if there is any: the cluster's default if it has GPUs, else the one with the most GPUs.
    Without GPUs it is the default, else the one with the most nodes.

    Raises:
        InputError: there is none, or none with the name asked for.
    """
    if asked:
        for partition in partitions:
            if partition.name == asked:
                return partition
        hint = nearest(asked, [partition.name for partition in partitions])
        raise InputError(f"the cluster has no partition {asked!r}", where="--partition", hint=hint)
    usable = [partition for partition in partitions if partition.up and partition.nodes]
    if not usable:
        raise InputError("no partition of this cluster is up", where="sinfo", hint="ask its admin, or try again later")
    return max(usable, key=lambda p: (bool(p.gpus), p.default, p.gpus, p.nodes))


def partitions_of(slurm: Slurm) -> tuple[Partition, ...]:
    """The partitions that this user sees, in Slurm's order; () if sinfo does not answer, or in another format."""
    try:
        return parse_sinfo(slurm.printed(SINFO_WORDS) or "")
    except ValueError:
        return ()


def fewest_cpus(slurm: Slurm, partition: str) -> int:
    """CPUs of the smallest node of a partition (of the cluster if it is ""); 1 if Slurm does not say."""
    chosen = [f"--partition={partition}"] if partition else []
    counts = (slurm.printed(["sinfo", "--noheader", "--exact", "--format=%c", *chosen]) or "").split()
    return min((_number(count) for count in counts if count.rstrip("+").isdigit()), default=1)


def max_array_size(slurm: Slurm) -> int:
    """The most elements of one job array; 1 if the cluster allows no arrays."""
    size = parse_config(slurm.printed(CONFIG_WORDS) or "").get("MaxArraySize", "")
    return max(1, int(size)) if size.isdigit() else MAX_ARRAY_SIZE


def describe_cluster(environ: Mapping[str, str], folder: Path) -> Cluster:
    """Ask Slurm's commands, on ``environ``'s PATH, what the cluster has; ``folder`` is where runs may go.

    Raises:
        InputError: this machine has no Slurm.
        BertjobsError: Slurm's controller gave no answer, or one that cannot be read.
    """
    slurm = Slurm(clean_environment(environ))
    if not slurm.has("sinfo"):
        raise InputError(
            "sinfo was not found on the PATH: this machine has no Slurm",
            hint="log in to a submit host of the cluster; training on this machine needs no site file: "
            "bertjobs submit --backend local",
        )
    try:
        partitions = parse_sinfo(slurm.needed(SINFO_WORDS))
    except ValueError as error:
        raise BertjobsError(f"sinfo's answer cannot be read: {error}", where=shell_line(SINFO_WORDS)) from error
    config = parse_config(slurm.needed(CONFIG_WORDS))
    accounting = "slurmdbd" in config.get("AccountingStorageType", "")
    user = _user(environ)
    show = ["sacctmgr", "--noheader", "--parsable2", "--readonly", "show"]
    of_user = [f"user={user}", f"cluster={config.get('ClusterName', '')}"]
    associations = [*show, "associations", *of_user, "format=Account,Partition,QOS,DefaultQOS"]
    default_account = [*show, "user", user, "format=DefaultAccount"]
    sacct = ["sacct", "--noheader", "--allocations", "--starttime=now", f"--user={user}"]
    return Cluster(
        config=config,
        partitions=partitions,
        sacct=slurm.printed(sacct) is not None,
        pyxis=slurm.has_pyxis(),
        apptainer=slurm.has_apptainer(),
        associations=parse_associations((accounting and slurm.printed(associations)) or ""),
        default_account=((accounting and slurm.printed(default_account)) or "").strip().partition("\n")[0],
        file_system=file_system_of(folder),
    )


def _user(environ: Mapping[str, str]) -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # the directory service does not answer
        return environ.get("USER", str(os.geteuid()))
