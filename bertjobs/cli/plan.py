"""`bertjobs plan`: what `submit` would do."""

from __future__ import annotations

import argparse
import difflib
import json
import os
from typing import Any

from bertjobs.cli.arguments import add_recipe_arguments, resolve_run
from bertjobs.cli.checked_plan import make_checked_plan, scripts
from bertjobs.cli.queue_arguments import add_backend_arguments, queue_sources


def register(subparsers: Any) -> None:
    """Add `plan` to the command line."""
    plan = subparsers.add_parser(
        "plan",
        usage="%(prog)s --recipe NAME [--nodes N] [--set KEY=VALUE ...] [FLAG ...]",
        help="show what would run: batch arithmetic, where each value came from, the script",
        description="Show what would run and change nothing: batch arithmetic, memory, time, jobs, problems, "
        "differences from the recipe's last run, where each value came from, and the batch scripts.",
        allow_abbrev=False,
    )
    add_backend_arguments(plan)
    plan.add_argument("--json", action="store_true", help="print JSON")
    add_recipe_arguments(plan)
    plan.set_defaults(handler=_plan)


def _plan(args: argparse.Namespace) -> int:
    from bertjobs.launch.plan.plan import arithmetic, as_json, provenance

    plan = make_checked_plan(args, resolve_run(args, os.environ))
    if args.json:
        print(json.dumps(as_json(plan), indent=2))
        return 0
    print(arithmetic(plan))
    queue = queue_sources(args) if plan.backend != "local" else []
    print("\nWhere each value came from\n\n" + provenance(plan, queue))
    if plan.backend == "local":
        print(f"\nIt would run on this machine: {plan.spec.world_size} worker processes, no batch script.")
    elif plan.backend == "slurm":
        (first, script), *others = scripts(plan.spec, args).items()
        print(f"\nThe script of phase {first}, as it would be given to sbatch\n\n{script}")
        for phase, other in others:
            print(f"\nThe script of phase {phase} differs in these lines\n\n{differing_lines(script, other)}")
    return 0


def differing_lines(script: str, other: str) -> str:
    """The lines of ``script`` that the other lacks, each after a "-", and those in their place, after a "+"."""
    compared = difflib.ndiff(script.splitlines(), other.splitlines())
    return "\n".join(line for line in compared if line.startswith(("- ", "+ ")))
