"""The options of `bertjobs data prepare` for Slurm, and the command as a separate job."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import chosen_container, chosen_site
from bertjobs.errors import InputError
from bertjobs.wording import harmless

if TYPE_CHECKING:
    from bertjobs.data.prepare import PrepareOptions
    from bertjobs.data.prepare.array_options import ArrayOptions

_FROM_SITE = ("partition", "account", "qos", "time")
_NAMED = (*_FROM_SITE, "memory", "cpus")
_CUT = ("jobs", "attempts")
_SBATCH_NAMES = {"memory": "mem", "cpus": "cpus-per-task"}


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a prepare runs."""
    option = parser.add_argument_group("where it runs").add_argument
    option("--processes", metavar="N", type=int, default=0, help="processes on this machine; 0: one per core")
    option("--slurm", action="store_true", help="run on the cluster, as job arrays; the options below apply to these")
    option("--queue", action="store_true",
           help="with --slurm: return at once; a small separate job queues the arrays and watches them, and "
           "`bertjobs submit --after ID` waits for it. Nodes must be able to call sbatch")  # fmt: skip
    option("--nodes", metavar="N", type=int, default=argparse.SUPPRESS,
           help="instead of --jobs: at most N jobs per stage, each alone on a node, with all its CPUs and "
           "memory")  # fmt: skip
    option("--jobs", metavar="N", type=int, default=argparse.SUPPRESS,
           help="at most N array elements per stage, wherever Slurm has space for them (default: 16)")  # fmt: skip
    option("--cpus", metavar="N", type=int, default=argparse.SUPPRESS,
           help="CPUs of each job, which runs that many tasks at a time (default: 1; with --nodes all)")  # fmt: skip
    for name, meaning in (
        ("partition", "partition to run in"),
        ("account", "account to charge"),
        ("qos", "quality of service"),
        ("time", "time limit of each job, as for sbatch, such as 2:00:00"),
    ):
        option(f"--{name}", metavar=name.upper(), default=argparse.SUPPRESS,
               help=f"{meaning} (default: the site's, else the cluster's)")  # fmt: skip
    option("--memory", metavar="MEMORY", default=argparse.SUPPRESS,
           help="memory of each job, such as 4G; a task needs less than 0.5G (default: the cluster's)")  # fmt: skip
    option("--sbatch", metavar="KEY=VALUE", action="append", default=argparse.SUPPRESS,
           help="any further sbatch option, such as --sbatch qos=high; can be given several times")  # fmt: skip
    option("--attempts", metavar="N", type=int, default=argparse.SUPPRESS,
           help="how often a task may fail (default: 3)")  # fmt: skip
    option("--image", metavar="IMAGE", default=argparse.SUPPRESS,
           help="with --slurm: container image that the jobs run in, as for `bertjobs submit`; '' for none "
           "(default: IMAGE, else the site's)")  # fmt: skip
    option("--mounts", metavar="SRC:DST", default=argparse.SUPPRESS,
           help="further container mounts, separated by commas (default: MOUNTS, else the site's)")  # fmt: skip
    option("--container", metavar="NAME", default=argparse.SUPPRESS,
           help="what starts the image: pyxis, apptainer or auto (default: CONTAINER, else the site's)")  # fmt: skip
    option("--site", metavar="NAME", default=argparse.SUPPRESS,
           help="site file with partition, account, qos, time and sbatch options, made by `bertjobs init`; "
           "`none` uses none (default: the only one, or the one named default)")  # fmt: skip


def refuse_unused_placement(args: argparse.Namespace) -> None:
    """InputError for an option that is of no effect on this machine."""
    if args.slurm:
        return
    for name in ("queue", *_CUT, "nodes", *_NAMED, "sbatch", "image", "mounts", "container"):
        if getattr(args, name, None):
            raise InputError(f"--{name} is for a cluster", where=f"--{name}", hint="add --slurm")


