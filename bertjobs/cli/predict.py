"""`bertjobs predict`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bertjobs.cli.interrupts import interrupts_held
from bertjobs.cli.model_arguments import (
    add_model_arguments,
    add_pack_argument,
    add_task_argument,
    chosen_budget,
    chosen_model,
)
from bertjobs.errors import InputError
from bertjobs.files.output_file import followed, is_stream
from bertjobs.wording import counted

if TYPE_CHECKING:
    from bertjobs.finetune.loading import TrainedModel
    from bertjobs.finetune.predict import PredictionRate


def register(subparsers: Any) -> None:
    """Add `predict` to the command line."""
    parser = subparsers.add_parser(
        "predict",
        usage="%(prog)s RUN|DIR --input FILE|DIR|- --output FILE|- [FLAG ...]",
        help="let a fine-tuned model predict a file",
        description="Write what a fine-tuned model predicts for each example of a file, one JSON object per line, in "
        "the order of the input. Places in a text are counted in characters.",
        allow_abbrev=False,
    )
    parser.add_argument("--input", metavar="FILE|DIR|-", required=True,
                        help="a file that the task reads, a folder with its files, or JSON lines, such as "
                        "{\"text\": \"...\"}; - is standard input")  # fmt: skip
    parser.add_argument("--split", metavar="NAME", help="the part of the data that is in the file, or to read from the "
                        "folder: dev, test, or another of the task's (default: test)")  # fmt: skip
    parser.add_argument("--output", metavar="FILE|-", required=True, help="JSON lines; - is standard output")
    parser.add_argument("--batch", metavar="N", type=int, default=0,
                        help="encode, compute and write N examples at a time, and measure how long each N take; 1 is "
                        "the latency of one example (default: some thousand, in packs)")  # fmt: skip
    add_pack_argument(parser)
    add_task_argument(parser)
    add_model_arguments(parser)
    parser.set_defaults(handler=_predict)


def _predict(args: argparse.Namespace) -> int:
    with interrupts_held():
        from bertjobs.finetune.predict import Predictor
        from bertjobs.tasks.asked import STANDARD_INPUT, check_split, read_asked, split_file

    if args.batch < 0:
        raise InputError(f"{args.batch} is too small: at least 1", where="--batch")
    path = STANDARD_INPUT if args.input == "-" else Path(args.input)
    if args.input != "-" and not path.exists():
        raise InputError("there is no such file", where=f"--input {path}")
    model = chosen_model(args)
    if args.split is not None:
        check_split(model.task, args.split)
    split = args.split or "test"
    if path.is_dir():
        path = split_file(model.task, path, split)
    predictor = Predictor(model, budget=chosen_budget(args), batch=args.batch)
    predictions = predictor.each(read_asked(model.task, path, split))
    if args.output == "-":
        _write(predictions, sys.stdout)
    elif is_stream(Path(args.output)):
        with _writing(Path(args.output)), open(args.output, "w", encoding="utf-8") as file:
            _write(predictions, file)
    else:
        _write_file(predictions, Path(args.output))
    _print_pace(args, model, predictor.pace)
    return 0


def _write(predictions: Iterable[dict[str, Any]], file: IO[str]) -> None:
    """Write the predictions as they come."""
    for prediction in predictions:
        file.write(json.dumps(prediction, ensure_ascii=False) + "\n")
    file.flush()


def _write_file(predictions: Iterator[dict[str, Any]], path: Path) -> None:
    """Write a whole file or none. If the input is damaged, what came before is left under another name.

    Raises:
        InputError: the input is damaged; says where the predictions before it are.
    """
    from bertjobs.files.atomic import new_file

    path = followed(path)
    part, problem, count = path.with_name(f"{path.name}.part"), None, 0
    with _writing(path), new_file(part) as file:
        try:
            for prediction in predictions:
                file.write((json.dumps(prediction, ensure_ascii=False) + "\n").encode())
                count += 1
        except InputError as error:
            problem = error
    if problem is None:
        part.replace(path)
        return
    if not count:
        part.unlink()
        raise problem
    kept = f"{counted(count, 'prediction')} of what came before it: see {part}"
    hint = f"{problem.hint}; {kept}" if problem.hint else kept
    raise InputError(problem.what, where=problem.where, hint=hint) from problem


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    from bertjobs.files.faults import not_written

    try:
        yield
    except OSError as error:
        raise not_written(str(path), error, "--output") from error


def _print_pace(args: argparse.Namespace, model: TrainedModel, pace: PredictionRate) -> None:
    """What was done and how fast: on standard error, or as JSON, on standard output if that is free."""
    from bertjobs.finetune.predict import cut_off

    content = pace.as_json()
    notes = [*model.task.notes.lines(), *model.task.untuned(model.fitted)]
    what = f"batch of {args.batch}" if args.batch else "pack"
    if args.json:
        content |= {"latency_of": what, "truncated": model.encoder.truncated, "notes": notes}
        content |= {"model": str(model.folder), "task": model.name}
        print(json.dumps(content), file=sys.stderr if args.output == "-" else sys.stdout)
        return
    latency = ", ".join(f"{seconds * 1000:,.1f} ms ({name})" for name, seconds in content["latency_s"].items())
    print(f"{pace.examples:,} examples, {pace.tokens:,} tokens in {pace.seconds:.1f} s: "
          f"{content['examples_per_s']:,.0f} examples/s, {content['tokens_per_s']:,.0f} tokens/s\n"
          f"latency of a {what}: {latency}", file=sys.stderr)  # fmt: skip
    for note in [*notes, *cut_off(model)]:
        print(f"note: {note}", file=sys.stderr)
