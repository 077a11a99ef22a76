"""`bertjobs infer`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bertjobs.cli.interrupts import interrupts_held
from bertjobs.cli.model_arguments import (
    add_model_arguments,
    add_task_argument,
    chosen_folder,
    chosen_model,
    prepared_device,
)
from bertjobs.errors import InputError
from bertjobs.wording import columns, harmless

TEXTS = {
    "text": "a text: its class, number or tags",
    "second": "the second text of a pair",
    "question": "a question, about --context",
    "context": "the text that has the answer",
    "query": "a query, for --passage",
    "passage": "the text that may answer it",
}
GUESSES = 5


def register(subparsers: Any) -> None:
    """Add `infer` to the command line."""
    parser = subparsers.add_parser(
        "infer",
        usage="%(prog)s RUN|DIR --text TEXT | --question TEXT --context TEXT | --fill-mask TEXT | --features TEXT",
        help="ask a model by hand",
        description="Ask a fine-tuned model what its task is about, or a BERT for the word under a mask or for its "
        "vectors.",
        allow_abbrev=False,
    )
    group = parser.add_argument_group("what is asked")
    for key, words in TEXTS.items():
        group.add_argument(f"--{key}", metavar="TEXT", help=words)
    group.add_argument("--fill-mask", metavar="TEXT", help="the likeliest words for each [MASK]: needs a pretraining "
                       "checkpoint, or another BERT with a masked-LM head")  # fmt: skip
    group.add_argument("--features", metavar="TEXT", help="the vectors of [CLS] and the mean over all tokens, as JSON")
    add_task_argument(parser)
    add_model_arguments(parser)
    parser.set_defaults(handler=_infer)


def _infer(args: argparse.Namespace) -> int:
    texts = {key: text for key in TEXTS if (text := getattr(args, key)) is not None}
    asked = {**texts, **{key: text for key in ("fill_mask", "features") if (text := getattr(args, key)) is not None}}
    for key, text in asked.items():
        if not text.strip():
            raise InputError("the text is empty", where=f"--{key.replace('_', '-')}")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InputError("the text is not UTF-8", where=f"--{key.replace('_', '-')}")
    if len(asked) - max(0, len(texts) - 1) != 1:
        raise InputError(
            "nothing was asked" if not asked else "several things were asked at once",
            where=" ".join(f"--{key.replace('_', '-')}" for key in asked) or "bertjobs infer",
            hint="--text TEXT, --question TEXT --context TEXT, --query TEXT --passage TEXT, --fill-mask TEXT, or "
            "--features TEXT",
        )
    if texts:
        return _ask(args, texts)
    return _fill_mask(args) if args.fill_mask is not None else _features(args)


def _ask(args: argparse.Namespace, texts: dict[str, str]) -> int:
    with interrupts_held():
        from bertjobs.finetune.predict import Predictor
        from bertjobs.tasks.asked import asked_in_text
        from bertjobs.tasks.in_words import in_words

    model = chosen_model(args)
    example = asked_in_text(model.task, texts, where=" ".join(f"--{key}" for key in texts))
    (prediction,) = Predictor(model).predict([example])
    if args.json:
        print(json.dumps({**texts, "prediction": prediction}, ensure_ascii=False))
    else:
        print(harmless("\n".join(in_words(prediction))))
    for note in model.task.untuned(model.fitted):
        print(f"note: {note}", file=sys.stderr)
    if model.encoder.truncated:
        _note_cut_off(model.encoder.max_length)
    return 0


def _fill_mask(args: argparse.Namespace) -> int:
    with interrupts_held():
        from bertjobs.finetune.encoder import fill_masks

    guesses = fill_masks(_folder(args), args.fill_mask, GUESSES, prepared_device(args))
    if args.json:
        masks = [[vars(guess) for guess in of_mask] for of_mask in guesses]
        print(json.dumps({"text": args.fill_mask, "masks": masks}, ensure_ascii=False))
        return 0
    for number, of_mask in enumerate(guesses, 1):
        if len(guesses) > 1:
            print(f"mask {number}")
        print("\n".join(columns([(f"  {guess.token}", f"{guess.probability:.4f}") for guess in of_mask])))
    return 0


def _features(args: argparse.Namespace) -> int:
    with interrupts_held():
        from bertjobs.finetune.encoder import features

    content = features(_folder(args), args.features, prepared_device(args))
    print(json.dumps(content, ensure_ascii=False))
    if content["truncated"]:
        _note_cut_off(content["tokens"])
    return 0


def _folder(args: argparse.Namespace) -> Path:
    if args.precision != "fp32":
        raise InputError("only fp32 is used here", where=f"--precision {args.precision}")
    if args.task:
        raise InputError("no task is asked here", where=f"--task {args.task}")
    return chosen_folder(args)


def _note_cut_off(longest: int) -> None:
    print(f"note: the text is longer than the {longest} tokens that the model reads, and was cut off", file=sys.stderr)
