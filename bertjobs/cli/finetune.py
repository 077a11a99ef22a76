"""`bertjobs finetune`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bertjobs.cli.arguments import (
    add_recipe_arguments,
    chosen_site,
    resolve_arguments,
    resolve_task_run,
    results_folder,
)
from bertjobs.cli.find_lr import add_find_arguments, check_find_arguments, find_rate
from bertjobs.cli.progress import ProgressLine
from bertjobs.cli.queue_arguments import add_backend_arguments
from bertjobs.cli.study import add_study_arguments
from bertjobs.cli.submit import add_output, start_all
from bertjobs.errors import InputError

if TYPE_CHECKING:
    from bertjobs.recipe.resolve import Resolved
    from bertjobs.tasks.prepared import PreparedTask
    from bertjobs.tasks.task import Task

DEFAULT_RECIPE = "finetune"

PATIENCE_S = 2.0
"""Nothing is said of preparing small data."""


def register(subparsers: Any) -> None:
    """Add `finetune` to the command line."""
    parser = subparsers.add_parser(
        "finetune",
        usage="%(prog)s --task TASK --from RUN|DIR --data DIR [--set KEY=VALUE ...] [FLAG ...]",
        help="train a task from a run's result or any Hugging Face BERT",
        description="Prepare a task's files, then train its head and the model on them: a run like any other, here or "
        "on Slurm. The result is the checkpoint with the best dev measure.",
        allow_abbrev=False,
    )
    group = parser.add_argument_group("what is fine-tuned")
    group.add_argument("--task", metavar="TASK", dest="setting_task", help="name of a task, or module:Class")
    group.add_argument("--tasks", action="store_true", help="list the tasks, their files and their options")
    group.add_argument(
        "--from", metavar="RUN|DIR", dest="weights", help="a run, or a folder with config.json, weights and tokenizer"
    )
    group.add_argument(
        "--random-weights",
        action="store_true",
        help="take only the model's shape and tokenizer from --from: what the same run reaches without pretraining",
    )
    group.add_argument("--data", metavar="DIR", dest="task_data", type=Path, help="folder with the task's files")
    add_task_files(group)
    add_backend_arguments(parser)
    add_output(parser, ", but prepare the task's data")
    add_study_arguments(parser)
    add_find_arguments(parser)
    add_recipe_arguments(parser, without=("task", "data", "init_checkpoint", "phase"))
    parser.set_defaults(handler=_finetune, is_member=False)


def add_task_files(group: argparse._ActionsContainer) -> None:
    """Add --train, --dev, --test and --option, which `prepared_task` reads."""
    for split in ("train", "dev", "test"):
        group.add_argument(f"--{split}", metavar="FILE", type=Path, help=f"the {split} file, in any folder")
    group.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        dest="task_options",
        help="an option of the task, such as label=stars; can be repeated",
    )


def _finetune(args: argparse.Namespace) -> int:
    if args.tasks:
        print(_task_list())
        return 0
    args.setting_recipe = args.setting_recipe or os.environ.get("RECIPE") or DEFAULT_RECIPE
    check_find_arguments(args)
    return start_all(args, prepared_run) if args.find_lr is None else find_rate(prepared_run(args), args)


def prepared_run(args: argparse.Namespace) -> Resolved:
    """The run that the arguments ask for, its data prepared.

    Raises:
        InputError: an argument, the task's files or the weights are not valid.
    """
    from bertjobs.run.result import weights_of

    if args.weights is None:
        raise InputError("no weights to start from", where="--from", hint="--from RUN, or the folder of a BERT")
    weights = weights_of(args.weights, results_folder(with_results(args))).absolute()
    first = resolve_arguments(args, os.environ, site=chosen_site(args))
    if not (name := first.spec.task):
        raise InputError("no task was given", where="--task", hint="bertjobs finetune --tasks lists them")
    prepared = prepared_task(name, weights, first.spec.phases[0].sequence_length, args)
    args.setting_data, args.setting_init_checkpoint = str(prepared.folder), "" if args.random_weights else str(weights)
    args.setting_run = args.setting_run or os.environ.get("RUN") or name.rpartition(":")[2].lower()
    return resolve_task_run(args, os.environ, prepared.splits["train"].rows, weights)


def with_results(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments as `results_folder` reads them."""
    return argparse.Namespace(**vars(args), results=args.setting_results)


