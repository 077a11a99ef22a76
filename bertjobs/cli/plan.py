"""`bertjobs plan`, `submit` and `resume`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.recipes import add_recipe_arguments, resolve_arguments
from bertjobs.cli.runs import add_run_argument, add_site_argument, chosen_site, opened
from bertjobs.errors import InputError

if TYPE_CHECKING:
    from bertjobs.data.manifest import DataManifest
    from bertjobs.launch.plan import Plan
    from bertjobs.launch.queue import Queue
    from bertjobs.launch.script import SlurmOptions
    from bertjobs.recipe.resolve import Resolved
    from bertjobs.recipe.spec import RunSpec
    from bertjobs.run.directory import RunDirectory


def register(subparsers: Any) -> None:
    """Add `plan`, `submit` and `resume` to the command line."""
    plan = subparsers.add_parser(
        "plan",
        help="show what would run: batch arithmetic, where each value came from, the script",
        description="Show what would run and change nothing: the batch arithmetic, where each value came from, and "
        "the batch scripts that would be submitted.",
        allow_abbrev=False,
    )
    _add_backend(plan)
    add_site_argument(plan)
    plan.add_argument("--json", action="store_true", help="print JSON")
    add_recipe_arguments(plan)
    plan.set_defaults(handler=_plan)

    submit = subparsers.add_parser(
        "submit",
        help="start a run: queue its phases on Slurm, or train on this machine",
        description="Check everything, write the run directory, and queue a job for each phase, each behind the one "
        "before; or train here, where there is no Slurm.",
        allow_abbrev=False,
    )
    _add_backend(submit)
    add_site_argument(submit)
    add_recipe_arguments(submit)
    submit.set_defaults(handler=_submit)

    resume = subparsers.add_parser(
        "resume",
        help="continue a run whose phases are not all done",
        description="Continue a run from its newest checkpoints, with the settings of its run.yml.",
        allow_abbrev=False,
    )
    add_run_argument(resume)
    _add_backend(resume)
    resume.set_defaults(handler=_resume)


def _add_backend(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it runs")
    group.add_argument(
        "--backend",
        choices=("auto", "slurm", "local"),
        default="auto",
        help="slurm, local (this machine), or auto: Slurm where sbatch is found, unless the recipe's system has "
        "no scheduler (default: auto)",
    )
    group.add_argument("--partition", metavar="NAME", default="", help="Slurm partition (default: the cluster's)")
    group.add_argument("--account", metavar="NAME", default="", help="Slurm account (default: your own)")
    group.add_argument(
        "--time", metavar="TIME", default="", help="time limit of a job, as Slurm writes it: minutes or D-HH:MM:SS"
    )
    group.add_argument(
        "--sbatch",
        metavar="OPTION",
        action="append",
        default=[],
        help="any further sbatch option as one word, such as --sbatch=--qos=high; can be given several times",
    )


def _options(args: argparse.Namespace) -> SlurmOptions:
    """What the flags say to sbatch, and where they are silent, the site."""
    from bertjobs.launch.script import SlurmOptions

    given = SlurmOptions(args.partition, args.account, args.time, tuple(args.sbatch))
    site = chosen_site(args)
    if site is None:
        return given
    named = {name: getattr(given, name) or getattr(site, name) for name in ("partition", "account", "time")}
    given = replace(given, **named)
    return replace(given, site=tuple(site.sbatch_options(given.lines())), environment=site.environment)


def _with_vocabulary(resolved: Resolved, data: DataManifest) -> Resolved:
    return replace(resolved, spec=data.sized(resolved.spec))


def _rate(spec: RunSpec, backend: str) -> float | None:
    from bertjobs.launch.estimate import matrix_product_rate

    return matrix_product_rate() if backend == "local" and not spec.gpus else None


def _queue(spec: RunSpec, backend: str, args: argparse.Namespace) -> Queue:
    """What is asked of Slurm and what it answers; nothing where it is not to be used."""
    from bertjobs.launch.queue import NOT_ASKED, ask_queue
    from bertjobs.launch.script import render_script, run_sub

    if backend != "slurm":
        return NOT_ASKED
    template, options = run_sub().read_text(encoding="utf-8"), _options(args)
    script = render_script(template, spec, spec.phases[0].phase, options, sys.executable)
    return ask_queue(script, options.partition, options.time, os.environ)


def _plan(args: argparse.Namespace) -> int:
    from bertjobs.data.manifest import DataManifest
    from bertjobs.launch.estimate import earlier_runs, measured_peaks
    from bertjobs.launch.plan import arithmetic, as_json, make_plan, provenance
    from bertjobs.launch.preflight import problems
    from bertjobs.launch.run import absolute, choose_backend
    from bertjobs.launch.script import render_script, run_sub
    from bertjobs.launch.slurm import Slurm

    resolved = resolve_arguments(args, os.environ, site=chosen_site(args))
    spec = absolute(resolved.spec)
    resolved = replace(resolved, spec=spec)
    slurm = Slurm(os.environ)
    backend = choose_backend(args.backend, spec, slurm)
    data = None
    if Path(spec.data).exists():
        data = DataManifest.read(Path(spec.data))
        resolved = _with_vocabulary(resolved, data)
    earlier, queue = earlier_runs(Path(spec.results)), _queue(spec, backend, args)
    plan = make_plan(
        *(resolved, backend, data, _rate(spec, backend)),
        earlier=earlier,
        queue=queue,
        problems=problems(spec, backend, slurm, queue, measured_peaks(spec, earlier)),
        now_unix_s=time.time(),
    )
    if args.json:
        print(json.dumps(as_json(plan), indent=2))
        return 0
    print(arithmetic(plan))
    print("\nWhere each value came from\n\n" + provenance(plan))
    if backend == "local":
        print(f"\nIt would run on this machine: {spec.world_size} worker processes, no batch script.")
        return 0
    template = run_sub().read_text(encoding="utf-8")
    for phase in spec.phases:
        print(f"\nThe script of phase {phase.phase}, as it would be given to sbatch\n")
        print(render_script(template, plan.spec, phase.phase, _options(args), sys.executable))
    return 0


def _checked_plan(args: argparse.Namespace) -> Plan:
    """The plan of a new run, all checks passed; nothing is written."""
    from bertjobs.launch.estimate import earlier_runs, measured_peaks
    from bertjobs.launch.plan import make_plan
    from bertjobs.launch.preflight import preflight
    from bertjobs.launch.run import absolute, choose_backend
    from bertjobs.launch.slurm import Slurm

    resolved = resolve_arguments(args, os.environ, site=chosen_site(args))
    spec = absolute(resolved.spec)
    slurm = Slurm(os.environ)
    backend = choose_backend(args.backend, spec, slurm)
    earlier, queue = earlier_runs(Path(spec.results)), _queue(spec, backend, args)
    data, warnings = preflight(spec, backend, slurm, queue, measured_peaks(spec, earlier))
    resolved = _with_vocabulary(replace(resolved, spec=spec), data)
    return make_plan(
        *(resolved, backend, data, _rate(spec, backend)),
        earlier=earlier,
        queue=queue,
        problems=warnings,
        now_unix_s=time.time(),
    )


def _submit(args: argparse.Namespace) -> int:
    from bertjobs.launch.plan import arithmetic
    from bertjobs.launch.run import write_run

    plan = _checked_plan(args)
    print(arithmetic(plan) + "\n", flush=True)
    if plan.backend == "slurm":
        return _start_on_slurm(plan.spec, args)
    return _run_here(plan.spec, write_run(plan.spec))


def _start_on_slurm(spec: RunSpec, args: argparse.Namespace) -> int:
    from bertjobs.launch.environment import clean_environment
    from bertjobs.launch.run import start_on_slurm
    from bertjobs.launch.slurm import Slurm

    directory, jobs = start_on_slurm(spec, _options(args), Slurm(clean_environment(os.environ)))
    for number, job in jobs.items():
        print(f"queued phase {number} as job {job}")
    site = chosen_site(args)
    usual = Path(site.results if site and site.results else "results").absolute()
    named = f" --site {args.site}" if args.site else ""
    results = named if spec.results == str(usual) else f" --results {spec.results}"
    print(f"\nrun directory {directory.root}\nnext:")
    for verb in ("status", "logs --follow", "cancel"):
        print(f"  bertjobs {verb} {spec.run}{results}")
    return 0


def _run_here(spec: RunSpec, directory: RunDirectory) -> int:
    from bertjobs.cli.report import finish
    from bertjobs.launch.run import run_here

    for number in (signal.SIGTERM, signal.SIGHUP):  # `bertjobs cancel` and a closed terminal ask as ctrl-C does
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
    code = run_here(directory, spec, os.environ, sys.stdout)
    if code == 0:
        print("\n" + finish(directory))
    elif code == 75:
        print(f"stopped with a checkpoint; continue with: bertjobs resume {directory.root}")
    return code


def _resume(args: argparse.Namespace) -> int:
    from bertjobs.launch.preflight import check_backend, check_data
    from bertjobs.launch.run import choose_backend, unfinished
    from bertjobs.launch.slurm import Slurm
    from bertjobs.launch.status import ACTIVE, run_status

    directory = opened(args)
    spec = unfinished(directory)
    slurm = Slurm(os.environ)
    for status in run_status(directory, slurm, 0.0):
        if status.state in ACTIVE:
            raise InputError(
                f"phase {status.phase} of run {spec.run!r} is {status.state} as job {status.job}",
                hint=f"wait, or stop it first: bertjobs cancel {args.run}",
            )
    backend = choose_backend(args.backend, spec, slurm)
    check_backend(spec, backend, slurm)
    check_data(spec)
    if backend == "slurm":
        return _start_on_slurm(spec, args)
    return _run_here(spec, directory)
