"""What a user asks of Slurm's queue, and options of sbatch as given with ``--sbatch key=value``. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from bertjobs.errors import InputError
from bertjobs.slurm.notify import NOBODY, Notify

FLAG = "--sbatch"

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_OPTION = re.compile(r"[A-Za-z0-9_.,:@%+=/\[\]()&|*-]+")
OPTION_HINT = "use letters, digits and . , : @ % + = / [ ] ( ) & | * _ -"

SET_FOR_EACH_JOB = ("array", "error", "job-name", "output", "parsable", "test-only", "wait", "wrap")
"""Options that bertjobs sets for every job."""

ELSEWHERE = dict.fromkeys(("clusters", "cluster"), "log in to that cluster, and submit there")
"""Options that send a job to another cluster, which would be asked about it here."""

_OURS = "bertjobs sets it for each job"
SET_BY_BERTJOBS: Mapping[str, str] = {
    "nodes": "set --nodes",
    "ntasks": "set --nodes, or --set tasks_per_node=N",
    "ntasks-per-node": "set --gpus, or --set tasks_per_node=N",
    "gpus-per-node": "set --gpus",
    **ELSEWHERE,
    **dict.fromkeys(SET_FOR_EACH_JOB, _OURS),
}
"""Options that a run's jobs get in another way -> what to do instead."""


@dataclass(frozen=True)
class SlurmOptions:
    """What a user asks of the queue; "", () and None stand for the cluster's default.

    Attributes:
        partition, account, qos, memory: as sbatch takes them.
        time: as Slurm writes it: minutes, or hours:minutes:seconds, or days-hours.
        extra: further options, as sbatch reads them: ``--name=value`` or ``--name``.
        site: the site file's options, which come first: of two, sbatch takes the last.
        environment: names of variables that containers see as well.
        cpus: of each task.
        notify: who is told of a run's events; what Slurm itself mails is among ``site``.
    """

    partition: str = ""
    account: str = ""
    time: str = ""
    extra: tuple[str, ...] = ()
    site: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    qos: str = ""
    memory: str = ""
    cpus: int | None = None
    notify: Notify = NOBODY

    def lines(self) -> list[str]:
        """The options as ``sbatch`` reads them; InputError for one with several lines, as the second would be shell."""
        named = {"partition": self.partition, "account": self.account, "qos": self.qos, "time": self.time}
        named |= {"mem": self.memory, "cpus-per-task": "" if self.cpus is None else str(self.cpus)}
        given = [f"--{name}={value}" for name, value in named.items() if value]
        lines = [*self.site, *given, *self.extra]
        for line in lines:
            if not line.isprintable():
                raise InputError(f"an sbatch option contains a line break or control character: {line!r}", where=FLAG)
        return lines

    def parameters(self) -> dict[str, str | bool]:
        """The same by name, the last of several; True for an option without a value.

        Raises:
            InputError: one is not in sbatch's long form.
        """
        return dict(_pair(line) for line in self.lines())

    def whole_node(self, cpus: int) -> SlurmOptions:
        """These options for jobs that each get a node of their own, and use ``cpus`` of it."""
        memory = self.memory or "0"  # all of the node's
        return replace(self, cpus=cpus, memory=memory, extra=(*self.extra, "--nodes=1", "--exclusive"))

    def on_nodes(self, partition: str, constraint: str) -> SlurmOptions:
        """These options for some nodes of their own; "" is anything.

        Raises:
            InputError: a constraint holds for all nodes already, of which sbatch would forget one.
        """
        nodes = replace(self, partition=partition or self.partition)
        others = [option for option in (*self.site, *self.extra) if option_name(option) == "constraint"]
        if not constraint or others[-1:] == [f"--constraint={constraint}"]:
            return nodes
        if others:
            raise InputError(
                f"sbatch takes one constraint, but a group of nodes has {constraint}, and all have "
                f"{others[-1].partition('=')[2]}",
                where="groups",
                hint="write both into the group's, as a&b, and leave the other out",
            )
        return replace(nodes, extra=(*self.extra, f"--constraint={constraint}"))

    def less(self, names: Iterable[str]) -> SlurmOptions:
        """These options without those in ``extra`` that have one of these names."""
        left = [option for option in self.extra if option_name(option) not in names]
        return replace(self, extra=tuple(left))


