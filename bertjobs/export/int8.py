"""Eight-bit weights: ONNX Runtime's dynamic quantisation, and what it costs in the task's own measure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bertjobs.errors import BertjobsError, first_line
from bertjobs.export.onnx_file import Difference, difference, open_session
from bertjobs.export.onnx_forward import with_session
from bertjobs.export.real_text import RealText
from bertjobs.finetune.evaluate import evaluate

INT8_FILE = "model_int8.onnx"


@dataclass(frozen=True)
class Int8:
    """What eight-bit weights cost.

    Attributes:
        difference: of the outputs from torch's, on real text.
        measure: the task's, by which ``scores`` and ``float_scores`` are compared; "" where nothing was measured.
        scores, float_scores: the measures on the same labelled dev examples, of the int8 and of the float file.
        examples: how many these are.
        why_not: why nothing was measured; "" if it was.
    """

    difference: Difference
    measure: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    float_scores: Mapping[str, float] = field(default_factory=dict)
    examples: int = 0
    why_not: str = ""

    def as_json(self) -> dict[str, Any]:
        """Names, numbers and words."""
        return {
            "largest_difference": self.difference.largest,
            "measure": self.measure or None,
            "scores": dict(self.scores),
            "float_scores": dict(self.float_scores),
            "examples": self.examples,
            "why_not_measured": self.why_not or None,
        }


def quantise(float_file: Path, int8_file: Path) -> None:
    """Write a file whose matrix products and embeddings have eight-bit weights; activations are quantised as they come.

    Weights have seven of the eight bits: on CPUs without VNNI instructions the sums of products would saturate.

    Raises:
        BertjobsError: ONNX Runtime's quantiser failed.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it warns that it was not told to do what has just been done
    try:
        with TemporaryDirectory(dir=int8_file.parent, prefix=".tmp-") as folder:
            inferred = Path(folder) / "inferred.onnx"
            quant_pre_process(str(float_file), str(inferred), skip_symbolic_shape=True)
            quantize_dynamic(inferred, int8_file, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    except Exception as error:  # the library raises whatever onnx and protobuf raise
        raise BertjobsError(
            f"ONNX Runtime's quantisation failed: {first_line(error)}",
            where="--int8",
            hint="without --int8 the float file is written",
        ) from error
    finally:
        root.setLevel(level)


def measure_int8(text: RealText, float_file: Path, int8_file: Path, budget: int) -> Int8:
    """What the int8 file costs: the measures on all dev data of the model's run, or how far its outputs are off."""
    source, session = text.source, open_session(int8_file)
    far = difference(source.module, session, text.batches)
    if text.split is None or source.trained is None:
        return Int8(far, why_not=text.why_not)
    measured = [
        evaluate(with_session(source.trained, one), text.split.examples, "dev", budget=budget)
        for one in (open_session(float_file), session)
    ]
    floats, ints = (one.scores for one in measured)
    return Int8(far, source.trained.task.measure, ints, floats, measured[0].examples)
