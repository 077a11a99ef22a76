"""What the verbs that ask a trained model share: which model, and how it is computed."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bertjobs.cli.arguments import add_results_arguments, results_folder
from bertjobs.errors import InputError
from bertjobs.recipe.setting import PRECISIONS

if TYPE_CHECKING:
    import torch

    from bertjobs.finetune.loading import TrainedModel

DEVICES = ("auto", "cpu", "cuda")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RUN|DIR, --results, --site, --device, --precision, --threads and --json."""
    parser.add_argument("model", metavar="RUN|DIR", help="a run, by its name or folder, or the folder of a model")
    add_results_arguments(parser)
    add_compute_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_task_argument(parser: argparse.ArgumentParser) -> None:
    """Add --task, which `chosen_model` reads."""
    parser.add_argument("--task", metavar="NAME", default="", help="the task of a folder without task.json, such as "
                        "squad2 (default: what its head is for: sentences, tagging or squad1)")  # fmt: skip


def add_compute_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --device, --precision and --threads, which `prepared_device` reads."""
    group = parser.add_argument_group("how it is computed")
    group.add_argument("--device", metavar="|".join(DEVICES), choices=DEVICES, default="auto",
                       help="cpu, cuda, or auto: a GPU if there is one (default: auto)")  # fmt: skip
    group.add_argument("--precision", metavar="|".join(PRECISIONS), choices=PRECISIONS, default="fp32",
                       help="of matrix products (default: fp32)")  # fmt: skip
    group.add_argument("--threads", metavar="N", type=int, default=0, help="CPU threads (default: one per core)")


def add_pack_argument(parser: argparse.ArgumentParser) -> None:
    """Add --batch-tokens, which `chosen_budget` reads."""
    parser.add_argument("--batch-tokens", metavar="N", type=int, default=0,
                        help="tokens that are computed at a time (default: 4096)")  # fmt: skip


def chosen_budget(args: argparse.Namespace) -> int:
    """Tokens in a pack; InputError below 1."""
    from bertjobs.finetune.predict import BATCH_TOKENS

    if args.batch_tokens < 0:
        raise InputError(f"{args.batch_tokens} is too small: at least 1", where="--batch-tokens")
    return args.batch_tokens or BATCH_TOKENS


def chosen_folder(args: argparse.Namespace) -> Path:
    """The folder of the model; InputError if there is none."""
    from bertjobs.run.result import weights_of

    return weights_of(args.model, results_folder(args)).absolute()


def prepared_device(args: argparse.Namespace) -> torch.device:
    """The device, and threads set for it. Called before anything is tokenised, as that has threads of its own.

    Raises:
        InputError: there is no such device, or a number of threads that cannot be.
    """
    import torch

    if args.threads < 0:
        raise InputError(f"{args.threads} is too small: at least 1, or 0 for one per core", where="--threads")
    if args.threads:
        os.environ["RAYON_NUM_THREADS"] = str(args.threads)
        torch.set_num_threads(args.threads)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("this machine has no GPU that torch can use", where="--device cuda", hint="--device cpu")
    on_gpu = args.device != "cpu" and torch.cuda.is_available()
    if not on_gpu and args.precision == "fp32":
        # In fp32 torch takes only GELU from oneDNN, at no gain. What oneDNN keeps for each shape of a pack lies between
        # large buffers, so that the heap grew by a gigabyte in ten minutes.
        torch.backends.mkldnn.set_flags(False)
    return torch.device("cuda" if on_gpu else "cpu")


def chosen_model(args: argparse.Namespace) -> TrainedModel:
    """The fine-tuned model that the arguments name, loaded.

    Raises:
        InputError: as `chosen_folder`, `prepared_device` and `load_trained`.
    """
    from bertjobs.finetune.loading import load_trained

    folder = chosen_folder(args)
    return load_trained(folder, prepared_device(args), args.precision, args.task)
