"""What TensorRT needs besides the ONNX file: the line that builds an engine of it, and text for the calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bertjobs.export.onnx_file import Batch
from bertjobs.export.padding import INPUTS

PLAN_FILE, CACHE_FILE = "model.plan", "calibration.cache"
CALIBRATE_FILE, CALIBRATION_FILE = "calibrate.py", "calibration.npz"
PRECISIONS = ("fp16", "bf16", "int8")
MOST_SEQUENCES, USUAL_SEQUENCES = 64, 16
CALIBRATION_SEQUENCES = 8
"""In one batch of the calibration."""


@dataclass(frozen=True)
class Shapes:
    """The shapes ``(sequences, tokens)`` that an engine takes: the least and the most, and the one it is tuned for."""

    least: tuple[int, int]
    usual: tuple[int, int]
    most: tuple[int, int]


def shapes_for(lengths: Sequence[int], longest: int) -> Shapes:
    """Shapes for texts of some ``lengths``: tuned for the one that nine of ten do not exceed, in steps of 8 tokens."""
    usual = int(np.ceil(np.quantile(lengths, 0.9) / 8)) * 8
    return Shapes((1, 2), (USUAL_SEQUENCES, min(usual, longest)), (MOST_SEQUENCES, longest))


def trtexec_line(shapes: Shapes, precision: str = "") -> str:
    """The command that builds an engine: in one of `PRECISIONS`, or in float32."""
    words = ["trtexec", "--onnx=model.onnx", f"--saveEngine={PLAN_FILE}"]
    for flag, shape in (("min", shapes.least), ("opt", shapes.usual), ("max", shapes.most)):
        size = f"{shape[0]}x{shape[1]}"
        words.append(f"--{flag}Shapes=" + ",".join(f"{name}:{size}" for name in INPUTS))
    if precision == "int8":
        words += ["--int8", "--fp16", f"--calib={CACHE_FILE}"]
    elif precision:
        words.append(f"--{precision}")
    return " \\\n  ".join(words)


def write_calibration(batches: Sequence[Batch], shapes: Shapes, folder: Path) -> int:
    """Write calibration.npz, ``[batches, 8, S]`` of each input and the ``longest`` sequence of an engine, and
    calibrate.py beside it.

    Args:
        batches: of real text.
        shapes: of an engine: sequences that are longer than usual are left out.

    Returns:
        How many sequences there are.
    """
    usual = shapes.usual[1]
    rows = [row for batch in batches for row in zip(*batch, strict=True) if int(row[1].sum()) <= usual]
    count = -(-len(rows) // CALIBRATION_SEQUENCES)
    arrays = {name: np.zeros((count, CALIBRATION_SEQUENCES, usual), dtype=np.int64) for name in INPUTS}
    for place in range(count * CALIBRATION_SEQUENCES):
        row = rows[place % len(rows)]  # the last batch is filled up with the first sequences
        length = int(row[1].sum())
        for name, tensor in zip(INPUTS, row, strict=True):
            arrays[name][place // CALIBRATION_SEQUENCES, place % CALIBRATION_SEQUENCES, :length] = tensor[:length]
    arrays["longest"] = np.array(shapes.most[1])
    np.savez_compressed(folder / CALIBRATION_FILE, **arrays)  # type: ignore[arg-type]  # its stubs know no keywords
    script = Path(__file__).with_name("tensorrt_calibration.py").read_text(encoding="utf-8")
    (folder / CALIBRATE_FILE).write_text(script, encoding="utf-8")
    return len(rows)


def tensorrt_words(shapes: Shapes, calibrated_on: int) -> str:
    """The part of README.md about TensorRT.

    Args:
        calibrated_on: how many sequences calibration.npz has; 0: there is none.
    """
    most, usual = shapes.most, shapes.usual
    lines = [
        "## Building an engine",
        "",
        "bertjobs has written and checked `model.onnx`; what follows needs an NVIDIA GPU and TensorRT, and was not run "
        "by bertjobs' own tests. An engine is for the kind of GPU and the version of TensorRT that built it.",
        "",
        "```bash",
        trtexec_line(shapes, "fp16"),
        "```",
        "",
        f"It takes 1 to {most[0]} sequences of 2 to {most[1]} tokens, and is tuned for {usual[0]} of {usual[1]}. "
        "Change the numbers after `x` to those of your texts: what is longer than the most is refused. `--bf16` in "
        "place of `--fp16` has fp32's range (Ampere and later); without either the engine computes in fp32. Compare "
        "its answers with ONNX Runtime's on your own texts before you use it: fp16 and bf16 differ from the second or "
        "third digit on.",
        "",
    ]
    if not calibrated_on:
        return "\n".join([*lines, "For eight bits, export again with `--int8`, which writes the calibration, too.", ""])
    return "\n".join([
        *lines,
        "## Eight bits",
        "",
        f"TensorRT needs to know how large activations get. `{CALIBRATE_FILE}` lets it see {calibrated_on:,} sequences "
        f"(`{CALIBRATION_FILE}`), writes what it found into `{CACHE_FILE}`, and builds the engine; it needs the Python "
        "packages tensorrt and torch. With the cache, trtexec builds further engines:",
        "",
        "```bash",
        "python calibrate.py",
        trtexec_line(shapes, "int8"),
        "```",
        "",
        "The cache belongs to this ONNX file: delete it after another export. TensorRT 10.1 and later call calibration "
        "deprecated in favour of files that state their scales (Q/DQ nodes), but still read it. Measure the engine on "
        "labelled data: eight bits can cost accuracy, and what they cost depends on the task.",
        "",
    ])  # fmt: skip