def _options(args: argparse.Namespace) -> Mapping[str, str]:
    options = {}
    for text in args.task_options:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"--option takes NAME=VALUE, not {text!r}", where="--option")
        options[key] = value
    return options


def task_files(task: Task[Any], args: argparse.Namespace) -> dict[str, Path]:
    """The task's files by split: those in the folder, and those that are named themselves.

    Raises:
        InputError: neither is there.
    """
    named = {split: path for split in ("train", "dev", "test") if (path := getattr(args, split))}
    for split, path in named.items():
        if not path.is_file():
            raise InputError("there is no such file", where=f"--{split} {path}")
    if args.task_data is None and not named:
        raise InputError("no data were given", where="--data", hint="--data DIR, or --train FILE --dev FILE")
    if args.task_data is not None and not args.task_data.is_dir():
        raise InputError("there is no such folder", where=f"--data {args.task_data}")
    return {**(task.find(args.task_data) if args.task_data else {}), **named}


def prepared_task(name: str, weights: Path, length: int, args: argparse.Namespace) -> PreparedTask:
    """The data of the task of this name, encoded for the weights in sequences of at most ``length`` tokens; made once
    for the same files, tokenizer and options.

    Raises:
        InputError: an option, the task's files or the weights' tokenizer are not valid, or the tokenizer has more
            tokens than the model.
    """
    from bertjobs.recipe.bert_config import read_model_spec
    from bertjobs.tasks.encoding import TextEncoder
    from bertjobs.tasks.prepare import prepare_task, prepared_name
    from bertjobs.tasks.prepared import MANIFEST, PreparedTask
    from bertjobs.tasks.task import open_task

    task = open_task(name, _options(args))
    files = task_files(task, args)
    model = read_model_spec(weights)
    encoder = TextEncoder.of_folder(weights, length, positions=model.max_position_embeddings)
    encoder.check_fits(model.vocab_size, str(weights))
    folder = results_folder(with_results(args)).absolute() / PREPARED / prepared_name(task, name, files, encoder)
    if (folder / MANIFEST).is_file():
        prepared = PreparedTask.read(folder)
    else:
        prepared = prepare_task(task, name, files, encoder, folder, ProgressLine(PATIENCE_S))
    if not args.is_member:  # of a study: the others have the same data
        _describe(name, prepared, sys.stderr if args.json else sys.stdout)
    return prepared


def _describe(name: str, prepared: PreparedTask, out: TextIO) -> None:
    print(f"task {name}, prepared in {prepared.folder}", file=out)
    for split, one in prepared.splits.items():
        facts = one.facts
        print(f"  {split:5} {facts.examples:,} examples, {facts.tokens / max(1, facts.rows):.0f} tokens on average, "
              f"from {prepared.sources[split]}", file=out)  # fmt: skip
    for note in prepared.notes:
        print(f"  note: {note}", file=out)


PREPARED = ".tasks"
"""The folder of prepared tasks, below that of all runs."""


def _task_list() -> str:
    from bertjobs.tasks.reading.lines import names_in_words
    from bertjobs.tasks.task import TASKS, open_task

    lines = []
    for name in TASKS:
        task = open_task(name)
        lines.append(f"{name}: {(task.__doc__ or '').strip().splitlines()[0]}")
        for split, names in task.files.items():
            lines.append(f"    {split}: {names_in_words(names)}")
        lines += [f"    --option {key}=...  {words}" for key, words in task.option_help.items()]
    return "\n".join(lines)
