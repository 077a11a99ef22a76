"""`bertjobs export`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertjobs.cli.arguments import add_results_arguments
from bertjobs.cli.interrupts import interrupts_held
from bertjobs.cli.model_arguments import chosen_folder, prepared_device
from bertjobs.errors import InputError
from bertjobs.wording import columns

if TYPE_CHECKING:
    from bertjobs.export.export import Exported

TARGETS = ("hf", "onnx", "triton", "tensorrt")
MOST_FILES = 8


def register(subparsers: Any) -> None:
    """Add `export` to the command line."""
    parser = subparsers.add_parser(
        "export",
        usage="%(prog)s RUN|DIR --to hf|onnx|triton|tensorrt --output DIR [FLAG ...]",
        help="write a model as Hugging Face, ONNX Runtime, Triton or TensorRT load it",
        description="Write a run's result, or the model in a folder, as files that other programs load, with its "
        "tokenizer and a README. An ONNX file is compared with torch before it is left there.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="RUN|DIR", help="a run, by its name or folder, or the folder of a model")
    parser.add_argument("--to", metavar="|".join(TARGETS), choices=TARGETS, required=True,
                        help="hf: a folder for AutoModel and pipelines; onnx: one file; triton: a model repository, "
                        "text in and answers out; tensorrt: one file, and how to build an engine of it")  # fmt: skip
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--name", metavar="NAME", default="",
                        help="what servers call the model (default: the run's, or the folder's)")  # fmt: skip
    parser.add_argument("--features", action="store_true",
                        help="the vectors of all tokens, without the model's head")  # fmt: skip
    parser.add_argument("--int8", action="store_true", help="with eight-bit weights, and what they cost on the dev "
                        "data of the run; for tensorrt, with the calibration")  # fmt: skip
    parser.add_argument("--triton-python", action="store_true", help="of triton: call ONNX Runtime from Python, for "
                        "servers without the onnxruntime backend")  # fmt: skip
    parser.add_argument("--threads", metavar="N", type=int, default=0, help="CPU threads (default: one per core)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_results_arguments(parser)
    parser.set_defaults(handler=_export, device="cpu", precision="fp32")


def _export(args: argparse.Namespace) -> int:
    if args.triton_python and args.to != "triton":
        raise InputError("only Triton has it", where=f"--to {args.to} --triton-python", hint="--to triton")
    with interrupts_held():
        from bertjobs.export.export import ExportOptions, export
        from bertjobs.files.output_folder import check_output

    check_output(args.output)
    folder = chosen_folder(args)
    prepared_device(args)
    options = ExportOptions(args.to, args.output, args.name, args.features, args.int8, args.triton_python)
    exported = export(folder, options)
    if args.json:
        content = {"to": args.to, "output": str(args.output), **exported.as_json()}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        _print(args.output, exported)
    return 0


def _print(output: Path, exported: Exported) -> None:
    from bertjobs.export.export import checked_words, int8_words

    source = exported.source
    task = f"task {source.task['task']}" if source.task else source.architecture
    print(f"{task}, {source.folder}")
    large = sorted(exported.files.items(), key=lambda item: -item[1])[:MOST_FILES]
    print("\n".join(columns([(f"  {output / name}", _size(size)) for name, size in large])))
    if len(exported.files) > MOST_FILES:
        print(f"  and {len(exported.files) - MOST_FILES} smaller files")
    if exported.check:
        print(checked_words(exported.check))
    if exported.int8:
        print(f"int8: {int8_words(exported.int8)}")
    for note in exported.notes:
        print(note)
    print(f"how to load it: {output / 'README.md'}")


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
