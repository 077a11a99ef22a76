"""`bertjobs import`: weights of other programs become a Hugging Face folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.interrupts import interrupts_held
from bertjobs.wording import columns, harmless

if TYPE_CHECKING:
    from bertjobs.conversion.folder import Imported

_LISTED = 6  # names of what was left out


def register(subparsers: Any) -> None:
    """Add `import` to the command line."""
    parser = subparsers.add_parser(
        "import",
        help="make a Hugging Face folder of a checkpoint of NVIDIA's BERT, HetSeq or Google's BERT",
        description="Read the weights of a checkpoint that another program wrote, and write them as a Hugging Face "
        "folder, which `submit --init-checkpoint` and `finetune --from` take: files of NVIDIA's run_pretraining and of "
        "HetSeq (.pt), of which nothing is executed, and Google's bert_model.ckpt, without TensorFlow. Optimizers are "
        "left out.",
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("checkpoint", metavar="CHECKPOINT",
           help="ckpt_7038.pt, checkpoint_last.pt, bert_model.ckpt, or a folder that holds one of these")  # fmt: skip
    option("--output", metavar="DIR", required=True, help="folder to make")
    option("--config", metavar="FILE",
           help="the model's bert_config.json (default: the one beside the checkpoint, or the one that HetSeq was "
           "given)")  # fmt: skip
    option("--vocab", metavar="FILE",
           help="the vocab.txt that it was trained with (default: the one beside the checkpoint, or the one that "
           "HetSeq was given)")  # fmt: skip
    option("--cased", action="store_true", help="text is not lowercased, if no file beside the vocabulary states it")
    option("--uncased", action="store_true", help="text is lowercased, if no file beside the vocabulary states it")
    option("--strip-accents", metavar="yes|no", default="",
           help="whether accents are stripped, if no file beside the vocabulary states it")  # fmt: skip
    option("--json", action="store_true", help="print JSON")
    parser.set_defaults(handler=_import)


def _import(args: argparse.Namespace) -> int:
    with interrupts_held():
        from bertjobs.conversion.folder import ImportOptions, import_checkpoint
        from bertjobs.data.text.vocabulary_choice import Wishes

    options = ImportOptions(
        checkpoint=Path(args.checkpoint),
        output=Path(args.output),
        config=Path(args.config) if args.config else None,
        vocabulary=Path(args.vocab) if args.vocab else None,
        wishes=Wishes.of_flags(args.cased, args.uncased, args.strip_accents),
    )
    made = import_checkpoint(options)
    if args.json:
        print(json.dumps(_as_json(made, args), indent=2))
    else:
        print(harmless("\n".join(_lines(made, args))))
    return 0


def _as_json(made: Imported, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "checkpoint": args.checkpoint,
        "origin": made.origin,
        "folder": args.output,
        "model": {
            "num_hidden_layers": made.spec.num_hidden_layers,
            "hidden_size": made.spec.hidden_size,
            "num_attention_heads": made.spec.num_attention_heads,
            "vocab_size": made.spec.vocab_size,
        },
        "has_masked_words": made.has_masked_words,
        "has_next_sentence": made.has_next_sentence,
        "missing": list(made.missing),
        "left_out": list(made.left_out),
        "notes": list(made.notes),
    }


def _lines(made: Imported, args: argparse.Namespace) -> list[str]:
    from bertjobs.slurm.shell import shell_line

    spec = made.spec
    shape = (f"{spec.num_hidden_layers} layers, hidden size {spec.hidden_size}, {spec.num_attention_heads} heads, "
             f"{spec.vocab_size:,} tokens, {made.text}")  # fmt: skip
    heads = {"masked words": made.has_masked_words, "next sentence": made.has_next_sentence}
    absent = [name for name, there in heads.items() if not there]
    rows = [
        ("checkpoint", f"{args.checkpoint}, of {made.origin}"),
        ("model", shape),
        ("heads", ", ".join(name for name, there in heads.items() if there) or "none"),
        *([("missing", f"{' and '.join(absent)}: training starts with random weights there")] if absent else []),
        *([("left out", _some(made.left_out))] if made.left_out else []),
    ]
    return [
        *columns(rows),
        *(f"note: {note}" for note in made.notes),
        f"-> {args.output}",
        "next: " + shell_line(["bertjobs", "finetune", "--task", "TASK", "--data", "DIR", "--from", args.output]),
        "      "
        + shell_line(["bertjobs", "submit", "--recipe", "NAME", "--data", "DIR", "--init-checkpoint", args.output]),
    ]


def _some(names: tuple[str, ...]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
