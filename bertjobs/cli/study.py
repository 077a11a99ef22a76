"""`bertjobs study`, and what other verbs do with a study: start, resume."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import add_run_argument, named_study, results_folder
from bertjobs.cli.checked_plan import make_checked_plan
from bertjobs.cli.interrupts import stops
from bertjobs.cli.queue_arguments import asked_flags, awaited_jobs, slurm_options, with_earlier_flags
from bertjobs.errors import InputError, nearest
from bertjobs.wording import Paint, counted

if TYPE_CHECKING:
    from bertjobs.launch.plan.plan import Plan
    from bertjobs.launch.watch.study import MemberResult
    from bertjobs.recipe.resolve import Resolved
    from bertjobs.recipe.spec import RunSpec
    from bertjobs.run.study import Member, Study

Resolve = Callable[[argparse.Namespace], "Resolved"]
"""From a verb's arguments to the run that they ask for."""


def register(subparsers: Any) -> None:
    """Add `study` to the command line."""
    parser = subparsers.add_parser(
        "study",
        help="show a study: its runs, mean and spread over seeds, what failed",
        description="The runs of a study that --seeds or --sweep started: state, step and measure of each, and for "
        "each setting the mean, standard deviation, minimum and maximum over its seeds. The measure is a task's, on "
        "its dev data; for pretraining the held-out masked-LM loss. Runs that failed are named with the cause and "
        "what to type. Without a name, the studies.",
        allow_abbrev=False,
    )
    add_run_argument(parser, optional=True, without="default: the list of all studies")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(handler=_study)


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --seeds, --sweep and --at-once."""
    parser.add_argument("--seeds", metavar="N", help="a study of N runs, with seeds from the recipe's on")
    parser.add_argument(
        "--sweep",
        metavar="KEY=A,B",
        action="append",
        default=[],
        dest="sweeps",
        help="a study: a run per value; repeated: all combinations",
    )
    add_at_once(parser)


def add_at_once(parser: argparse.ArgumentParser) -> None:
    """Add --at-once."""
    parser.add_argument("--at-once", metavar="N", help="most runs of a study on Slurm at a time (default: all)")


def check_at_once(args: argparse.Namespace, hint: str) -> None:
    """InputError if --at-once is given for a single run."""
    if getattr(args, "at_once", None) is not None:
        raise InputError("--at-once is for the runs of a study", where="--at-once", hint=hint)


def is_study(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for several runs."""
    return args.seeds is not None or bool(args.sweeps)


def start_study(args: argparse.Namespace, resolve: Resolve) -> int:
    """Check all runs of a new study, then queue them as one array or run them here; returns the exit code."""
    from bertjobs.launch.plan.plan import arithmetic
    from bertjobs.launch.plan.preflight import refuse
    from bertjobs.launch.start import absolute
    from bertjobs.recipe.sweep import combinations, read_count, read_sweeps
    from bertjobs.run.study import Study, check_new

    base = resolve(args)
    spec = absolute(base.spec)
    sweeps = read_sweeps(args.sweeps, [phase.phase for phase in spec.phases], args.sets)
    settings = combinations(sweeps, read_count(args.seeds, "--seeds"), spec.seed)
    study = Study.of(Path(spec.results), spec.run, settings)
    check_new(study)
    plans = []
    for member in study.members:
        own = _arguments_of(args, study, member)
        plans.append(make_checked_plan(own, _applied(resolve(own), member)))
    refuse(list(dict.fromkeys(problem for plan in plans for problem in plan.problems)))
    if not args.json:
        print(arithmetic(plans[0]) + "\n", flush=True)
        keys = " and ".join(settings[0])
        print(f"study {study.name}: {counted(len(plans), 'run')} like this one, which differ in {keys}", flush=True)
    return _start(study, plans, args)


def _arguments_of(args: argparse.Namespace, study: Study, member: Member) -> argparse.Namespace:
    """Those of one run of a study."""
    given = {**vars(args), "setting_run": study.run(member), "is_member": True}
    if "seed" in member.settings:
        given["setting_seed"] = None  # the first run's
    return argparse.Namespace(**{**given, "swept": member.settings})


