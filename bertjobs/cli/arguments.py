"""What verbs share: the flags of settings, of runs and of the queue, and the plan that they are checked against."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.errors import InputError
from bertjobs.wording import counted

if TYPE_CHECKING:
    from bertjobs.launch.plan.plan import Plan
    from bertjobs.launch.plan.problem import Problem
    from bertjobs.launch.plan.queue import Queue
    from bertjobs.recipe.catalogue import Catalogue
    from bertjobs.recipe.resolve import Resolved
    from bertjobs.recipe.spec import RunSpec
    from bertjobs.run.directory import RunDirectory
    from bertjobs.run.study import Study
    from bertjobs.slurm.container import Container
    from bertjobs.slurm.options import SlurmOptions
    from bertjobs.slurm.site import Site

BACKENDS = ("auto", "slurm", "submitit", "local")
_NAMED = ("partition", "account", "time")
_CONTAINER = ("image", "mounts", "container")


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
        InputError: one is no option of sbatch, or contradicts another.
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


def with_earlier_flags(args: argparse.Namespace, directory: RunDirectory) -> argparse.Namespace:
    """The arguments of a resume, with what the run was submitted with where they say nothing; says so."""
    from bertjobs.run.asked import asked_before
    from bertjobs.slurm.environment import users_defaults
    from bertjobs.slurm.options import option_name, taken_over

    before, given = asked_before(directory), asked_flags(args)
    kept = taken_over(before.options, given, users_defaults(os.environ))
    if kept and args.backend != "local":
        print(f"as submitted before: {' '.join(kept)}", file=sys.stderr)
    taken = {option_name(option) for option in kept}
    own = [option for option in args.sbatch if option_name(option) not in taken]
    at_once = str(before.at_once) if args.at_once is None and before.at_once else args.at_once
    return argparse.Namespace(**{**vars(args), "sbatch": [*kept, *own], "at_once": at_once})


def make_checked_plan(args: argparse.Namespace, resolved: Resolved, resumed: RunDirectory | None = None) -> Plan:
    """The plan of a run with all its problems; nothing is written or queued.

    Args:
        resumed: the directory of a run that is continued; None for a new one.
    """
    from bertjobs.launch.plan.estimate import earlier_runs, measured_peaks
    from bertjobs.launch.plan.packs import packs_of
    from bertjobs.launch.plan.plan import make_plan
    from bertjobs.launch.plan.preflight import Circumstances, inspect
    from bertjobs.launch.plan.task_work import work_of
    from bertjobs.launch.start import absolute, choose_backend
    from bertjobs.slurm.client import Slurm

    jobs = awaited_jobs(args)
    options = slurm_options(args)
    spec = absolute(resolved.spec)
    slurm = Slurm(os.environ)
    backend = choose_backend(args.backend, spec, slurm, resumed)
    earlier, queue = earlier_runs(Path(spec.results)), _asked_queue(spec, backend, options)
    around = Circumstances(queue, measured_peaks(spec, earlier), jobs, resumed, getattr(args, "by_hand", False))
    data, problems = inspect(spec, backend, slurm, around)
    return make_plan(
        *(replace(resolved, spec=data.sized(spec) if data else spec), backend, data, _rate(spec, backend)),
        work=work_of(spec),
        packs=packs_of(spec, data),
        earlier=earlier,
        queue=queue,
        problems=[*problems, *(_of_shell(options) if backend != "local" else [])],
        now_unix_s=time.time(),
    )


def _of_shell(options: SlurmOptions) -> list[Problem]:
    """What is wrong with a job that the user's shell has a part in."""
    from bertjobs.launch.plan.preflight import notify_problems
    from bertjobs.launch.plan.queue import shell_problems

    return [*notify_problems(options.notify, os.environ), *shell_problems(os.environ)]


def scripts(spec: RunSpec, args: argparse.Namespace) -> Mapping[int, str]:
    """The batch script of each phase, as submit would write it now."""
    from bertjobs.launch.dry_run import queued
    from bertjobs.run.directory import RunDirectory
    from bertjobs.slurm.client import Slurm

    directory = RunDirectory(Path(spec.results) / spec.run)
    jobs = queued(directory, spec, slurm_options(args), sys.executable, Slurm(os.environ))
    return {job.phase: job.script for job in jobs}


