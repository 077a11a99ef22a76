"""`bertjobs bench`: how fast a recipe trains on this machine."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import add_recipe_arguments, add_site_argument, chosen_site, resolve_arguments
from bertjobs.errors import InputError

if TYPE_CHECKING:
    from bertjobs.recipe.spec import RunSpec


def register(subparsers: Any) -> None:
    """Add `bench` to the command line."""
    parser = subparsers.add_parser(
        "bench",
        help="measure a recipe's throughput on this machine, and compare it with other implementations",
        description="Train one rank of a recipe on this machine, on one GPU or on its CPUs, without writing a run: "
        "sequences/s, model FLOP/s and memory over a sweep of micro-batch sizes, on the recipe's data if "
        "they exist, else on synthetic sequences of usual lengths. The results go into bench.jsonl in the results "
        "folder, where `bertjobs plan` reads them.",
        allow_abbrev=False,
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--compare",
        action="store_true",
        help="time the same sequences with Hugging Face's BertForPreTraining and NVIDIA's BERT, in turns",
    )
    kind.add_argument("--profile", action="store_true", help="show where a step's time goes, by torch's profiler")
    parser.add_argument(
        "--micro-batches",
        metavar="N,N,...",
        help="sequences per micro-batch; a pack takes at most as many tokens as a padded one (default: a sweep around "
        "the recipe's; the recipe's own for --compare and --profile)",
    )
    parser.add_argument("--seconds", metavar="S", default="10", help="how long to measure at each size (default: 10)")
    parser.add_argument(
        "--repeats",
        metavar="N",
        default="3",
        help="how many parts these seconds are split into; rounds of --compare (default: 3)",
    )
    parser.add_argument(
        "--sequences", metavar="N", help="how many --compare times (default: those of eight micro-batches)"
    )
    parser.add_argument(
        "--by-length", action="store_true", help="--compare: order sequences by length before they are padded"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the JSON to a file as well")
    add_site_argument(parser)
    add_recipe_arguments(parser)
    parser.set_defaults(handler=_bench)


def _bench(args: argparse.Namespace) -> int:
    from bertjobs.files.atomic import write_json
    from bertjobs.launch.start import absolute

    seconds, repeats = _positive("--seconds", args.seconds, float), _positive("--repeats", args.repeats, int)
    sizes = [_positive("--micro-batches", size, int) for size in (args.micro_batches or "").split(",") if size]
    sequences = _positive("--sequences", args.sequences, int) if args.sequences else 0
    spec = absolute(resolve_arguments(args, os.environ, site=chosen_site(args)).spec)
    if args.compare:
        result = _compare(spec, args, sizes, sequences, repeats)
    elif args.profile:
        result = _profile(spec, args, sizes)
    else:
        result = _sweep(spec, args, sizes, seconds, repeats)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, result)
    if args.json:
        print(json.dumps(result, indent=2))
    return 0


def _sweep(spec: RunSpec, args: argparse.Namespace, sizes: list[int], seconds: float, repeats: int) -> Any:
    from bertjobs.bench.device import open_bench_device
    from bertjobs.bench.sweep import keep, sweep
    from bertjobs.bench.text import progress, sweep_json, sweep_text

    device, results = open_bench_device(spec), []
    for phase in spec.phases:
        measured = sweep(spec, phase, device, sizes=sizes, seconds=seconds, repeats=repeats, report=progress(_say))
        path = keep(spec, measured, Path(spec.results))
        results.append(sweep_json(measured))
        _show(args, sweep_text(spec, measured))
    _show(args, f"\nsaved in {path}; next: bertjobs plan --recipe {spec.recipe}")
    return results


def _compare(spec: RunSpec, args: argparse.Namespace, sizes: list[int], sequences: int, rounds: int) -> Any:
    from bertjobs.bench.compare import check_transformers, compare
    from bertjobs.bench.device import open_bench_device
    from bertjobs.bench.sequences import open_data
    from bertjobs.bench.text import comparison_json, comparison_text

    check_transformers()
    device, results = open_bench_device(spec), []
    for phase in spec.phases:
        for size in sizes or [phase.micro_batch]:
            compared = compare(
                spec,
                phase,
                open_data(spec, phase),
                device,
                micro_batch=size,
                sequences=sequences or 8 * size,
                rounds=rounds,
                by_length=args.by_length,
                say=_say,
            )
            results.append(comparison_json(compared))
            _show(args, comparison_text(compared))
    return results


def _profile(spec: RunSpec, args: argparse.Namespace, sizes: list[int]) -> Any:
    from dataclasses import asdict

    from bertjobs.bench.device import open_bench_device
    from bertjobs.bench.profile import profile_phase
    from bertjobs.bench.sequences import open_data
    from bertjobs.bench.text import profile_text

    device, results = open_bench_device(spec), []
    for phase in spec.phases:
        for size in sizes or [phase.micro_batch]:
            profiled = profile_phase(spec, phase, open_data(spec, phase), device, micro_batch=size)
            results.append(asdict(profiled))
            _show(args, profile_text(profiled))
    return results


def _positive(flag: str, text: str, kind: Any) -> Any:
    """A number above 0 of this type; InputError for anything else."""
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise InputError(f"{text!r} is not a {'number' if kind is float else 'whole number'} above 0", where=flag)
    return value


def _say(line: str) -> None:
    """Print progress, apart from what is printed for programs."""
    print(line, file=sys.stderr, flush=True)


def _show(args: argparse.Namespace, text: str) -> None:
    if not args.json:
        print(text, flush=True)
