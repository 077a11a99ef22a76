"""One export: a folder with everything that another program needs, complete or absent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from bertjobs.errors import InputError
from bertjobs.export.huggingface import write_description, write_weights
from bertjobs.export.int8 import INT8_FILE, Int8, measure_int8, quantise
from bertjobs.export.model_card import Card, hugging_face_card, onnx_card
from bertjobs.export.onnx_file import (
    LIMIT,
    ONNX_FILE,
    OPSET,
    Difference,
    check,
    check_packages,
    open_session,
    random_batches,
    write_onnx,
)
from bertjobs.export.real_text import RealText
from bertjobs.export.source import ExportedModel, open_source
from bertjobs.export.tensorrt import shapes_for, tensorrt_words, write_calibration
from bertjobs.export.triton.card import repository_card
from bertjobs.export.triton.repository import check_servable, write_computing, write_text_model
from bertjobs.files.output_folder import check_output, output_folder
from bertjobs.finetune.predict import BATCH_TOKENS
from bertjobs.run.result import name_of

Target = Literal["hf", "onnx", "triton", "tensorrt"]
CARD_FILE = "README.md"


@dataclass(frozen=True)
class ExportOptions:
    """What is asked for.

    Attributes:
        to: whose files they are.
        output: the folder; absent or empty.
        name: the model's; "" takes that of its run or folder.
        features: the encoder alone, whatever head the model has.
        int8: also with eight-bit weights.
        in_python: of Triton's, ONNX Runtime is called from Python, not by Triton's own backend for it.
    """

    to: Target
    output: Path
    name: str = ""
    features: bool = False
    int8: bool = False
    in_python: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: sizes in bytes, by name within the folder.
        check: how far the ONNX file is from torch; None where there is none.
        int8: what the eight-bit file costs; None where there is none.
        notes: what the user should know.
    """

    source: ExportedModel
    name: str
    files: Mapping[str, int]
    check: Difference | None = None
    int8: Int8 | None = None
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Names, numbers and words."""
        source, check = self.source, self.check
        return {
            "model": str(source.folder),
            "name": self.name,
            "task": source.task["task"] if source.task else None,
            "architecture": source.architecture,
            "scores": dict(source.scores),
            "files": [{"file": name, "bytes": size} for name, size in self.files.items()],
            "check": None if check is None else {
                "largest_difference": check.largest, "limit": LIMIT, "shapes": [list(shape) for shape in check.shapes],
            },
            "int8": None if self.int8 is None else self.int8.as_json(),
            "notes": list(self.notes),
        }  # fmt: skip


def export(folder: Path, options: ExportOptions) -> Exported:
    """Write a model's folder as another program loads it.

    Args:
        folder: of the model.

    Raises:
        InputError: there is something at the output; a package is missing; the model cannot be read, or not be exported
            so.
        BertjobsError: what was written does not compute what torch does, and was deleted.
    """
    check_output(options.output)
    if options.to != "hf":
        check_packages(f"--to {options.to}")
    elif options.int8:
        raise InputError("a Hugging Face folder has no int8 form", where="--to hf --int8", hint="--to onnx --int8")
    source = open_source(folder, features=options.features)
    name = options.name or default_name(folder)
    check_name(name)
    with output_folder(options.output) as part:
        check_found, int8, notes = _WRITERS[options.to](RealText.of(source), name, part, options)
        files = sizes(part)
    if (trained := source.trained) is not None:
        notes = (*notes, *trained.task.untuned(trained.fitted))
    return Exported(source, name, files, check_found, int8, notes)


def check_name(name: str) -> None:
    """Make sure that servers take a name in their paths and addresses.

    Raises:
        InputError: they do not.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise InputError(f"{name!r} is not a name that servers take", where="--name",
                         hint="letters, digits, and . _ - inside")  # fmt: skip


def default_name(folder: Path) -> str:
    """The name of the run that a checkpoint belongs to, else of its folder, as servers take it."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name_of(folder)).lstrip(".-") or "model"


def sizes(folder: Path) -> dict[str, int]:
    """The bytes of all files below a folder, by their path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def card_of(text: RealText, name: str, notes: tuple[str, ...] = ()) -> Card:
    """What README.md says of a model."""
    source, spec = text.source, text.source.spec
    million = sum(tensor.numel() for tensor in source.state.values()) / 1e6
    trained = source.trained
    return Card(
        name=name,
        kind=source.module.kind,
        shape=f"{spec.num_hidden_layers} layers, hidden size {spec.hidden_size}, {million:.1f} million parameters",
        task=trained.name if trained else "",
        labels=trained.fitted.labels if trained else (),
        scores=source.scores,
        pairs=text.has_pairs,
        max_length=source.encoder.max_length,
        positions=source.spec.max_position_embeddings,
        notes=notes,
    )


