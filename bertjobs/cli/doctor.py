"""`bertjobs doctor`: why a run does not progress."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from bertjobs.cli.arguments import add_run_argument, opened
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

    directory = opened(args)
    target = quote(args.run) + (f" --results {quote(args.results)}" if args.results else "")
    verdict = diagnose(collect(directory, Slurm(os.environ), target, time.time()))
    if args.json:
        print(json.dumps({"run": directory.name, **verdict.as_json()}, indent=2))
    else:
        print(f"run {harmless(directory.name)}\n\n{verdict.text(Paint.of(sys.stdout, os.environ))}")
    return 0