def _applied(resolved: Resolved, member: Member) -> Resolved:
    from bertjobs.recipe.sweep import check_applied

    check_applied(resolved, member.settings)
    return resolved


def resume_study(study: Study, args: argparse.Namespace) -> int:
    """Continue the runs of a study that are neither done nor active; returns the exit code."""
    from bertjobs.launch.plan.preflight import refuse
    from bertjobs.launch.resume import resumed
    from bertjobs.run.asked import asked_for_study

    varied = {key for member in study.members for key in member.settings}
    for text in args.sets:
        if (key := text.partition("=")[0].strip()) in varied:
            raise InputError(f"the runs of study {study.name!r} differ in {key}", where=f"--set {text}")
    left = [one for one in results_of(study) if one.has_failed]
    if not left:
        raise InputError(
            f"study {study.name!r} has no run to resume: all are done, queued or running",
            where=str(study.file),
            hint=f"bertjobs study {study.name}",
        )
    directories = {directory.name: directory for directory in study.directories}
    args = with_earlier_flags(args, asked_for_study([directories[one.run] for one in left]))
    plans = []
    for one in left:
        directory = directories[one.run]
        plans.append(make_checked_plan(args, resumed(directory, args.sets), directory))
    refuse(list(dict.fromkeys(problem for plan in plans for problem in plan.problems)))
    print(
        f"study {study.name}: {counted(len(left), 'run')} to resume: {', '.join(one.run for one in left)}",
        file=_out(args),
    )
    return _start(study, plans, args)


def _start(study: Study, plans: Sequence[Plan], args: argparse.Namespace) -> int:
    backend, specs = plans[0].backend, [plan.spec for plan in plans]
    if backend == "submitit":
        raise InputError("submitit cannot queue a study", where="--backend", hint="--backend slurm, or local")
    if args.dry_run:
        return _dry_run(study, specs, backend, args)
    return _run_here(study, specs, args) if backend == "local" else _queue(study, specs, args)


def _out(args: argparse.Namespace) -> Any:
    return sys.stderr if args.json else sys.stdout


def _at_once(args: argparse.Namespace) -> int | None:
    from bertjobs.recipe.sweep import read_count

    return read_count(args.at_once, "--at-once")


def _dry_run(study: Study, specs: Sequence[RunSpec], backend: str, args: argparse.Namespace) -> int:
    from bertjobs.launch.dry_run import study_dry_run
    from bertjobs.slurm.client import Slurm
    from bertjobs.slurm.environment import clean_environment

    options, slurm = slurm_options(args), Slurm(clean_environment(os.environ))
    at_once, after = _at_once(args), awaited_jobs(args)
    actions = study_dry_run(study, specs, backend, options, slurm, at_once=at_once, after=after)
    print(json.dumps(actions.as_json(), indent=2) if args.json else actions.render())
    return 0


def _queue(study: Study, specs: Sequence[RunSpec], args: argparse.Namespace) -> int:
    from bertjobs.launch.study import start_study_on_slurm
    from bertjobs.run.asked import QueueOptions, record_asked
    from bertjobs.run.directory import RunDirectory
    from bertjobs.slurm.client import Slurm
    from bertjobs.slurm.environment import clean_environment

    slurm, options = Slurm(clean_environment(os.environ)), slurm_options(args)
    at_once = _at_once(args)
    jobs = start_study_on_slurm(study, specs, options, slurm, at_once=at_once, after=awaited_jobs(args))
    for spec in specs:
        record_asked(RunDirectory(study.results / spec.run), QueueOptions(asked_flags(args), at_once))
    if args.json:
        print(json.dumps({**study.as_json(), "jobs": jobs, "next": _next_commands(study)}, indent=2))
        return 0
    for run, job in jobs.items():
        print(f"queued run {run} as job {job}")
    print("\nnext:")
    for command in _next_commands(study):
        print(f"  {command}")
    return 0


def _next_commands(study: Study) -> list[str]:
    from bertjobs.slurm.shell import quote

    where = f"{study.name} --results {quote(str(study.results))}"
    return [f"bertjobs {verb} {where}" for verb in ("study", "status", "cancel")]


