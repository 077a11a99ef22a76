"""`bertjobs status`, `logs` and `cancel`: runs seen from outside."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import add_run_argument, named_study, opened, results_folder
from bertjobs.errors import InputError
from bertjobs.wording import Paint

if TYPE_CHECKING:
    from bertjobs.launch.watch.status import RunStatus
    from bertjobs.run.directory import RunDirectory
    from bertjobs.run.study import Study

WATCH_S = 5.0
"""Seconds between two updates of ``--watch``."""


def register(subparsers: Any) -> None:
    """Add `status`, `logs` and `cancel` to the command line."""
    _register_status(subparsers)
    _register_logs(subparsers)
    cancel = subparsers.add_parser(
        "cancel",
        help="stop a run's jobs; workers write a checkpoint first",
        description="Cancel all queued and running jobs of a run, the queued ones first. Workers write a "
        "checkpoint, from which `bertjobs resume` continues.",
        allow_abbrev=False,
    )
    add_run_argument(cancel)
    _add_json(cancel)
    cancel.set_defaults(handler=_cancel)


def _register_status(subparsers: Any) -> None:
    status = subparsers.add_parser(
        "status",
        help="show the state of runs: step, loss, age of the last step; of one run, its jobs and attempts too",
        description="Without RUN, a table of all runs, one row per phase. With RUN, its jobs and attempts in "
        "chronological order, and each phase: why it waits, its last step and checkpoint, its expected end. The "
        "information comes from sacct and squeue, or from the run's folder if these do not answer.",
        allow_abbrev=False,
    )
    add_run_argument(status, optional=True)
    status.add_argument(
        "--watch",
        nargs="?",
        const=str(WATCH_S),
        metavar="SECONDS",
        help=f"show it again every SECONDS (default: {WATCH_S:g}) until no job is queued or running",
    )
    _add_json(status)
    status.set_defaults(handler=_status)


def _register_logs(subparsers: Any) -> None:
    logs = subparsers.add_parser(
        "logs",
        help="show a run's newest worker log",
        description="Show the worker log that was written to last, of all or of those that the options select. Lines "
        "of ranks other than 0 begin with `rank N:`.",
        allow_abbrev=False,
    )
    add_run_argument(logs)
    logs.add_argument("--phase", type=int, metavar="N", help="of this phase")
    logs.add_argument("--job", metavar="ID", help="of this job")
    logs.add_argument("--attempt", type=int, metavar="K", help="of this attempt: 0 is a job's first start")
    logs.add_argument("--rank", type=int, metavar="N", help="only the lines of this rank")
    logs.add_argument("--follow", action="store_true", help="continue as it grows, until no job of the run is active")
    logs.add_argument("--list", action="store_true", help="list the log files instead")
    _add_json(logs, "list the log files as JSON")
    logs.set_defaults(handler=_logs)


def _add_json(parser: argparse.ArgumentParser, text: str = "print JSON") -> None:
    parser.add_argument("--json", action="store_true", help=text)


def _status(args: argparse.Namespace) -> int:
    from bertjobs.launch.watch.watch import Watch
    from bertjobs.slurm.client import Slurm

    every_s = None if args.watch is None else _seconds(args)
    watch = Watch(Slurm(os.environ), whole=args.run is not None)
    if every_s is None:
        _show_status(args, watch.statuses(_directories(args)))
        return 0
    for runs in watch.until_ended(lambda: _directories(args), every_s):
        _show_again(args, runs)
    return 0


def _seconds(args: argparse.Namespace) -> float:
    """The number in ``--watch SECONDS``; the word in ``--watch RUN`` is taken as the run."""
    try:
        seconds = float(args.watch)
    except ValueError:
        if args.run is None:
            args.run = args.watch
            return WATCH_S
        seconds = 0.0
    if not 1 <= seconds < float("inf"):
        raise InputError(f"{args.watch!r} is not a number of seconds (1 or more)", where="--watch")
    return seconds


def _directories(args: argparse.Namespace) -> list[RunDirectory]:
    from bertjobs.run.directory import all_runs

    if args.run is None:
        return all_runs(results_folder(args))
    study = named_study(args)
    return study.directories if study else [opened(args)]


def _show_status(args: argparse.Namespace, runs: Sequence[RunStatus]) -> None:
    from bertjobs.launch.watch.status_text import run_text, status_text

    rows, paint = [row for run in runs for row in run.phases], Paint.of(sys.stdout, os.environ)
    if args.json:
        # One line per update if there are several.
        print(json.dumps([row.as_json() for row in rows], indent=None if args.watch else 2), flush=True)
    elif args.run and len(runs) == 1:
        print(run_text(runs[0], time.time(), paint), flush=True)
    elif rows:
        print(status_text(rows, paint), flush=True)
    else:
        print(f"no runs below {results_folder(args)}; start one with: bertjobs submit --recipe NAME", flush=True)


def _show_again(args: argparse.Namespace, runs: Sequence[RunStatus]) -> None:
    """In place on a terminal, else as a block with the time at its head."""
    if not args.json:
        redraw = "\x1b[H\x1b[J" if sys.stdout.isatty() else ""  # to the upper left corner, and clear what is below
        sys.stdout.write(f"{redraw}{time.strftime('%d %b %H:%M:%S')}\n")
    _show_status(args, runs)
    if not args.json and not sys.stdout.isatty():
        print(flush=True)


def _logs(args: argparse.Namespace) -> int:
    from bertjobs.launch.watch.logs import Selection, follow, log_files, logs_text, whole_log
    from bertjobs.slurm.client import Slurm

    directory, selection = opened(args), Selection(args.phase, args.job, args.attempt)
    if args.json:
        print(json.dumps([file.as_json() for file in log_files(directory, selection)], indent=2))
        return 0
    if args.list:
        print(logs_text(log_files(directory, selection), time.time()))
        return 0
    lines = whole_log(directory, selection, args.rank)
    if args.follow:
        lines = follow(directory, selection, Slurm(os.environ), args.rank)
    for line in lines:
        sys.stdout.write(line)
        if args.follow:
            sys.stdout.flush()
    return 0


def _cancel(args: argparse.Namespace) -> int:
    from bertjobs.launch.cancel import cancel
    from bertjobs.slurm.client import Slurm
    from bertjobs.wording import harmless

    if study := named_study(args):
        return _cancel_study(study, args)
    directory = opened(args)
    jobs = cancel(directory, Slurm(os.environ))
    if args.json:
        print(json.dumps({"run": directory.name, "cancelled": jobs}, indent=2))
    else:
        print(harmless(f"cancelled {', '.join(jobs)}") if jobs else "this run has no queued or running jobs")
    return 0


def _cancel_study(study: Study, args: argparse.Namespace) -> int:
    from bertjobs.launch.cancel import cancel_study
    from bertjobs.slurm.client import Slurm
    from bertjobs.wording import harmless

    jobs = cancel_study(study, Slurm(os.environ))
    if args.json:
        print(json.dumps({"study": study.name, "cancelled": jobs}, indent=2))
    else:
        lines = [f"{run}: cancelled {', '.join(ids)}" for run, ids in jobs.items() if ids]
        print(harmless("\n".join(lines)) if lines else "this study has no queued or running jobs")
    return 0
