"""`bertjobs submit` and `resume`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import add_recipe_arguments, add_run_argument, chosen_site, named_study, opened, resolve_run
from bertjobs.cli.checked_plan import make_checked_plan
from bertjobs.cli.interrupts import stops
from bertjobs.cli.queue_arguments import (
    add_backend_arguments,
    asked_flags,
    awaited_jobs,
    slurm_options,
    with_earlier_flags,
)
from bertjobs.cli.study import (
    Resolve,
    add_at_once,
    add_study_arguments,
    check_at_once,
    is_study,
    resume_study,
    start_study,
)
from bertjobs.errors import InputError

if TYPE_CHECKING:
    from bertjobs.launch.plan.plan import Plan
    from bertjobs.launch.plan.problem import Problem
    from bertjobs.launch.start import Queueing
    from bertjobs.recipe.resolve import Resolved
    from bertjobs.recipe.spec import RunSpec
    from bertjobs.run.directory import PhaseDirectory, RunDirectory
    from bertjobs.slurm.options import SlurmOptions


def register(subparsers: Any) -> None:
    """Add `submit` and `resume` to the command line."""
    submit = subparsers.add_parser(
        "submit",
        usage="%(prog)s --recipe NAME [--nodes N] [--set KEY=VALUE ...] [FLAG ...]",
        help="start a run: queue its phases on Slurm, or train on this machine",
        description="Check everything, then queue one job per phase; without Slurm, train here.",
        allow_abbrev=False,
    )
    add_backend_arguments(submit)
    add_output(submit)
    add_study_arguments(submit)
    add_recipe_arguments(submit)
    submit.set_defaults(handler=_submit)

    resume = subparsers.add_parser(
        "resume",
        help="continue a run whose phases are not all done",
        description="Continue a run from its newest checkpoints, with the settings of its run.yml; the checks are "
        "the same as for submit.",
        allow_abbrev=False,
    )
    add_run_argument(resume)
    add_backend_arguments(resume, site=False)
    add_output(resume)
    resume.add_argument(
        "--set",
        dest="sets",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change a setting that does not affect the weights of a phase that has begun, such as nodes=4 or "
        "phase1.micro_batch=16; it goes into run.yml",
    )
    resume.add_argument(
        "--from-step",
        metavar="N",
        help="go back to the checkpoint of step N of the phase that is not done, with its optimizer and its place in "
        "the data; later checkpoints are kept under other names (default: the newest)",
    )
    resume.add_argument(
        "--queue-anew",
        action="store_true",
        help="ask the queue only for what this command line and the site say, not for what the run was submitted with",
    )
    add_at_once(resume)
    resume.set_defaults(handler=_resume)


def add_output(parser: argparse.ArgumentParser, but: str = "") -> None:
    """Add --dry-run, which changes nothing ``but`` something, and --json."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be written and queued; change nothing" + but,
    )
    parser.add_argument("--json", action="store_true", help="print JSON: run directory, jobs, next commands")


def _submit(args: argparse.Namespace) -> int:
    return start_all(args, lambda own: resolve_run(own, os.environ))


def start_all(args: argparse.Namespace, resolve: Resolve) -> int:
    """Start the run, or all runs of the study, that ``resolve`` makes of the arguments; returns the exit code."""
    if is_study(args):
        return start_study(args, resolve)
    check_at_once(args, "--seeds N or --sweep KEY=A,B makes one")
    return start(resolve(args), args)


def start(resolved: Resolved, args: argparse.Namespace) -> int:
    """Check a new run, say what it will do, and queue it or run it here; returns the command's exit code."""
    from bertjobs.launch.plan.plan import arithmetic
    from bertjobs.launch.plan.preflight import refuse

    plan = make_checked_plan(args, resolved)
    refuse(plan.problems)
    if args.json:
        _warn(plan.problems)
    else:
        print(arithmetic(plan) + "\n", flush=True)
    if args.dry_run:
        return _dry_run(plan, args)
    if plan.backend == "local":
        return _run_here(plan, args)
    return _start_on_slurm(plan, args)


def _resume(args: argparse.Namespace) -> int:
    from bertjobs.launch.plan.preflight import refuse
    from bertjobs.launch.resume import edit_problems, resumed
    from bertjobs.launch.unanswered import UnansweredError
    from bertjobs.run.asked import asked_before
    from bertjobs.run.going_back import put_back, put_back_on_failure

    if study := named_study(args):
        if args.from_step is not None:
            raise InputError("--from-step is for one run", where="--from-step", hint="name one run of the study")
        return resume_study(study, args)
    check_at_once(args, "leave it out, or name a study")
    directory = opened(args)
    resolved = resumed(directory, args.sets)
    args = with_earlier_flags(args, asked_before(directory))
    _check_idle(directory, args.run)
    phase = resolved.spec.phases[0].phase
    moved = _go_back(args, directory.phase(phase))
    with put_back_on_failure(moved, unless=UnansweredError):
        plan = make_checked_plan(args, resolved, directory)
        _warn(edit_problems(directory, os.environ, Path.cwd()))
        refuse(plan.problems)
        _warn(plan.problems)
        if args.dry_run:
            code = _dry_run(plan, args)
            put_back(moved)
            return code
        if moved:
            names = ", ".join(aside.name for aside in moved.values())
            words = f"phase {phase} goes back to step {args.from_step}; the checkpoints after it are kept as {names}"
            print(words, file=sys.stderr if args.json else sys.stdout)
        if plan.backend != "local":
            return _start_on_slurm(plan, args)
    return _run_here(plan, args)