def _run_here(study: Study, specs: Sequence[RunSpec], args: argparse.Namespace) -> int:
    from bertjobs.launch.local import STOP_ONE
    from bertjobs.launch.study import exit_code_of, train_study_here
    from bertjobs.launch.watch.study import study_json, study_text

    out = _out(args)
    with stops(STOP_ONE) as is_over:
        codes = train_study_here(study, specs, os.environ, out, is_over)
        code = exit_code_of(codes, is_over=is_over())
    results = results_of(study)
    if args.json:
        print(json.dumps({**study_json(study.name, results), "exit_code": code}, indent=2))
    else:
        print("\n" + study_text(study.name, results, Paint.of(sys.stdout, os.environ)))
        if code == 0:
            print("\nnext:\n" + "\n".join(f"  {command}" for command in _commands_after(study, specs[0])))
    if code == 75:
        print(f"continue with: {_resume_command(study)}", file=out)
    return code


def _commands_after(study: Study, spec: RunSpec) -> list[str]:
    """What can be done with a study that is done: with all its runs, and with the best one."""
    from bertjobs.run.result import best_of
    from bertjobs.slurm.shell import quote

    of_all = f"bertjobs report {study.name} --results {quote(str(study.results))}"
    best, words = best_of(study)
    run = quote(str(best.root))
    if not spec.task:
        return [of_all, f"bertjobs finetune --task TASK --data DIR --from {run}"]
    evaluate = [f"bertjobs evaluate {run}"] if words else []  # without dev data there is nothing to measure
    return [of_all, *evaluate, f"bertjobs predict {run} --input FILE --output FILE"]


def _resume_command(study: Study) -> str:
    from bertjobs.slurm.shell import quote

    return f"bertjobs resume {study.name} --results {quote(str(study.results))}"


def results_of(study: Study) -> list[MemberResult]:
    """What the study's runs have reached; those that failed with cause and remedy."""
    from bertjobs.launch.watch.study import measure_of, member_result
    from bertjobs.launch.watch.watch import Watch
    from bertjobs.slurm.client import Slurm

    statuses = Watch(Slurm(os.environ)).statuses(study.directories)
    in_turn = any(link.is_active and link.backend == "local" for status in statuses for link in status.links)
    results = []
    for member, status in zip(study.members, statuses, strict=True):
        one = member_result(status, member.settings, measure_of(status.directory), in_turn=in_turn)
        results.append(_explained(one, study, member) if one.has_failed else one)
    return results


def _explained(one: MemberResult, study: Study, member: Member) -> MemberResult:
    """With the doctor's verdict; a run that has not begun is continued with the study."""
    from bertjobs.launch.doctor.diagnose import diagnose
    from bertjobs.launch.doctor.evidence import collect
    from bertjobs.launch.watch.study import NOT_STARTED
    from bertjobs.slurm.client import Slurm
    from bertjobs.slurm.shell import quote

    directory = study.directory(member)
    target = f"{directory.name} --results {quote(str(study.results))}"
    if one.state == NOT_STARTED:
        return replace(one, why="it has not begun", command=_resume_command(study))
    verdict = diagnose(collect(directory, Slurm(os.environ), target, time.time()))
    return replace(one, why=f"{verdict.cause}: {verdict.sentence}", command=verdict.command)


def _study(args: argparse.Namespace) -> int:
    from bertjobs.launch.watch.study import study_json, study_text
    from bertjobs.run.study import all_studies

    names = all_studies(results_folder(args))
    if args.run is None:
        none = f"no studies below {results_folder(args)}; start one with: bertjobs submit --recipe NAME --seeds 3"
        print(json.dumps(names) if args.json else "\n".join(names) or none)
        return 0
    if (study := named_study(args)) is None:
        hint = nearest(args.run, names) or "start one with --seeds or --sweep"
        raise InputError(f"there is no study named {args.run!r}", where=str(results_folder(args)), hint=hint)
    results = results_of(study)
    if args.json:
        print(json.dumps(study_json(study.name, results), indent=2))
    else:
        print(study_text(study.name, results, Paint.of(sys.stdout, os.environ)))
    return 0
