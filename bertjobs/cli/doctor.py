"""`bertjobs doctor`: why a run does not progress."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from bertjobs.cli.arguments import add_run_argument, named_study, opened
from bertjobs.wording import Paint


def register(subparsers: Any) -> None:
    """Add `doctor` to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="say why a run does not progress, what shows it, and what to type next",
        description="One verdict on a run from its logs, journal, metrics and checkpoints and from Slurm: what is "
        "wrong, the lines that say so (the first failing rank first), and the next command to type.",
        allow_abbrev=False,
    )
    add_run_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(handler=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from bertjobs.launch.doctor.diagnose import diagnose
    from bertjobs.launch.doctor.evidence import collect
    from bertjobs.slurm.client import Slurm
    from bertjobs.slurm.shell import quote
    from bertjobs.wording import harmless

    place = f" --results {quote(args.results)}" if args.results else ""
    place += f" --site {quote(args.site)}" if args.site else ""
    study = named_study(args)
    runs = {one.name: one for one in study.directories} if study else {args.run: opened(args)}
    now, slurm = time.time(), Slurm(os.environ)
    verdicts = [
        (directory.name, diagnose(collect(directory, slurm, quote(name) + place, now)))
        for name, directory in runs.items()
    ]
    if args.json:
        rows = [{"run": name, **verdict.as_json()} for name, verdict in verdicts]
        print(json.dumps(rows if study else rows[0], indent=2))
        return 0
    paint = Paint.of(sys.stdout, os.environ)
    print("\n\n".join(f"run {harmless(name)}\n\n{verdict.text(paint)}" for name, verdict in verdicts))
    return 0
