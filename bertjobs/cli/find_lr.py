"""`bertjobs finetune --find-lr`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.interrupts import interrupts_held
from bertjobs.errors import InputError
from bertjobs.wording import counted

if TYPE_CHECKING:
    from bertjobs.recipe.resolve import Resolved

USUAL_STEPS = "100"
USUAL_RANGE = "1e-7,1"

TESTS = ".rates"
"""The folder of range tests, below that of all runs."""


def add_find_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --find-lr and --lr-range."""
    group = parser.add_argument_group("instead of a run")
    group.add_argument(
        "--find-lr",
        metavar="STEPS",
        nargs="?",
        const=USUAL_STEPS,
        help="train some steps in this process with a rising learning rate, draw the losses, and suggest a rate "
        f"(default: {USUAL_STEPS} steps)",
    )
    group.add_argument("--lr-range", metavar="LOW,HIGH", help=f"the rates of --find-lr (default: {USUAL_RANGE})")


def check_find_arguments(args: argparse.Namespace) -> None:
    """Make sure that what is given fits together.

    Raises:
        InputError: it doesn't; names the argument.
    """
    if args.find_lr is None:
        if args.lr_range is not None:
            raise InputError("there is nothing that tries these rates", where="--lr-range", hint="add --find-lr")
        return
    given = {
        "--seeds": args.seeds is not None,
        "--sweep": bool(args.sweeps),
        "--dry-run": args.dry_run,
        "--after": bool(args.after),
        f"--backend {args.backend}": args.backend not in ("auto", "local"),
    }
    for flag, is_given in given.items():
        if is_given:
            raise InputError(
                "--find-lr trains in the process that you start, and starts no run",
                where=flag,
                hint=f"leave out {flag}; on a node of a cluster: srun bertjobs finetune ... --find-lr",
            )
    _steps(args.find_lr)
    _range(args.lr_range or USUAL_RANGE)


def find_rate(resolved: Resolved, args: argparse.Namespace) -> int:
    """Make the range test of a run that fine-tunes, write its table and curve, and say what it suggests; returns the
    exit code.

    Raises:
        InputError: the run has too few steps; its data, weights or device are not as its recipe says.
    """
    with interrupts_held():
        from bertjobs.report.rate_curve import write_test
        from bertjobs.train.objectives import objective_of
        from bertjobs.train.range_test import open_device, planned_steps, range_test
        from bertjobs.train.rate_suggestion import rising_rates

    out = sys.stderr if args.json else sys.stdout

    def say(line: str) -> None:
        print(line, file=out, flush=True)

    spec, (low, high) = resolved.spec, _range(args.lr_range or USUAL_RANGE)
    objective = objective_of(spec)
    steps = planned_steps(_steps(args.find_lr), spec)
    device = open_device(spec)
    say(f"{steps} steps of {counted(spec.phases[0].global_batch, 'sequence')}, learning rate {low:g} to {high:g}, "
        f"{device.type}, {spec.precision}")  # fmt: skip
    test = range_test(objective, rising_rates(low, high, steps), device, say)
    table = {
        "run": spec.run,
        "task": spec.task,
        "weights": spec.init_checkpoint,
        "data": spec.data,
        "global_batch": spec.phases[0].global_batch,
        "lowest_learning_rate": low,
        "highest_learning_rate": high,
        "steps": steps,
        **test.as_json(),
    }
    files = write_test(Path(spec.results).absolute() / TESTS / spec.run, table)
    _print(table, files, spec.phases[0].phase, args)
    return 0


def _print(table: Mapping[str, Any], files: tuple[Path, Path], phase: int, args: argparse.Namespace) -> None:
    rate = table["suggested_learning_rate"]
    setting = None if rate is None else f"--set phase{phase}.lr={rate:g}"
    if args.json:
        print(json.dumps({**table, "table": str(files[0]), "curve": str(files[1]), "setting": setting}, indent=2))
        return
    done = f"{len(table['points'])} of {table['steps']} steps"
    print(f"{done}: {table['end']}; the smoothed loss is lowest at learning rate {table['least_loss_at']:.2g}")
    print(f"suggested learning rate: {'none' if rate is None else f'{rate:g}'} ({table['why']})")
    print(f"table {files[0]}\ncurve {files[1]}")
    if setting:
        print(f"next: the same command with {setting} in place of --find-lr")


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{text!r} is not a whole number of steps above 0", where="--find-lr", hint="--find-lr 100")
    return int(text)


def _range(text: str) -> tuple[float, float]:
    """The lowest and the highest rate."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = math.nan
    if not 0 < low < high < math.inf:
        raise InputError(f"{text!r} is not two rates above 0, the lower one first", where="--lr-range",
                         hint=f"--lr-range {USUAL_RANGE}")  # fmt: skip
    return low, high
