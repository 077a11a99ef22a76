"""`bertjobs rehearse`: a small run of a recipe on this machine, and what it survives."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import (
    add_recipe_arguments,
    add_site_argument,
    chosen_site,
    resolve_arguments,
    setting_words,
)
from bertjobs.errors import EXIT_DONE, EXIT_FAILURE, InputError

if TYPE_CHECKING:
    from bertjobs.launch.rehearse.faults import Fault
    from bertjobs.launch.rehearse.outcome import Survival
    from bertjobs.recipe.spec import RunSpec


def register(subparsers: Any) -> None:
    """Add `rehearse` to the command line."""
    parser = subparsers.add_parser(
        "rehearse",
        help="run a small version of a recipe here and see that it survives faults",
        description="Run a recipe with a tiny model for a few steps on two CPU ranks of this machine, first "
        "undisturbed, then once under each fault, and compare the results, before you spend days on it. Without "
        "any fault named, all of them are tried.",
        allow_abbrev=False,
    )
    group = parser.add_argument_group("faults, each after a random step determined by the recipe's seed")
    group.add_argument("--preempt", action="store_true", help="TERM to all ranks, as a preemption or scancel does")
    group.add_argument("--timeout", action="store_true", help="USR2 to one rank, as ahead of the time limit")
    group.add_argument("--kill-rank", metavar="N", action="append", default=[], help="KILL to rank N; can be repeated")
    group.add_argument("--fill-disk", action="store_true", help="no room for a checkpoint until the attempt has ended")
    parser.add_argument(
        "--keep", action="store_true", help="keep the run directories, even of faults that were survived"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_site_argument(parser)
    add_recipe_arguments(parser)
    parser.set_defaults(handler=_rehearse)


def _faults(args: argparse.Namespace) -> list[Fault]:
    from bertjobs.launch.rehearse.faults import FILL_DISK, PREEMPT, TIMEOUT, kill_rank
    from bertjobs.launch.rehearse.miniature import RANKS

    for rank in args.kill_rank:
        if rank not in map(str, range(RANKS)):
            raise InputError(
                f"there is no rank {rank} to kill: a rehearsal has {RANKS}", where="--kill-rank", hint="choose 0 or 1"
            )
    kills = [kill_rank(int(rank)) for rank in dict.fromkeys(args.kill_rank)]
    chosen = [*[PREEMPT] * args.preempt, *[TIMEOUT] * args.timeout, *kills, *[FILL_DISK] * args.fill_disk]
    return chosen or [PREEMPT, TIMEOUT, kill_rank(1), FILL_DISK]


def _rehearse(args: argparse.Namespace) -> int:
    from bertjobs.launch.rehearse.rehearsal import rehearsal
    from bertjobs.run.result import weights_of

    faults = _faults(args)
    spec = resolve_arguments(args, os.environ, site=chosen_site(args)).spec
    if spec.teacher:
        spec = replace(spec, teacher=str(weights_of(spec.teacher, Path(spec.results)).absolute()))
    folder = Path(tempfile.mkdtemp(prefix="bertjobs-rehearsal-")).resolve()
    out = sys.stderr if args.json else sys.stdout
    began = time.monotonic()
    is_kept = args.keep
    try:
        small = rehearsal(spec, folder, sys.executable, os.environ)
        print(_heading(spec, small.spec) + "\n", file=out, flush=True)
        try:
            took = small.undisturbed()
            print(f"undisturbed: done in {took:.1f} s", file=out, flush=True)
            survivals = []
            for fault in faults:
                print(f"{fault.name}: {fault.words} ...", end=" ", file=out, flush=True)
                survivals.append(small.under(fault, keep=args.keep))
                print(_line(survivals[-1]), file=out, flush=True)
        except Exception:
            is_kept = True
            raise
        is_kept = is_kept or not all(survival.survived for survival in survivals)
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - began
    if args.json:
        rows = [{**asdict(survival), "survived": survival.survived} for survival in survivals]
        content = {"recipe": spec.recipe, "seconds": round(seconds, 1), "folder": str(folder) if is_kept else None}
        print(json.dumps({**content, "faults": rows}, indent=2))
    else:
        print("\n" + _table(survivals))
        print("\n" + _end(spec, setting_words(args), survivals, seconds, str(folder) if is_kept else ""))
    return EXIT_DONE if all(survival.survived for survival in survivals) else EXIT_FAILURE


def _heading(spec: RunSpec, small: RunSpec) -> str:
    phases = " and ".join(f"{phase.steps} steps of phase {phase.phase}" for phase in small.phases)
    batches = " and ".join(str(phase.global_batch) for phase in small.phases)
    model = small.model
    return (
        f"rehearsing {spec.recipe}: {model.num_hidden_layers} layers of {model.hidden_size} for {spec.model.name}, "
        f"{phases}, global batch {batches}, {small.world_size} CPU ranks\n"
        f"as in the recipe: optimizer {small.optimizer.name}, {small.precision}"
        f"{f' for {spec.precision}' if small.precision != spec.precision else ''}, "
        f"{f'task {small.task}' if small.task else f'{small.masking} masking'}, "
        f"{f'teacher {small.teacher}, ' if small.teacher else ''}"
        f"seed {small.seed}, budgets of restarts; not rehearsed: GPUs, their network, Slurm, containers"
    )


def _line(survival: Survival) -> str:
    if not survival.survived:
        return f"NOT SURVIVED: {survival.problem}"
    return (
        f"after phase {survival.phase} step {survival.step}: exit {survival.exit_code}, "
        f"{survival.seconds_lost:.1f} s lost, survived"
    )


def _table(survivals: Sequence[Survival]) -> str:
    from bertjobs.wording import columns

    heads = ["FAULT", "STRUCK AT", "EXIT", "CAUSE", "REPEATED", "LOST", "SAME WEIGHTS", "METRICS WHOLE", "VERDICT"]
    return "\n".join(columns([heads, *map(_row, survivals)]))


def _row(survival: Survival) -> list[str]:
    verdict = "survived" if survival.survived else "NOT SURVIVED"
    if not survival.phase:
        return [survival.fault, *["-"] * 7, verdict]
    return [
        survival.fault,
        f"phase {survival.phase} step {survival.step}",
        str(survival.exit_code),
        survival.cause or "-",
        f"{survival.steps_repeated} step{'s' * (survival.steps_repeated != 1)}",
        f"{survival.seconds_lost:.1f} s",
        "yes" if survival.weights_equal else "no",
        "yes" if survival.metrics_whole else "no",
        verdict,
    ]


def _end(spec: RunSpec, words: Sequence[str], survivals: Sequence[Survival], seconds: float, kept: str) -> str:
    failed = [survival for survival in survivals if not survival.survived]
    lines = [
        f"{survival.fault}: what was done: {survival.words}"
        for survival in survivals
        if "RLIMIT" in survival.words
    ]  # fmt: skip
    lines += [f"{survival.fault}: {survival.problem}\n  look at: {survival.directory}" for survival in failed]
    if failed:
        lines.append(f"{len(failed)} of {len(survivals)} faults were not survived, in {seconds:.0f} s; kept: {kept}")
    else:
        count = "the fault was" if len(survivals) == 1 else f"all {len(survivals)} faults were"
        lines.append(f"{count} survived, in {seconds:.0f} s" + (f"; kept: {kept}" if kept else ""))
        from bertjobs.slurm.shell import shell_line

        verb = "distill" if spec.is_distilled else "finetune" if spec.task else "submit"
        lines.append("next: " + shell_line(["bertjobs", verb, *words]))
    return "\n".join(lines)
