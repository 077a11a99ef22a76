"""What is asked of Slurm's queue: its flags, and from where each option comes."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import add_site_argument, chosen_site
from bertjobs.errors import InputError

if TYPE_CHECKING:
    from bertjobs.run.asked import QueueOptions
    from bertjobs.slurm.options import SlurmOptions

BACKENDS = ("auto", "slurm", "submitit", "local")
_NAMED = ("partition", "account", "time")


def add_backend_arguments(parser: argparse.ArgumentParser, *, site: bool = True) -> None:
    """Add --backend and the options for Slurm; also --site, unless the parser already has it (``site`` False)."""
    group = parser.add_argument_group("where it runs")
    group.add_argument(
        "--backend",
        metavar="NAME",
        choices=BACKENDS,
        default="auto",
        help="slurm, submitit, local (here), auto (default): slurm where there is sbatch, if the system has a "
        "scheduler",
    )
    group.add_argument("--partition", metavar="NAME", default="", help="Slurm partition (default: the cluster's)")
    group.add_argument("--account", metavar="NAME", default="", help="Slurm account (default: your own)")
    group.add_argument("--time", metavar="TIME", default="", help="time limit per job: minutes, or D-HH:MM:SS")
    group.add_argument(
        "--sbatch",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="sbatch option, such as qos=high; can be repeated",
    )
    group.add_argument(
        "--after",
        metavar="JOB",
        action="append",
        default=[],
        help="wait until this Slurm job has ended, or several: 17,18",
    )
    if site:
        add_site_argument(group)


def awaited_jobs(args: argparse.Namespace) -> tuple[str, ...]:
    """The job ids that --after gives, each once; InputError for anything else."""
    from bertjobs.run.own_job import is_slurm_job

    jobs = [job.strip() for text in args.after for job in text.split(",")]
    for job in jobs:
        if not is_slurm_job(job):
            raise InputError(
                f"{job!r} is not the id of a job", where="--after", hint="digits, as squeue shows them: 4711, or 4711_3"
            )
    return tuple(dict.fromkeys(jobs))


def slurm_options(args: argparse.Namespace) -> SlurmOptions:
    """The options for sbatch: from the flags, else from the user's shell (SBATCH_...), else from the site."""
    from bertjobs.slurm.options import SlurmOptions

    _, extra = _queue_flags(args)
    asked = {name: (value, origin) for name, value, origin in queue_sources(args)}
    named: dict[str, Any] = {name: asked[name][0] for name in _NAMED if name in asked}
    qos, origin = asked.get("qos", ("", ""))
    # Further flags and the site's own options have their place.
    given = SlurmOptions(**named, extra=tuple(extra), qos=qos if origin.startswith("environment") else "")
    if (site := chosen_site(args)) is None:
        return given
    options = tuple(site.sbatch_options(given.lines()))
    return replace(given, site=options, environment=site.environment, notify=site.notify)


def queue_sources(args: argparse.Namespace) -> list[list[str]]:
    """What is asked of the queue: each option, its value and where that came from."""
    from bertjobs.slurm.environment import DEFAULTS, users_defaults

    flags, extra = _queue_flags(args)
    flags |= dict(option.removeprefix("--").partition("=")[::2] for option in extra)
    site, shell = chosen_site(args), users_defaults(os.environ)
    rows = []
    for name, variable in DEFAULTS.items():
        in_order = (
            (flags.get(name), f"flag --{name}" if name in _NAMED else f"flag --sbatch {name}"),
            (shell.get(name), f"environment {variable}"),
            (getattr(site, name, None), site.origin if site else ""),
        )
        rows += [[name, value, origin] for value, origin in in_order if value][:1]
    return rows


def _queue_flags(args: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """The options that have a flag of their own, by name; and further ones, as sbatch reads them.

    Raises:
        InputError: one is not an option of sbatch, or contradicts another.
    """
    from bertjobs.slurm.options import parse_option

    named = {name: value for name in _NAMED if (value := getattr(args, name))}
    extra = []
    for option in map(parse_option, args.sbatch):
        name, _, value = option.removeprefix("--").partition("=")
        if name not in _NAMED:
            extra.append(option)
        elif named.get(name, value) != value:
            raise InputError(f"--{name} {named[name]} contradicts --sbatch {name}={value}", hint="give one of them")
        else:
            named[name] = value  # the checks look at it
    return named, extra


def asked_flags(args: argparse.Namespace) -> tuple[str, ...]:
    """What the flags ask of the queue, as sbatch reads it."""
    named, extra = _queue_flags(args)
    return (*(f"--{name}={value}" for name, value in named.items()), *extra)


def with_earlier_flags(args: argparse.Namespace, before: QueueOptions) -> argparse.Namespace:
    """The arguments of a resume, with what the run was submitted with where they say nothing; says so."""
    from bertjobs.slurm.environment import users_defaults
    from bertjobs.slurm.options import option_name, taken_over

    given = asked_flags(args)
    kept = [] if args.queue_anew else taken_over(before.options, given, users_defaults(os.environ))
    if kept and args.backend != "local":
        print(f"as submitted before: {' '.join(kept)}", file=sys.stderr)
    taken = {option_name(option) for option in kept}
    own = [option for option in args.sbatch if option_name(option) not in taken]
    at_once = str(before.at_once) if args.at_once is None and before.at_once else args.at_once
    return argparse.Namespace(**{**vars(args), "sbatch": [*kept, *own], "at_once": at_once})