def queue_prepare(parser: argparse.ArgumentParser, args: argparse.Namespace, options: PrepareOptions) -> int:
    """Queue this same command, without --queue, as a separate job, and say what to type next."""
    from bertjobs.data.corpus import Source, named_on_disk
    from bertjobs.data.prepare.queue_job import log_file, queue
    from bertjobs.slurm.shell import shell_line

    # What can be checked quickly here; the other checks read the whole corpus.
    options.check()
    for note in options.chosen_vocabulary.notes:
        print(harmless(f"note: {note}"))
    for text in options.corpora:
        Source.parse(named_on_disk(text))
    output, arrays = Path(args.output), array_options(args)
    # The job does not get the variables that name a container here.
    words = [*given_words(parser, args), *(arrays.container.flags() if arrays.container else ())]
    job = queue([sys.executable, "-m", "bertjobs", "data", "prepare", *words], arrays, output, os.environ)
    print(harmless(f"queued as job {job}; log {str(log_file(output)).replace('%j', job)}"))
    site = ["--site", args.site] if getattr(args, "site", None) else []
    after = ["--recipe", "NAME", "--data", str(output.absolute()), "--after", job, *run_sets(options.settings())]
    print("next: " + harmless(shell_line(["bertjobs", "submit", *site, *after])))
    return 0


def given_words(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """The options of a command line that differ from their defaults, without --queue."""
    words: list[str] = []
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if action.dest == "queue" or value is None or value == action.default:
            continue
        flag, values = action.option_strings[-1], value if isinstance(value, list) else [value]
        words += [flag] if isinstance(value, bool) else [f"{flag}={one}" for one in values]
    return words


def run_sets(settings: Mapping[str, Any]) -> list[str]:
    """What a run on data of these settings has to set, unless its recipe does."""
    from bertjobs.recipe.predictions import MASKED_SHARE

    sets = [] if settings.get("next_sentence", True) else ["next_sentence=false"]
    if settings["masking"] == "static":
        sets.append("masking=static")
    elif (share := settings["masked_share"]) != MASKED_SHARE:
        sets.append(f"masked_share={share:g}")
    if settings.get("masked_units", "pieces") == "words":
        sets.append("masked_units=words")
    return [word for setting in sets for word in ("--set", setting)]


def array_options(args: argparse.Namespace) -> ArrayOptions:
    """The options for sbatch: from the flags, else from the user's shell (SBATCH_...), else from the site file."""
    from bertjobs.data.prepare.array_options import ArrayOptions, checked_slurm, job_environment
    from bertjobs.slurm.environment import users_defaults
    from bertjobs.slurm.options import SlurmOptions, option_name, parse_option

    cut: dict[str, Any] = {name: value for name, value in vars(args).items() if name in _CUT}
    named: dict[str, Any] = {name: value for name, value in vars(args).items() if name in _NAMED}
    extra = [parse_option(text, ours={}) for text in getattr(args, "sbatch", ())]
    taken = set(map(option_name, extra))
    named = {name: value for name, value in users_defaults(os.environ).items() if name not in taken} | named
    if site := chosen_site(argparse.Namespace(site=getattr(args, "site", None))):
        given = [f"--{_SBATCH_NAMES.get(name, name)}" for name in named]
        for option in reversed(site.sbatch_options([*given, *extra])):
            name, _, value = option.removeprefix("--").partition("=")
            if name in _FROM_SITE:
                named[name] = value
            else:
                extra.insert(0, option)
    cut["container"] = chosen_container(args, site)
    options = ArrayOptions(SlurmOptions(**named, extra=tuple(extra)), **cut)
    if not hasattr(args, "nodes"):
        return options
    if "jobs" in cut:
        raise InputError("--jobs and --nodes both say how many jobs a stage has", hint="give one of them")
    options.check()
    return options.on_whole_nodes(args.nodes, checked_slurm(job_environment(os.environ)))
