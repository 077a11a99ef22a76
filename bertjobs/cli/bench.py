"""`bertjobs bench`: how fast a recipe trains on this machine."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import (
    add_recipe_arguments,
    add_site_argument,
    chosen_site,
    resolve_arguments,
    setting_words,
)
from bertjobs.errors import InputError, nearest

if TYPE_CHECKING:
    from bertjobs.recipe.spec import PhaseSpec, RunSpec

OWN = 0
"""Stands for the recipe's own micro-batch, which differs by phase."""


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
        help="sequences per micro-batch, or `recipe` for the recipe's own; a pack takes at most as many tokens as a "
        "padded one (default: a sweep around the recipe's; the recipe's own for --compare and --profile)",
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
    parser.add_argument(
        "--ways",
        metavar="WAY,WAY,...",
        default="padded,sdpa,nvidia,eager",
        help="--compare: what to compare with, of padded, sdpa, nvidia, eager and compiled, which can take minutes to "
        "compile (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the JSON to a file as well")
    parser.add_argument(
        "--lines", metavar="FILE", type=Path, help="append each measurement to a file at once, as a JSON line"
    )
    add_site_argument(parser)
    add_recipe_arguments(parser)
    parser.set_defaults(handler=_bench)


def _bench(args: argparse.Namespace) -> int:
    from bertjobs.files.output_file import output_file
    from bertjobs.launch.start import absolute

    seconds, repeats = _positive("--seconds", args.seconds, float), _positive("--repeats", args.repeats, int)
    sizes = [
        OWN if size == "recipe" else _positive("--micro-batches", size, int)
        for size in (args.micro_batches or "").split(",")
        if size
    ]
    ways = _ways(args.ways) if args.compare else []
    sequences = _positive("--sequences", args.sequences, int) if args.sequences else 0
    spec = absolute(resolve_arguments(args, os.environ, site=chosen_site(args)).spec)
    if spec.task or spec.is_distilled:
        _say(f"note: recipe {spec.recipe} is measured as pretraining: without a task's head and a teacher")
    if args.compare:
        result = _compare(spec, args, sizes, sequences, repeats, ways)
    elif args.profile:
        result = _profile(spec, args, sizes)
    else:
        result = _sweep(spec, args, sizes, seconds, repeats)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with output_file(args.output) as file:
            file.write((json.dumps(result, indent=2) + "\n").encode())
    if args.json:
        print(json.dumps(result, indent=2))
    return 0


def _sweep(spec: RunSpec, args: argparse.Namespace, sizes: list[int], seconds: float, repeats: int) -> Any:
    from dataclasses import asdict

    from bertjobs.bench.device import open_bench_device
    from bertjobs.bench.sweep import Measurement, Sweep, keep, sweep
    from bertjobs.bench.text import progress, sweep_json, sweep_text
    from bertjobs.slurm.shell import shell_line

    show = progress(_say)

    def report(so_far: Sweep, one: Measurement) -> None:
        show(one)
        about = {"product_flops_per_s": so_far.product_flops_per_s, "forward": so_far.forward,
                 "optimizer": so_far.optimizer, "optimizer_share": one.optimizer_share}  # fmt: skip
        _append(args, spec, "sweep", {**asdict(one), **about, **asdict(so_far.device)})

    device, results = open_bench_device(spec), []
    for phase in spec.phases:
        measured = sweep(spec, phase, device, sizes=_sizes(sizes, phase), seconds=seconds, repeats=repeats,
                         report=report)  # fmt: skip
        path = keep(spec, measured, Path(spec.results))
        results.append(sweep_json(measured))
        _show(args, sweep_text(spec, measured))
    _show(args, f"\nsaved in {path}; next: {shell_line(['bertjobs', 'plan', *setting_words(args)])}")
    return results


def _compare(
    spec: RunSpec, args: argparse.Namespace, sizes: list[int], sequences: int, rounds: int, ways: list[str]
) -> Any:
    from bertjobs.bench.compare import Comparison, Result, compare
    from bertjobs.bench.device import open_bench_device
    from bertjobs.bench.sequences import open_data
    from bertjobs.bench.text import compared_json, compared_text, comparison_json, comparison_text

    def report(so_far: Comparison, result: Result) -> None:
        _say(compared_text(so_far, result))
        about = {"phase": so_far.phase, "product_flops_per_s": so_far.product_flops_per_s, "forward": so_far.forward}
        _append(args, spec, "comparison", {**compared_json(so_far, result), **about})

    device, results = open_bench_device(spec), []
    for phase in spec.phases:
        for size in _sizes(sizes, phase) or [phase.micro_batch]:
            compared = compare(
                spec,
                phase,
                open_data(spec, phase),
                device,
                micro_batch=size,
                sequences=sequences or 8 * size,
                rounds=rounds,
                by_length=args.by_length,
                names=ways,
                say=_say,
                report=report,
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
        for size in _sizes(sizes, phase) or [phase.micro_batch]:
            profiled = profile_phase(spec, phase, open_data(spec, phase), device, micro_batch=size)
            results.append(asdict(profiled))
            _append(args, spec, "profile", results[-1])
            _show(args, profile_text(profiled))
    return results


def _sizes(sizes: list[int], phase: PhaseSpec) -> list[int]:
    """The micro-batches asked for, in a phase."""
    return [phase.micro_batch if size == OWN else size for size in sizes]


def _ways(text: str) -> list[str]:
    """What to compare with; InputError for a way that there is not."""
    from bertjobs.bench.compare import OURS, WAYS

    names = [word.strip() for word in text.split(",") if word.strip()]
    for name in names:
        if name not in WAYS:
            what = f"{name!r} is not an implementation that can be timed"
            raise InputError(what, where="--ways", hint=nearest(name, WAYS))
    return [OURS, *(WAYS[name] for name in names)]


def _append(args: argparse.Namespace, spec: RunSpec, what: str, fields: dict[str, Any]) -> None:
    """Keep a measurement, with the settings that it was made with."""
    from bertjobs.files.json_lines import append_line

    if args.lines:
        args.lines.parent.mkdir(parents=True, exist_ok=True)
        append_line(args.lines, {"what": what, "recipe": spec.recipe, "settings": args.sets, **fields}, follow=True)


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
