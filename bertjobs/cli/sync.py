"""`bertjobs sync`: runs in an experiment tracker."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import add_run_argument, opened, results_folder
from bertjobs.errors import EXIT_DONE, EXIT_FAILURE, BertjobsError, InputError

if TYPE_CHECKING:
    from bertjobs.run.directory import RunDirectory
    from bertjobs.track.sync import Synced

TRACKERS = ("wandb", "mlflow", "tensorboard")
EVERY_S = 30.0


def register(subparsers: Any) -> None:
    """Add `sync` to the command line."""
    parser = subparsers.add_parser(
        "sync",
        help="replay a run's metrics into wandb, MLflow or TensorBoard, each step once",
        description="Replay a run's metrics, held-out losses, settings and attempts from its folder into a tracker, "
        "on a machine with a network. A step is sent once a checkpoint holds it, and never again: the command can be "
        "interrupted and repeated. The tracker's own variables say where and as whom (WANDB_..., MLFLOW_...).",
        allow_abbrev=False,
    )
    add_run_argument(parser, optional=True, without="or give --all")
    parser.add_argument("--all", action="store_true", help="all runs of the results folder")
    parser.add_argument("--to", choices=TRACKERS, metavar="TRACKER", required=True, help=", ".join(TRACKERS))
    parser.add_argument("--follow", action="store_true", help="continue until the runs have ended")
    parser.add_argument(
        "--every", type=float, default=EVERY_S, metavar="SECONDS",
        help=f"with --follow: seconds between two looks (default: {EVERY_S:g})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON; with --follow, a line per look")
    parser.set_defaults(handler=_sync)


def _sync(args: argparse.Namespace) -> int:
    from bertjobs.launch.watch.watch import Watch
    from bertjobs.slurm.client import Slurm
    from bertjobs.track.sync import follow, mirrored

    directories = _directories(args)
    if not 1 <= args.every < float("inf"):
        raise InputError(f"{args.every:g} is not a number of seconds (1 or more)", where="--every")
    with ExitStack() as stack:
        mirrors, refused = [], EXIT_DONE
        for directory in directories:
            try:
                mirrors.append(stack.enter_context(mirrored(directory, args.to, os.environ)))
            except (BertjobsError, OSError) as error:  # of all runs some may be other people's, or followed already
                if not args.all or isinstance(error, InputError):
                    raise
                refused = EXIT_FAILURE
                words = error.render() if isinstance(error, BertjobsError) else f"error: {directory.name}: {error}"
                print(words, file=sys.stderr, flush=True)
        if not args.follow:
            return max(refused, _shown([mirror.sync() for mirror in mirrors], args))
        code = EXIT_DONE
        for looked in follow(mirrors, Watch(Slurm(os.environ)).statuses, args.every, time.sleep):
            code = _shown(looked, args)
        return max(refused, code)


def _directories(args: argparse.Namespace) -> list[RunDirectory]:
    from bertjobs.run.directory import all_runs

    if bool(args.run) == args.all:
        raise InputError("name a run, or give --all", hint="bertjobs sync RUN --to wandb")
    return [opened(args)] if args.run else all_runs(results_folder(args))


def _shown(looked: Sequence[Synced], args: argparse.Namespace) -> int:
    """Print what a look brought, when following only if it brought something; returns the exit code."""
    code = EXIT_DONE
    for one in looked:
        if one.problem is not None:
            code = EXIT_FAILURE if args.all else one.problem.exit_code
            print(one.problem.render(), file=sys.stderr, flush=True)
        elif not args.json and (one.added or not args.follow):
            print(one.words(), flush=True)
    if args.json:
        content = [one.as_json() for one in looked]
        print(json.dumps(content, indent=None if args.follow else 2), flush=True)
    return code