def _rate(spec: RunSpec, backend: str) -> float | None:
    from bertjobs.launch.plan.estimate import matrix_product_rate

    return matrix_product_rate() if backend == "local" and not spec.gpus else None


def _asked_queue(spec: RunSpec, backend: str, options: SlurmOptions) -> Queue:
    """What the job asks of Slurm, and Slurm's answers; empty if Slurm is not used."""
    from bertjobs.launch.plan.queue import NOT_ASKED, ask_queue
    from bertjobs.launch.script import submissions

    if backend == "local":
        return NOT_ASKED
    script = submissions(spec, options, sys.executable)[0].script
    return ask_queue(script, options.partition, options.time, os.environ, spec.groups)


def add_run_argument(
    parser: argparse.ArgumentParser, *, optional: bool = False, without: str = "default: all runs"
) -> None:
    """Add RUN, --results and --site, which `opened` reads; ``without`` says what holds if an ``optional`` RUN is not
    given."""
    text = "the run's name, or its folder" + (f" ({without})" if optional else "")
    parser.add_argument("run", metavar="RUN", nargs="?" if optional else None, help=text)
    add_results_arguments(parser)


def add_results_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --results and --site, which `results_folder` reads."""
    parser.add_argument(
        "--results", metavar="DIR", help="folder of all runs (default: the site's, else results) [RESULTS]"
    )
    add_site_argument(parser)


def add_site_argument(parser: argparse._ActionsContainer) -> None:
    """Add --site, which `chosen_site` reads."""
    parser.add_argument(
        "--site",
        metavar="NAME",
        help="site file made by `bertjobs init`, or none to use none (default: the only one, or the one named default)",
    )


def chosen_site(args: argparse.Namespace) -> Site | None:
    """The site that --site names; else the default one, if there is a Slurm and the run may use it."""
    from bertjobs.launch.plan.site_file import read_site
    from bertjobs.slurm.client import Slurm

    local = getattr(args, "backend", "auto") == "local" or not Slurm(os.environ).present
    return None if args.site is None and local else read_site(args.site, os.environ)


def chosen_container(args: argparse.Namespace, site: Site | None) -> Container | None:
    """The container that --image, --mounts and --container ask for, else the environment, else the site; None without
    an image. What it runs is the code that runs now.

    Raises:
        InputError: a value is not valid, or this code cannot be mounted.
    """
    from bertjobs.recipe.schema import RUN
    from bertjobs.slurm.container import Container, submitting_code

    asked = site.settings() if site else {}
    asked |= {key: value for key in _CONTAINER if (value := os.environ.get(RUN[key].env))}
    asked |= {key: value for key in _CONTAINER if (value := getattr(args, key, None)) is not None}
    image, mounts, starter = (RUN[key].parse(asked.get(key, RUN[key].default), f"--{key}") for key in _CONTAINER)
    if not image:
        return None
    if Path(image).exists():
        image = str(Path(image).absolute())
    return Container(image, mounts, starter, site.environment if site else (), submitting_code())


def results_folder(args: argparse.Namespace) -> Path:
    """The folder of all runs: from the flag, the environment, the site, or the default."""
    if given := args.results or os.environ.get("RESULTS"):
        return Path(given)
    site = chosen_site(args)
    return Path(site.results if site and site.results else "results")


def opened(args: argparse.Namespace) -> RunDirectory:
    """The run that the arguments name; InputError if there is none."""
    from bertjobs.run.directory import open_run

    if study := named_study(args):
        names = ", ".join(directory.name for directory in study.directories[:3])
        raise InputError(
            f"{args.run!r} is a study of {counted(len(study.members), 'run')}",
            where=str(study.file),
            hint=f"name one of its runs: {names}" + ", ..." * (len(study.members) > 3),
        )
    return open_run(results_folder(args), args.run)


def named_study(args: argparse.Namespace) -> Study | None:
    """The study that the arguments name; None if they name none, or a run."""
    from bertjobs.run.directory import RunDirectory
    from bertjobs.run.study import find_study

    results = results_folder(args)
    return None if RunDirectory(results / args.run).is_run else find_study(results, args.run)


_METAVARS = {"int": "N", "float": "X", "switch": "true|false", "path": "PATH", "mounts": "SRC:DST", "phase": "PHASE",
             "groups": "NODESxGPUS[@CONSTRAINT],..."}  # fmt: skip


def add_recipe_arguments(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """Add --recipes, --set and a flag per setting, all from the schema's table; help lists the most used ones.

    The settings ``without`` get no flag: the verb has others for them.

    Values stay text here: `resolve` parses them, so that a bad one is an InputError like any other.
    """
    from bertjobs.recipe.reference import default_text
    from bertjobs.recipe.schema import REQUIRED, SETTINGS

    group = parser.add_argument_group("settings (in brackets: environment variables that set the same)")
    for setting in sorted(SETTINGS, key=lambda setting: not setting.listed):
        if setting.key in without:
            parser.set_defaults(**{f"setting_{setting.key}": None})
        elif setting.flag:
            default = "" if setting.default is REQUIRED else f" (default: {default_text(setting)})"
            environment = f" [{setting.env}]" if setting.env else ""
            group.add_argument(
                setting.flag,
                dest=f"setting_{setting.key}",
                metavar="|".join(setting.choices) or _METAVARS.get(setting.kind, "NAME"),
                help=setting.help + default + environment if setting.listed else argparse.SUPPRESS,
            )
    add_files(group)
    group.add_argument(
        "--set",
        dest="sets",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any setting, such as phase1.lr=1e-3; can be repeated; "
        "`bertjobs recipes settings [KEY]` explains them all",
    )


def resolve_arguments(
    args: argparse.Namespace,
    environ: Mapping[str, str],
    *,
    nodes: int | None = None,
    tasks_per_node: int | None = None,
    site: Site | None = None,
    training_rows: int | None = None,
) -> Resolved:
    """The run that the flags of `add_recipe_arguments`, the environment and the recipe files ask for.

    ``nodes`` and ``tasks_per_node`` are those of the running job, if there is one; ``site`` gives what all others leave
    open; ``training_rows`` as in `resolve`. Raises InputError.
    """
    from bertjobs.recipe.resolve import resolve

    prefix = "setting_"
    flags = {key.removeprefix(prefix): value for key, value in vars(args).items() if key.startswith(prefix)}
    return resolve(
        catalogue_of(args, environ),
        flags=flags,
        sets=args.sets,
        environ=environ,
        nodes=nodes,
        tasks_per_node=tasks_per_node,
        site=site.settings() if site else None,
        site_origin=site.origin if site else "",
        training_rows=training_rows,
    )


def resolve_run(args: argparse.Namespace, environ: Mapping[str, str]) -> Resolved:
    """A new run, by `resolve_arguments`; one that fine-tunes on prepared data by `resolve_task_run`."""
    from bertjobs.tasks.prepared import MANIFEST, PreparedTask

    resolved = resolve_arguments(args, environ, site=chosen_site(args))
    spec = resolved.spec
    if not spec.task or not (Path(spec.data) / MANIFEST).is_file():
        return resolved
    rows = PreparedTask.read(Path(spec.data)).splits["train"].rows
    return resolve_task_run(args, environ, rows, Path(spec.init_checkpoint) if spec.init_checkpoint else None)


def resolve_task_run(
    args: argparse.Namespace, environ: Mapping[str, str], rows: int, shape_of: Path | None
) -> Resolved:
    """A new run that fine-tunes on this many training ``rows``: it has the steps of its epochs, and the shape of the
    weights in ``shape_of``, if given."""
    from bertjobs.recipe.bert_config import read_model_spec
    from bertjobs.recipe.resolve import with_model

    resolved = resolve_arguments(args, environ, site=chosen_site(args), training_rows=rows)
    if shape_of is None:
        return resolved
    return with_model(resolved, read_model_spec(shape_of), str(shape_of / "config.json"))


def add_files(parser: argparse._ActionsContainer, *, below: bool = False) -> None:
    parser.add_argument(
        "--recipes",
        dest="recipe_files",
        metavar="FILE",
        action="append",
        default=argparse.SUPPRESS if below else [],
        help="a recipe file of your own; can be repeated",
    )


def catalogue_of(args: argparse.Namespace, environ: Mapping[str, str]) -> Catalogue:
    from bertjobs.recipe.catalogue import catalogue_files, load_catalogue

    return load_catalogue(catalogue_files(environ, Path.cwd(), args.recipe_files))
