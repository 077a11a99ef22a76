"""`bertjobs scaling`: how runs of one recipe scale, and what larger worlds would take."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bertjobs.cli.arguments import add_results_arguments, opened
from bertjobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bertjobs.report.scaling import Scaling


def register(subparsers: Any) -> None:
    """Add `scaling` to the command line."""
    parser = subparsers.add_parser(
        "scaling",
        usage="%(prog)s RUN [RUN ...] [--predict RANKS,RANKS] [--output FILE.png] [FLAG ...]",
        help="compare runs of one recipe on several numbers of ranks, and predict larger ones",
        description="Print the table that papers print of runs of one recipe on several numbers of GPUs: time per "
        "step, speed-up, expansion, efficiency. --predict adds rows from a model of a step's time that is fitted to "
        "these runs; they are marked.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the runs' names, or their folders")
    parser.add_argument("--predict", metavar="RANKS", help="numbers of GPUs (or ranks), such as 64,512,4096")
    parser.add_argument("--output", metavar="FILE", type=Path, help="draw the tables: FILE.png or FILE.svg")
    parser.add_argument("--json", action="store_true", help="print the tables as JSON")
    add_results_arguments(parser)
    parser.set_defaults(handler=_scaling)


def _scaling(args: argparse.Namespace) -> int:
    from bertjobs.report.scaling import read_measured, scaling
    from bertjobs.report.scaling_text import scaling_json, scaling_text
    from bertjobs.wording import harmless

    worlds, form = _worlds(args.predict), _format(args.output)
    directories = {
        run.root: run for run in (opened(argparse.Namespace(**{**vars(args), "run": name})) for name in args.runs)
    }
    tables = scaling([one for run in directories.values() for one in read_measured(run)], worlds)
    if args.output:
        _draw(args.output, tables, form)
    if args.json:
        print(json.dumps({**scaling_json(tables), "picture": str(args.output) if args.output else None}, indent=2))
    else:
        print(scaling_text(tables) + (f"\n\npicture {harmless(str(args.output))}" if args.output else ""))
    return 0


def _worlds(text: str | None) -> list[int]:
    words = [word.strip() for word in text.split(",")] if text is not None else []
    for word in words:
        if not (word.isascii() and word.isdecimal()) or len(word) > 9 or int(word) < 1:
            raise InputError(
                f"{word!r} is not a number of ranks above 0", where="--predict", hint="such as --predict 64,512,4096"
            )
    return [int(word) for word in words]


def _format(output: Path | None) -> Literal["svg", "png"]:
    if output is None or output.suffix == ".png":
        return "png"
    if output.suffix == ".svg":
        return "svg"
    raise InputError(f"{str(output)!r} is not a picture's name", where="--output", hint="one that ends in .png or .svg")


def _draw(path: Path, tables: Sequence[Scaling], form: Literal["svg", "png"]) -> None:
    from bertjobs.files.output_file import output_file
    from bertjobs.report.scaling_plot import draw_scaling

    content = draw_scaling(tables, form)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with output_file(path) as file:
            file.write(content)
    except OSError as error:
        raise InputError(f"the picture cannot be written: {error.strerror}", where=str(path)) from error