def _pair(line: str) -> tuple[str, str | bool]:
    name, equals, value = line.removeprefix("--").partition("=")
    if not line.startswith("--") or " " in name:
        raise InputError(f"{line!r} is not in the form --key=value, which submitit needs", where=FLAG)
    return name, value if equals else True


def option_name(option: str) -> str:
    """``qos`` of ``--qos=high``."""
    return option.removeprefix("--").partition("=")[0]


def parse_option(text: str, ours: Mapping[str, str] = SET_BY_BERTJOBS) -> str:
    """One option as sbatch reads it, ``--key=value`` or ``--key``.

    Args:
        text: ``key=value``, or ``key`` where the option takes none; dashes in front are allowed.
        ours: options that cannot be given in this way -> what to do instead.

    Raises:
        InputError: this is not a long option, its value cannot be written in a batch script's header, or it is one of
            ``ours``.
    """
    name, equals, value = text.removeprefix("--").partition("=")
    if not _NAME.fullmatch(name) or (equals and not value):
        raise InputError(
            f"{text!r} is not an option of sbatch", where=FLAG, hint="key=value or key: qos=high, exclusive"
        )
    if len(text.splitlines()) > 1:
        raise InputError(f"an sbatch option contains a line break: {text!r}", where=FLAG)
    if equals and not is_option(value):
        raise InputError(
            f"{name}: {value!r} cannot be written in a batch script's header",
            where=FLAG,
            hint=OPTION_HINT,
        )
    if name in ours:
        raise InputError(f"sbatch's {name} cannot be given here", where=FLAG, hint=ours[name])
    return f"--{name}={value}" if equals else f"--{name}"


_ONCE = ("begin", "deadline", "dependency", "reservation")
"""Options that are about one time."""


def taken_over(before: Iterable[str], given: Iterable[str], shell: Iterable[str] = ()) -> list[str]:
    """Options of an earlier submission that a later one asks for too, as sbatch reads them.

    Args:
        before: the earlier ones.
        given: the later one's own, which replace those of the same name; nodes to exclude are added to the earlier.
        shell: names of options that the user's shell sets now.
    """
    values = dict(option.removeprefix("--").partition("=")[::2] for option in given)
    kept = []
    for option in before:
        name, _, value = option.removeprefix("--").partition("=")
        if name == "exclude" and name in values:
            kept.append(f"--exclude={value},{values[name]}")
        elif name not in (*_ONCE, *values, *shell):
            kept.append(option)
    return kept


def option_words(option: str) -> str:
    """``--sbatch key=value``: how a person gives an option that sbatch reads as ``--key=value``."""
    return f"{FLAG} {option.removeprefix('--')}"


def is_option(value: str) -> bool:
    """Whether sbatch reads this value unchanged in a script's header: no blanks, quotes, ``#`` or ``\\``."""
    return _OPTION.fullmatch(value) is not None


_SPECIAL = re.compile(r"""["'#\\]""")


def header_value(text: str) -> str:
    """A value as sbatch reads it in a script's header, where blanks end it, quotes group and ``#`` begins a comment."""
    escaped = _SPECIAL.sub(lambda match: "\\" + match[0], text)
    return f'"{escaped}"' if " " in text else escaped  # a blank cannot be escaped, only quoted


def file_name(path: str) -> str:
    """A path for sbatch's and srun's ``--output``, in which ``%`` begins a symbol such as ``%j``."""
    return path.replace("%", "%%")
