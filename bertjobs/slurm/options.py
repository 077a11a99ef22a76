"""An option of sbatch, as ``--sbatch key=value`` gives it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bertjobs.errors import InputError

FLAG = "--sbatch"

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_OURS = "bertjobs sets it for each job"
SET_BY_BERTJOBS: Mapping[str, str] = {
    "nodes": "set --nodes",
    "ntasks": "set --nodes, or --set tasks_per_node=N",
    "ntasks-per-node": "set --gpus, or --set tasks_per_node=N",
    "gpus-per-node": "set --gpus",
    **dict.fromkeys(("array", "error", "job-name", "output", "parsable", "test-only", "wait", "wrap"), _OURS),
}
"""Options that a run's jobs get from elsewhere -> what to do instead."""


def parse_option(text: str, ours: Mapping[str, str] = SET_BY_BERTJOBS) -> str:
    """One option as sbatch reads it, ``--key=value`` or ``--key``.

    Args:
        text: ``key=value``, or ``key`` where the option takes none; dashes in front are allowed.
        ours: options that cannot be given so -> what to do instead.

    Raises:
        InputError: this is no long option, its value cannot stand in a batch script's header, or it is one of ``ours``.
    """
    name, equals, value = text.removeprefix("--").partition("=")
    if not _NAME.fullmatch(name) or (equals and not value):
        raise InputError(f"{text!r} is no option of sbatch", where=FLAG, hint="key=value or key: qos=high, exclusive")
    if len(text.splitlines()) > 1:
        raise InputError(f"an sbatch option holds a line break: {text!r}", where=FLAG)
    if equals and not is_option(value):
        raise InputError(
            f"{name}: {value!r} cannot stand in a batch script's header",
            where=FLAG,
            hint="use letters, digits and . , : @ % + = / [ ] ( ) & | * _ -",
        )
    if name in ours:
        raise InputError(f"sbatch's {name} cannot be given here", where=FLAG, hint=ours[name])
    return f"--{name}={value}" if equals else f"--{name}"


def option_words(option: str) -> str:
    """``--sbatch key=value``: how a person gives an option that sbatch reads as ``--key=value``."""
    return f"{FLAG} {option.removeprefix('--')}"


_OPTION = re.compile(r"[A-Za-z0-9_.,:@%+=/\[\]()&|*-]+")


def is_option(value: str) -> bool:
    """Whether sbatch reads this value in a script's header as it stands: no blanks, quotes, ``#`` or ``\\``."""
    return _OPTION.fullmatch(value) is not None
