"""`bertjobs worker`: one node of a run that is started by hand."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import add_recipe_arguments, add_site_argument, resolve_run
from bertjobs.cli.checked_plan import make_checked_plan
from bertjobs.cli.interrupts import stops
from bertjobs.errors import InputError

if TYPE_CHECKING:
    from bertjobs.launch.local import LocalRanks
    from bertjobs.recipe.spec import RunSpec
    from bertjobs.run.directory import RunDirectory

_NODES = ("nodes", "tasks_per_node", "gpus", "groups", "rebalance")
"""Settings of where a run trains, which `_nodes_of` gives."""

_HETSEQ = ("--distributed-init-method", "--distributed-world-size", "--distributed-gpus", "--distributed-rank")


def register(subparsers: Any) -> None:
    """Add `worker` to the command line."""
    parser = subparsers.add_parser(
        "worker",
        usage="%(prog)s --rendezvous HOST:PORT --node-rank N --recipe NAME (--nodes N | --groups GROUPS) [FLAG ...]",
        help="start one node of a run by hand, where there is no Slurm",
        description="Start the ranks of one node of a run; the same command on each node, but for --node-rank. All "
        "nodes see the data and the folder of runs under the same paths. A run that was stopped is continued, on other "
        "nodes too, by the same commands.",
        allow_abbrev=False,
    )
    group = parser.add_argument_group("which node this is")
    group.add_argument(
        "--rendezvous",
        metavar="HOST:PORT",
        help="where node 0 listens in phase 1; in phase 2 at the next port",
    )
    group.add_argument("--node-rank", metavar="N", type=int, help="number of this node, from 0")
    named = parser.add_argument_group("the same in HetSeq's words, for nodes with equally many ranks or with --groups")
    named.add_argument("--distributed-init-method", metavar="tcp://HOST:PORT", help="where node 0 listens")
    named.add_argument("--distributed-world-size", metavar="N", type=int, help="ranks on all nodes")
    named.add_argument("--distributed-gpus", metavar="N", type=int, help="ranks on this node")
    named.add_argument("--distributed-rank", metavar="N", type=int, help="number of this node's first rank, from 0")
    add_site_argument(parser)
    add_recipe_arguments(parser)
    queue = {"partition": "", "account": "", "time": "", "sbatch": [], "after": []}
    parser.set_defaults(handler=_worker, backend="local", by_hand=True, **queue)


def _worker(args: argparse.Namespace) -> int:
    from bertjobs.launch.by_hand import described, follow
    from bertjobs.launch.plan.plan import arithmetic
    from bertjobs.launch.plan.preflight import refuse
    from bertjobs.launch.resume import resumed
    from bertjobs.launch.start import absolute, start_here
    from bertjobs.run.directory import RunDirectory

    hetseq = _in_hetseq_s_words(args)
    resolved = resolve_run(args, os.environ)
    asked = absolute(resolved.spec)
    here = _place(args, asked, hetseq)
    directory = RunDirectory(Path(asked.results) / asked.run)
    exists = directory.lockfile.exists()
    if exists:
        _check_recipe(directory, asked)
        sets, flags, environ = _given(args)
        resolved = resumed(directory, [*sets, *_nodes_of(asked)], flags, environ)
        resolved = replace(resolved, spec=replace(resolved.spec, steps_this_run=asked.steps_this_run))
    spec = absolute(resolved.spec)
    with stops():
        if here.node:
            print(described(here, spec), flush=True)
            return follow(directory, spec, os.environ, sys.stdout, here)
        plan = make_checked_plan(args, resolved, directory if exists else None)
        refuse(plan.problems)
        print(f"{arithmetic(plan)}\n\n{described(here, spec)}", flush=True)
        return start_here(plan.spec, os.environ, sys.stdout, here)


def _check_recipe(directory: RunDirectory, asked: RunSpec) -> None:
    """InputError if a run that exists has another recipe than the one asked for."""
    from bertjobs.recipe.lockfile import read_lockfile

    if (its_own := read_lockfile(directory.lockfile).recipe) != asked.recipe:
        raise InputError(
            f"run {asked.run!r} exists, with the recipe {its_own}",
            where=str(directory.root),
            hint=f"--recipe {its_own} continues it; another --run starts another",
        )


def _given(args: argparse.Namespace) -> tuple[list[str], dict[str, Any], dict[str, str]]:
    """The settings that --set, flags and the environment give for a run that exists, less its name and its nodes."""
    from bertjobs.recipe.schema import RUN

    elsewhere = ("run", "results", "recipe", *_NODES)
    variables = {RUN[key].env for key in elsewhere}
    named = {key.removeprefix("setting_"): value for key, value in vars(args).items() if key.startswith("setting_")}
    flags = {key: value for key, value in named.items() if key not in elsewhere}
    pairs = [(text.partition("=")[0].strip(), text) for text in args.sets]
    if phases := [text.partition("=")[2].strip() for key, text in pairs if key == "phase"]:
        flags["phase"] = phases[-1]
    sets = [text for key, text in pairs if key not in (*elsewhere, "phase")]
    return sets, flags, {name: value for name, value in os.environ.items() if name not in variables}


def _in_hetseq_s_words(args: argparse.Namespace) -> bool:
    """Whether the node is given as for HetSeq's train.py; its numbers of ranks then become groups.

    Raises:
        InputError: both ways are given, or neither, or one in part.
    """
    from bertjobs.launch.by_hand import hetseq_groups

    ours = {"--rendezvous": args.rendezvous, "--node-rank": args.node_rank}
    theirs = {flag: getattr(args, flag[2:].replace("-", "_")) for flag in _HETSEQ}
    given = [flag for flag, value in {**ours, **theirs}.items() if value is not None]
    chosen = theirs if any(flag in theirs for flag in given) else ours
    if other := [flag for flag in given if flag not in chosen]:
        raise InputError(f"{other[0]} and {given[-1]} say the same in two ways", hint="give one of them")
    if missing := [flag for flag, value in chosen.items() if value is None]:
        raise InputError(f"{missing[0]} is missing", hint="--rendezvous HOST:PORT --node-rank N, on each node")
    if chosen is theirs and not args.setting_groups:
        numbers = args.distributed_world_size, args.distributed_gpus, args.distributed_rank
        args.setting_groups = hetseq_groups(*numbers)
    return chosen is theirs


def _place(args: argparse.Namespace, spec: RunSpec, hetseq: bool) -> LocalRanks:
    from bertjobs.launch.by_hand import check_host, parse_address, place

    if not hetseq:
        address, port = parse_address(args.rendezvous, "--rendezvous")
        here = place(spec.ranks_of_nodes, address, port, node=args.node_rank)
        check_host(address, port, "--rendezvous")
        return here
    address, port = parse_address(args.distributed_init_method, "--distributed-init-method")
    here = place(spec.ranks_of_nodes, address, port, rank=args.distributed_rank)
    for flag, said, is_so in (
        ("--distributed-world-size", args.distributed_world_size, spec.world_size),
        ("--distributed-gpus", args.distributed_gpus, len(here.ranks)),
    ):
        if said != is_so:
            raise InputError(f"{flag} {said} contradicts the groups, which have {is_so}", where=flag)
    check_host(address, port, "--distributed-init-method")
    return here


def _nodes_of(spec: RunSpec) -> list[str]:
    """The nodes of ``spec``, and how packs are dealt to their ranks, for `resumed`."""
    from bertjobs.recipe.groups import groups_text

    rebalance = f"rebalance={str(spec.rebalance).lower()}"
    if spec.groups:
        return [f"groups={groups_text(spec.groups)}", rebalance]
    return [rebalance, "groups=", f"nodes={spec.nodes}", f"tasks_per_node={spec.tasks_per_node}", f"gpus={spec.gpus}"]