def onnx_files(text: RealText, folder: Path, int8: bool) -> tuple[Difference, Int8 | None]:
    """Write model.onnx, checked, and with ``int8`` model_int8.onnx, measured.

    Raises:
        BertjobsError: as `write_onnx`, `check` and `quantise`.
    """
    source, file = text.source, folder / ONNX_FILE
    write_onnx(source.module, source.spec.max_position_embeddings, file)
    batches = [*random_batches(source.spec.max_position_embeddings, source.spec.vocab_size), *text.batches]
    comparison = check(source.module, open_session(file), batches)
    if not int8:
        return comparison, None
    quantise(file, folder / INT8_FILE)
    return comparison, measure_int8(text, file, folder / INT8_FILE, BATCH_TOKENS)


def checked_words(comparison: Difference) -> str:
    """How a file was compared with torch, in a sentence."""
    lengths, sequences = [shape[1] for shape in comparison.shapes], [shape[0] for shape in comparison.shapes]
    return (
        f"compared with torch on {len(comparison.shapes)} batches of {min(sequences)} to {max(sequences)} sequences of "
        f"{min(lengths)} to {max(lengths)} tokens: the largest difference is {comparison.largest:.1e}"
    )


def int8_words(int8: Int8) -> str:
    """What eight-bit weights cost, in a sentence."""
    if not int8.measure:
        return (
            f"on real text its outputs differ from the float file's by up to {int8.difference.largest:.2g} "
            f"(nothing was measured: {int8.why_not})"
        )
    ints, floats = int8.scores[int8.measure], int8.float_scores[int8.measure]
    return (
        f"{int8.measure.replace('_', ' ')} {ints:.4f}, the float file {floats:.4f}, on {int8.examples:,} dev examples"
    )


_Written = tuple[Difference | None, Int8 | None, tuple[str, ...]]


def _hugging_face(text: RealText, name: str, folder: Path, options: ExportOptions) -> _Written:  # noqa: ARG001
    write_description(text.source, folder)
    write_weights(text.source, folder)
    (folder / CARD_FILE).write_text(hugging_face_card(card_of(text, name)), encoding="utf-8")
    return None, None, ()


def _onnx(text: RealText, name: str, folder: Path, options: ExportOptions) -> _Written:
    write_description(text.source, folder)
    comparison, int8 = onnx_files(text, folder, options.int8)
    words = f"Opset {OPSET}; {checked_words(comparison)}."
    small = f"`{INT8_FILE}` is the same with eight-bit weights: {int8_words(int8)}." if int8 else ""
    card = onnx_card(card_of(text, name), output_shapes(text.source), words, small)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return comparison, int8, ()


def output_shapes(source: ExportedModel) -> dict[str, str]:
    """The shapes of the outputs, in letters and numbers."""
    return {
        name: ", ".join(["B", *("S" if size < 0 else str(size) for size in dims)])
        for name, dims in source.output_dims.items()
    }


def _triton(text: RealText, name: str, folder: Path, options: ExportOptions) -> _Written:
    source = text.source
    check_servable(source)
    answering = write_text_model(source, name, folder)  # first: it refuses what cannot be asked in text
    with TemporaryDirectory(dir=folder, prefix=".tmp-") as made:
        comparison, int8 = onnx_files(text, Path(made), options.int8)
        file = Path(made) / (INT8_FILE if options.int8 else ONNX_FILE)
        write_computing(source, name, file, folder, in_python=options.in_python)
    small = f"It has eight-bit weights: {int8_words(int8)}." if int8 else ""
    words = repository_card(
        card_of(text, name), answering, checked_words(comparison), small, in_python=options.in_python
    )
    (folder / CARD_FILE).write_text(words, encoding="utf-8")
    return comparison, int8, ()


def _tensorrt(text: RealText, name: str, folder: Path, options: ExportOptions) -> _Written:
    source, batches = text.source, text.batches
    write_description(source, folder)
    comparison, _ = onnx_files(text, folder, int8=False)
    lengths = [int(length) for batch in batches for length in batch[1].sum(1)]
    longest = source.spec.max_position_embeddings
    shapes = shapes_for(lengths, longest)
    calibrated_on = write_calibration(batches, shapes, folder) if options.int8 else 0
    card = card_of(text, name, (tensorrt_words(shapes, calibrated_on),))
    words = onnx_card(card, output_shapes(source), f"Opset {OPSET}; {checked_words(comparison)}.")
    (folder / CARD_FILE).write_text(words, encoding="utf-8")
    note = "the engine itself is built where the GPU is: README.md has the trtexec line, which was not run here"
    return comparison, None, (note,)


_WRITERS = {"hf": _hugging_face, "onnx": _onnx, "triton": _triton, "tensorrt": _tensorrt}
