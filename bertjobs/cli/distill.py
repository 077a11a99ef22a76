"""`bertjobs distill`."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import add_recipe_arguments, chosen_site, resolve_arguments, resolve_run, results_folder
from bertjobs.cli.finetune import add_task_files, prepared_task, with_results
from bertjobs.cli.queue_arguments import add_backend_arguments
from bertjobs.cli.study import add_study_arguments
from bertjobs.cli.submit import add_output, start_all
from bertjobs.errors import InputError

if TYPE_CHECKING:
    from bertjobs.recipe.resolve import Resolved
    from bertjobs.recipe.spec import ModelSpec
    from bertjobs.tasks.prepared import PreparedTask

GENERAL_RECIPE, TASK_RECIPE = "distill", "distill-task"


def register(subparsers: Any) -> None:
    """Add `distill` to the command line."""
    parser = subparsers.add_parser(
        "distill",
        usage="%(prog)s --teacher RUN|DIR --student LAYERSxWIDTH [--task TASK] --data DIR [--set KEY=VALUE ...] "
        "[FLAG ...]",
        help="train a small BERT, the student, to do as a larger one, its teacher",
        description="Without a task, a student learns from a pretrained teacher on shards that `bertjobs data prepare` "
        "made; with one, from a teacher that was fine-tuned for it, on the task's files. A run like any other, here or "
        "on Slurm.",
        allow_abbrev=False,
    )
    group = parser.add_argument_group("who learns from whom")
    group.add_argument(
        "--teacher",
        metavar="RUN|DIR",
        dest="teacher",
        help="a run, or a folder with config.json, weights and tokenizer",
    )
    group.add_argument(
        "--student",
        metavar="SHAPE",
        help="LAYERSxWIDTH[xHEADS[xINNER]], such as 6x768 or 4x312x12x1200 (default: the shape of --from, else the "
        "recipe's model)",
    )
    group.add_argument(
        "--from",
        metavar="RUN|DIR",
        dest="weights",
        help="a student to start from, such as the run of general distillation (default: what it can use of the "
        "teacher's weights)",
    )
    group.add_argument("--random-weights", action="store_true", help="start from random weights")
    group.add_argument(
        "--layers",
        "--teacher-layers",
        metavar="N,N,...",
        dest="setting_teacher_layers",
        help="the teacher's layers that the student's learn from, counted from 1 (default: evenly spaced)",
    )
    taught = parser.add_argument_group("on what")
    taught.add_argument("--task", metavar="TASK", dest="setting_task", help="name of a task, or module:Class")
    taught.add_argument(
        "--data",
        metavar="DIR",
        dest="task_data",
        type=Path,
        help="folder with the task's files; without a task, of prepared shards [DATADIR]",
    )
    add_task_files(taught)
    add_backend_arguments(parser)
    add_output(parser, ", but prepare the task's data")
    add_study_arguments(parser)
    without = ("task", "data", "init_checkpoint", "phase", "teacher", "teacher_sha256", "teacher_layers")
    add_recipe_arguments(parser, without=without)
    parser.set_defaults(handler=_distill, is_member=False)


def _distill(args: argparse.Namespace) -> int:
    default = TASK_RECIPE if args.setting_task else GENERAL_RECIPE
    args.setting_recipe = args.setting_recipe or os.environ.get("RECIPE") or default
    return start_all(args, distilled_run)


def distilled_run(args: argparse.Namespace) -> Resolved:
    """The run that the arguments ask for, its task, if it has one, prepared.

    Raises:
        InputError: an argument, the data, the teacher or the student's weights are not valid.
    """
    from bertjobs.recipe.bert_config import read_model_spec
    from bertjobs.recipe.distillation import student_shape
    from bertjobs.recipe.resolve import with_model
    from bertjobs.run.result import weights_of
    from bertjobs.run.teacher import teacher_of, teacher_sha256

    if args.teacher is None:
        raise InputError("no teacher was given", where="--teacher", hint="--teacher RUN, or the folder of a BERT")
    results = results_folder(with_results(args))
    teacher = weights_of(args.teacher, results).absolute()
    args.setting_teacher, args.setting_teacher_sha256 = str(teacher), teacher_sha256(teacher)
    args.setting_init_checkpoint = str(start) if (start := _start(args, teacher, results)) else ""
    shape = read_model_spec(teacher)
    first = resolve_arguments(args, os.environ, site=chosen_site(args))
    prepared = _prepared(args, first, teacher)
    args.setting_run = args.setting_run or os.environ.get("RUN") or _name(first.spec.task)
    if prepared is None:
        args.setting_data = str(args.task_data) if args.task_data else None
        resolved = resolve_run(args, os.environ)
    else:
        args.setting_data, rows = str(prepared.folder), prepared.splits["train"].rows
        resolved = resolve_arguments(args, os.environ, site=chosen_site(args), training_rows=rows)
    if args.student is not None:
        student, origin = student_shape(args.student, shape), f"flag --student {args.student}"
    elif args.weights is not None and start:
        student, origin = read_model_spec(start), str(start / "config.json")
    else:
        student, origin = _recipes(resolved.spec.model, shape), resolved.provenance["model"].origin
    resolved = with_model(resolved, student, origin)
    teacher_of(resolved.spec)
    return resolved


def _name(task: str) -> str:
    """What a run is called unless it is given a name."""
    return f"{task.rpartition(':')[2].lower()}-distilled" if task else "distilled"


def _start(args: argparse.Namespace, teacher: Path, results: Path) -> Path | None:
    """The weights that the student starts from; None for random ones."""
    from bertjobs.run.result import weights_of

    if args.weights is not None and args.random_weights:
        raise InputError("--random-weights contradicts --from", where="--random-weights", hint="give one of them")
    if args.random_weights:
        return None
    return teacher if args.weights is None else weights_of(args.weights, results).absolute()


def _prepared(args: argparse.Namespace, first: Resolved, teacher: Path) -> PreparedTask | None:
    """The data of the run's task, encoded for the teacher, which is fine-tuned for it; None without a task."""
    if not (name := first.spec.task):
        _refuse_task_arguments(args)
        return None
    from bertjobs.distill.task_labels import check_task_teacher

    prepared = prepared_task(name, teacher, first.spec.phases[0].sequence_length, args)
    check_task_teacher(teacher, prepared)
    return prepared


def _refuse_task_arguments(args: argparse.Namespace) -> None:
    given = {"--train": args.train, "--dev": args.dev, "--test": args.test, "--option": args.task_options}
    for flag, value in given.items():
        if value:
            raise InputError(
                f"{flag} is of a task, and none was given",
                where=flag,
                hint="--task TASK; bertjobs finetune --tasks lists them",
            )


def _recipes(model: ModelSpec, teacher: ModelSpec) -> ModelSpec:
    """The recipe's model as a student: with the teacher's vocabulary."""
    return replace(model, vocab_size=teacher.vocab_size, type_vocab_size=teacher.type_vocab_size)
