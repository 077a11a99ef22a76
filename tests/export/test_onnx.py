"""`--to onnx`: one file that computes what torch does, at every number of sequences and every length."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from bertjobs.errors import BertjobsError
from bertjobs.export import onnx_file
from bertjobs.export.export import ExportOptions, export
from bertjobs.export.onnx_file import difference, open_session, random_batch
from bertjobs.export.onnx_forward import with_session
from bertjobs.export.padded import OUTPUTS
from bertjobs.export.padding import INPUTS
from bertjobs.export.source import open_source
from bertjobs.finetune.loading import load_trained
from bertjobs.finetune.predict import Predictor
from tests.export.conftest import Export
from tests.export.models import KINDS

HEADS = (
    "class",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("tags", "answers", "fill-mask", "features")),
)
"""Each is an export of its own, of several seconds."""


def sizes(value: Any) -> list[str | int]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", HEADS)
def test_names_types_and_symbolic_sizes(exported: Export, name: str) -> None:
    graph = onnx.load(exported(name, "onnx") / "model.onnx").graph
    assert [one.name for one in graph.input] == list(INPUTS)
    for one in graph.input:
        assert one.type.tensor_type.elem_type == onnx.TensorProto.INT64
        assert sizes(one) == ["batch", "length"]
    kind = name if name in OUTPUTS else KINDS[name].head["kind"]
    assert [one.name for one in graph.output] == list(OUTPUTS[kind])
    for one in graph.output:
        assert one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert sizes(one)[: 1 if kind == "sequence" else 2] == ["batch", "length"][: 1 if kind == "sequence" else 2]


@pytest.mark.parametrize("name", HEADS)
def test_the_file_computes_what_torch_does(model: Callable[[str], Path], exported: Export, name: str) -> None:
    source = open_source(model(name))
    session = open_session(exported(name, "onnx") / "model.onnx")
    shapes = ((1, 1), (1, 2), (1, 64), (2, 3), (5, 64), (33, 17))
    batches = [random_batch(*shape, source.spec.vocab_size, seed=7) for shape in shapes]
    assert difference(source.module, session, batches).largest < 5e-5


@pytest.mark.parametrize("name", HEADS[:3])
def test_a_task_predicts_the_same_by_the_file(model: Callable[[str], Path], exported: Export, name: str) -> None:
    trained = load_trained(model(name), torch.device("cpu"))
    session = open_session(exported(name, "onnx") / "model.onnx")
    examples = trained.task.from_text(KINDS[name].asked)
    ours = Predictor(trained).predict(examples)
    theirs = Predictor(with_session(trained, session)).predict(examples)
    assert flat(theirs) == pytest.approx(flat(ours), abs=1e-5)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """All numbers and words by their place, as pytest.approx compares them."""
    pairs = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else None
    if pairs is None:
        return {path: value}
    return {name: one for key, inner in pairs for name, one in flat(inner, f"{path}/{key}").items()}


def test_a_file_that_computes_something_else_is_not_left(
    model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "LIMIT", -1.0)
    with pytest.raises(BertjobsError, match="outputs differ from torch's by"):
        export(model("class"), ExportOptions("onnx", tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_difference_is_seen_wherever_it_is(model: Callable[[str], Path], exported: Export) -> None:
    """The check compares outputs, not only shapes: another model of the same shape is far away."""
    source = open_source(model("class"))
    session = open_session(exported("class", "onnx") / "model.onnx")
    with torch.no_grad():
        source.module.model.classifier.bias[2] += 0.01
    found = difference(source.module, session, [random_batch(3, 9, source.spec.vocab_size, seed=1)])
    assert onnx_file.LIMIT < found.largest <= 0.011


def test_the_lines_of_the_readme_work(exported: Export) -> None:
    folder = exported("class", "onnx")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "logits (2, 3)\n"