def _go_back(args: argparse.Namespace, phase: PhaseDirectory) -> Mapping[Path, Path]:
    """Set the phase's checkpoints after --from-step aside: where each was -> where it is."""
    from bertjobs.recipe.sweep import read_count
    from bertjobs.run.going_back import LAST_STEP, set_aside

    step = read_count(args.from_step, "--from-step", LAST_STEP)
    return {} if step is None else set_aside(phase, step)


def _warn(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(problem.render(), file=sys.stderr)


def _check_idle(directory: RunDirectory, name: str) -> None:
    """InputError if the run has a queued or running job."""
    from bertjobs.launch.watch.status import run_status
    from bertjobs.slurm.client import Slurm
    from bertjobs.slurm.jobs import RUNNING, WAITING

    for status in run_status(directory, Slurm(os.environ), 0.0):
        if status.state in (*RUNNING, *WAITING):
            raise InputError(
                f"phase {status.phase} of run {directory.name!r} is {status.state} as job {status.job}",
                hint=f"wait, or stop it first: bertjobs cancel {name}",
            )


def _dry_run(plan: Plan, args: argparse.Namespace) -> int:
    from bertjobs.launch.dry_run import dry_run
    from bertjobs.slurm.client import Slurm
    from bertjobs.slurm.environment import clean_environment

    slurm = Slurm(clean_environment(os.environ))
    actions = dry_run(plan.spec, plan.backend, slurm_options(args), sys.executable, slurm, awaited_jobs(args))
    if args.json:
        print(json.dumps(actions.as_json(), indent=2))
        return 0
    print(actions.render())
    if plan.backend == "submitit":
        print("submitit would queue one job per phase.")
    elif plan.backend == "local":
        print(f"This machine would run {plan.spec.world_size} processes per phase: {sys.executable} -m bertjobs.train")
    return 0


def _start_on_slurm(plan: Plan, args: argparse.Namespace) -> int:
    from bertjobs.launch.start import start_on_slurm
    from bertjobs.run.asked import QueueOptions, record_asked
    from bertjobs.slurm.client import Slurm
    from bertjobs.slurm.environment import clean_environment

    slurm = Slurm(clean_environment(os.environ))
    by = _by_submitit(plan) if plan.backend == "submitit" else None
    directory, jobs = start_on_slurm(plan.spec, slurm_options(args), slurm, after=awaited_jobs(args), by=by)
    record_asked(directory, QueueOptions(asked_flags(args)))
    commands = _next_commands(plan, args)
    if args.json:
        _print_json(directory, jobs, commands)
        return 0
    for number, job in jobs.items():
        print(f"queued phase {number} as job {job}")
    print(f"\nrun directory {directory.root}\nnext:")
    for command in commands:
        print(f"  {command}")
    return 0


def _by_submitit(plan: Plan) -> Queueing:
    from bertjobs.launch.submitit.backend import queue_submitit

    def queue(
        directory: RunDirectory, spec: RunSpec, options: SlurmOptions, after: Sequence[str], chain: str
    ) -> dict[int, str]:
        limit = plan.queue.limit_s
        return queue_submitit(directory, spec, options, environ=os.environ, after=after, chain=chain, limit_s=limit)

    return queue


def _next_commands(plan: Plan, args: argparse.Namespace) -> list[str]:
    from bertjobs.slurm.shell import quote

    spec, site = plan.spec, chosen_site(args)
    usual = Path(site.results if site and site.results else "results").absolute()
    named = f" --site {args.site}" if args.site else ""
    results = named if spec.results == str(usual) else f" --results {quote(spec.results)}"
    return [f"bertjobs {verb} {spec.run}{results}" for verb in ("status", "logs --follow", "cancel")]


def _print_json(directory: RunDirectory, jobs: dict[int, str], commands: list[str], **more: Any) -> None:
    result = {"run_directory": str(directory.root), "jobs": jobs, "next": commands, **more}
    print(json.dumps(result, indent=2))


def _run_here(plan: Plan, args: argparse.Namespace) -> int:
    from bertjobs.cli.report import finish
    from bertjobs.launch.start import start_here
    from bertjobs.run.directory import RunDirectory
    from bertjobs.run.journal import read_story
    from bertjobs.slurm.shell import quote

    out = sys.stderr if args.json else sys.stdout
    with stops():
        code = start_here(plan.spec, os.environ, out)
    directory = RunDirectory(Path(plan.spec.results) / plan.spec.run)
    commands = [f"bertjobs resume {quote(str(directory.root))}"] if code == 75 else []
    if code == 0:
        print("\n" + finish(directory), file=out)
    elif commands:
        print(f"stopped with a checkpoint; continue with: {commands[0]}", file=out)
    if args.json:
        jobs = {job.phase: job.id for job in read_story(directory.events()).jobs.values() if job.is_submitted}
        _print_json(directory, jobs, commands, exit_code=code)
    return code
