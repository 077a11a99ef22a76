"""`bertjobs evaluate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bertjobs.cli.interrupts import interrupts_held
from bertjobs.cli.model_arguments import (
    add_model_arguments,
    add_pack_argument,
    add_task_argument,
    chosen_budget,
    chosen_model,
)
from bertjobs.errors import InputError
from bertjobs.wording import columns

if TYPE_CHECKING:
    from bertjobs.finetune.evaluate import Evaluation, Examples
    from bertjobs.finetune.loading import TrainedModel


def register(subparsers: Any) -> None:
    """Add `evaluate` to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        usage="%(prog)s RUN|DIR [--data DIR | --dev FILE | --test FILE] [--split dev|test] [FLAG ...]",
        help="measure a fine-tuned model on data with labels",
        description="The task's measures of a run's best checkpoint, or of a model's folder, on a split with labels; "
        "for a test set without labels, the files that a benchmark's server takes.",
        allow_abbrev=False,
    )
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--data", metavar="DIR", type=Path, help="folder with the task's files (default: what the run "
                      "was fine-tuned with)")  # fmt: skip
    data.add_argument("--dev", metavar="FILE", type=Path, help="a dev file, in any folder")
    data.add_argument("--test", metavar="FILE", type=Path, help="a test file, in any folder")
    parser.add_argument("--split", metavar="NAME", help="the part of the data: dev, test, or another of the task's "
                        "(default: dev)")  # fmt: skip
    parser.add_argument("--submission", metavar="DIR", type=Path, help="write the benchmark's submission files there")
    parser.add_argument("--tune", action="store_true", help="choose thresholds on these data, not those of training")
    add_pack_argument(parser)
    add_task_argument(parser)
    add_model_arguments(parser)
    parser.set_defaults(handler=_evaluate)


class _Source(NamedTuple):
    """Examples, the name of their split, and the file or folder that they come from."""

    examples: Examples
    split: str
    place: Path


def _evaluate(args: argparse.Namespace) -> int:
    with interrupts_held():
        from bertjobs.finetune.evaluate import evaluate

    model = chosen_model(args)
    source = _source(args, model)
    result = evaluate(model, source.examples, source.split, tune=args.tune, submission=args.submission,
                      budget=chosen_budget(args))  # fmt: skip
    if args.json:
        print(json.dumps(_as_json(model, source, result), indent=2, ensure_ascii=False))
    else:
        _print(model, source, result)
    return 0


def _source(args: argparse.Namespace, model: TrainedModel) -> _Source:
    """What is to be measured on.

    Raises:
        InputError: there are no such data.
    """
    from bertjobs.tasks.asked import split_file

    for split in ("dev", "test"):
        if (path := getattr(args, split)) is not None:
            if args.split not in (None, split):
                raise InputError(f"--{split} is not the data of split {args.split}", where=f"--split {args.split}")
            if not path.is_file():
                raise InputError("there is no such file", where=f"--{split} {path}")
            return _file_source(model, path, split)
    split = args.split or "dev"
    if args.data is None:
        return _prepared_source(model, split)
    if not args.data.is_dir():
        raise InputError("there is no such folder", where=f"--data {args.data}")
    return _file_source(model, split_file(model.task, args.data, split), split)


def _file_source(model: TrainedModel, path: Path, split: str) -> _Source:
    return _Source(lambda: model.task.read(path, split), split, path)


def _prepared_source(model: TrainedModel, split: str) -> _Source:
    """A split of the data that the model's run was fine-tuned with.

    Raises:
        InputError: the model belongs to no run, or its data are not there or have no such split.
    """
    from bertjobs.finetune.run_data import prepared_split

    prepared, chosen = prepared_split(model.folder, split)
    return _Source(chosen.examples, split, Path(prepared.sources.get(split, prepared.folder)))


def _as_json(model: TrainedModel, source: _Source, result: Evaluation) -> dict[str, Any]:
    return {
        "model": str(model.folder),
        "task": model.name,
        "split": source.split,
        "data": str(source.place),
        "examples": result.examples,
        "unlabelled": result.unlabelled,
        "scores": dict(result.scores),
        "tuned": dict(result.tuned),
        "notes": list(result.notes),
        "submission": [str(path) for path in result.submission],
    }


def _print(model: TrainedModel, source: _Source, result: Evaluation) -> None:
    print(f"task {model.name}, {model.folder}")
    print(f"{result.examples:,} examples of {source.split}, from {source.place}")
    print("\n".join(columns([(f"  {name}", f"{value:,.4f}") for name, value in result.scores.items()])))
    for name, value in result.tuned.items():
        print(f"tuned: {name} {value:.4g}" if isinstance(value, float) else f"tuned: {name} {value}")
    for note in result.notes:
        print(f"note: {note}")
    for path in result.submission:
        print(f"submission: {path}")
