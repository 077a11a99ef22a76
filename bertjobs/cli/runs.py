"""`bertjobs status`, `logs` and `cancel`: runs seen from outside."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertjobs.recipe.site import Site
    from bertjobs.run.directory import RunDirectory


def register(subparsers: Any) -> None:
    """Add `status`, `logs` and `cancel` to the command line."""
    status = subparsers.add_parser(
        "status", help="how runs stand: state, step, loss, age of the last step", allow_abbrev=False
    )
    add_run_argument(status, optional=True)
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(handler=_status)

    logs = subparsers.add_parser("logs", help="show a run's newest worker log", allow_abbrev=False)
    add_run_argument(logs)
    logs.add_argument("--phase", type=int, metavar="N", help="of this phase (default: the newest of all)")
    logs.add_argument("--follow", action="store_true", help="go on as it grows, until no job of the run is active")
    logs.set_defaults(handler=_logs)

    cancel = subparsers.add_parser(
        "cancel", help="stop a run's jobs; workers write a checkpoint first", allow_abbrev=False
    )
    add_run_argument(cancel)
    cancel.set_defaults(handler=_cancel)


def add_run_argument(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add RUN, --results and --site, which `opened` reads."""
    text = "the run's name, or its folder" + (" (default: all runs)" if optional else "")
    parser.add_argument("run", metavar="RUN", nargs="?" if optional else None, help=text)
    parser.add_argument(
        "--results", metavar="DIR", help="folder of all runs (default: the site's, else results) [RESULTS]"
    )
    add_site_argument(parser)


def add_site_argument(parser: argparse._ActionsContainer) -> None:
    """Add --site, which `chosen_site` reads."""
    parser.add_argument(
        "--site",
        metavar="NAME",
        help="site file to use, made by `bertjobs init`; none for none (default: the only one, or that called default)",
    )


def chosen_site(args: argparse.Namespace) -> Site | None:
    """The site that --site names; else the default one, where there is a Slurm and the run is not kept off it."""
    from bertjobs.launch.site import read_site
    from bertjobs.launch.slurm import Slurm

    local = getattr(args, "backend", "auto") == "local" or not Slurm(os.environ).present
    return None if args.site is None and local else read_site(args.site, os.environ)


def results_folder(args: argparse.Namespace) -> Path:
    """Where runs are looked for: flag, environment, site, default."""
    if given := args.results or os.environ.get("RESULTS"):
        return Path(given)
    site = chosen_site(args)
    return Path(site.results if site and site.results else "results")


def opened(args: argparse.Namespace) -> RunDirectory:
    """The run that the arguments name; InputError where there is none."""
    from bertjobs.run.directory import open_run

    return open_run(results_folder(args), args.run)


def _status(args: argparse.Namespace) -> int:
    from bertjobs.launch.slurm import Slurm
    from bertjobs.launch.status import all_runs, run_status, status_text

    slurm = Slurm(os.environ)
    runs = [opened(args)] if args.run else all_runs(results_folder(args))
    rows = [row for run in runs for row in run_status(run, slurm, time.time())]
    if args.json:
        print(json.dumps([row.as_json() for row in rows], indent=2))
    elif rows:
        print(status_text(rows))
    else:
        print(f"no runs below {results_folder(args)}; start one with: bertjobs submit --recipe NAME")
    return 0


def _logs(args: argparse.Namespace) -> int:
    from bertjobs.launch.slurm import Slurm
    from bertjobs.launch.status import follow, newest_log

    directory = opened(args)
    if not args.follow:
        sys.stdout.write(newest_log(directory, args.phase).read_text(errors="replace"))
        return 0
    for text in follow(directory, args.phase, Slurm(os.environ)):
        sys.stdout.write(text)
        sys.stdout.flush()
    return 0


def _cancel(args: argparse.Namespace) -> int:
    from bertjobs.launch.slurm import Slurm
    from bertjobs.launch.status import cancel

    stopped = cancel(opened(args), Slurm(os.environ))
    print(f"cancelled {', '.join(stopped)}" if stopped else "nothing of this run waits or runs")
    return 0
