"""`--to triton`: what the repository holds, and that its answers are those of `bertjobs predict`, without a server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertjobs.errors import InputError
from bertjobs.export.export import ExportOptions, export
from bertjobs.export.source import open_source
from bertjobs.export.triton.answering import Inputs, Raw, answers, batches, open_answering, texts_of
from bertjobs.export.triton.carried import closure
from bertjobs.export.triton.repository import write_computing, write_text_model
from bertjobs.finetune.encoder import features
from bertjobs.finetune.loading import load_trained
from bertjobs.finetune.predict import Predictor
from tests.export.conftest import Export
from tests.export.models import KINDS, TEXTS
from tests.export.test_onnx import flat

CPU = torch.device("cpu")


def torch_of(folder: Path) -> Callable[[Inputs], Raw]:
    """The model of a folder on padded batches, as the ONNX file computes it."""
    module = open_source(folder).module

    @torch.inference_mode()
    def compute(inputs: Inputs) -> Raw:
        found = module(*(torch.from_numpy(one) for one in inputs.values()))
        return {name: one.numpy() for name, one in zip(module.outputs, found, strict=True)}

    return compute


@pytest.mark.parametrize("name", KINDS)
def test_answers_are_those_of_predict(model: Callable[[str], Path], name: str) -> None:
    folder = model(name)
    trained = load_trained(folder, CPU)
    asked = KINDS[name].asked
    wanted = Predictor(trained).predict(trained.task.from_text(asked))
    answering = open_answering(folder)
    compute = torch_of(folder)
    found = list(answers(answering, [answering.ask(one) for one in asked], compute, most_rows=3))
    for one, prediction in zip(found, wanted, strict=True):
        expected = {key: value for key, value in prediction.items() if not key.endswith("id")}
        if "answer" in expected:
            assert one.pop("end") == expected["start"] + len(expected["answer"])
        assert flat(one) == pytest.approx(flat(expected), abs=1e-5)
        for field in answering.fields:
            value = answering.output(field.name, one | {"end": 0})
            assert isinstance(value, bytes) == (field.type == "TYPE_STRING")
            assert np.size(value) == field.size


def test_vectors_are_those_of_infer(model: Callable[[str], Path], tmp_path: Path) -> None:
    write_text_model(open_source(model("features")), "vectors", tmp_path)
    answering = open_answering(tmp_path / "vectors" / "1")
    (found,) = answers(answering, [answering.ask({"text": "a fine film"})], torch_of(model("features")))
    wanted = features(model("features"), "a fine film", CPU)
    assert found["mean"] == pytest.approx(wanted["mean"], abs=1e-5)
    assert found["cls"] == pytest.approx(wanted["cls"], abs=1e-5)


def test_the_carried_part_needs_numpy_and_tokenizers_alone(model: Callable[[str], Path], tmp_path: Path) -> None:
    """In a Python that has bertjobs itself, torch and pyarrow, and may import none of them."""
    write_text_model(open_source(model("class")), "class", tmp_path)
    version = tmp_path / "class" / "1"
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.split('.')[0]\n"
        "        known = {'numpy', 'tokenizers', 'huggingface_hub', 'bertjobs'} | set(sys.stdlib_module_names)\n"
        "        if path is None and top not in known: raise ImportError(f'{name} is not there')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import bertjobs\n"
        "assert bertjobs.__file__.startswith(sys.argv[1]), bertjobs.__file__\n"
        "from pathlib import Path\n"
        "from bertjobs.export.triton.answering import open_answering\n"
        "answering = open_answering(Path(sys.argv[1]))\n"
        "print(len(answering.ask({'text': 'a fine film'}).rows[0].ids))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, str(version)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr


def test_what_is_carried_is_a_small_part() -> None:
    files = closure("bertjobs.export.triton.answering")
    names = {file.name for file in files}
    assert {"answering.py", "questions.py", "encoding.py"} <= names
    assert not names & {"loading.py", "prepared.py", "wordpiece.py", "client.py"}
    assert len(files) < 70


CONFIG = """\
name: "class"
backend: "python"
max_batch_size: 64
input { name: "text" data_type: TYPE_STRING dims: [ 1 ] }
input { name: "second" data_type: TYPE_STRING dims: [ 1 ] optional: true }
output { name: "prediction" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "label" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "probabilities" data_type: TYPE_FP32 dims: [ 3 ] }
dynamic_batching { max_queue_delay_microseconds: 500 }
instance_group [ { count: 1 kind: KIND_CPU } ]
parameters {
  key: "computing_model"
  value { string_value: "class_onnx" }
}
"""
COMPUTING = """\
name: "class_onnx"
backend: "BACKEND"
max_batch_size: 64
input { name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] }
input { name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] }
input { name: "token_type_ids" data_type: TYPE_INT64 dims: [ -1 ] }
output { name: "logits" data_type: TYPE_FP32 dims: [ 3 ] }
dynamic_batching { max_queue_delay_microseconds: 500 }
instance_group [ { count: 1 kind: KIND_AUTO } ]
parameters {
  key: "intra_op_thread_count"
  value { string_value: "0" }
}
"""


def test_the_files_of_both_forms(exported: Export, model: Callable[[str], Path], tmp_path: Path) -> None:
    source = open_source(model("class"))
    write_text_model(source, "class", tmp_path / "python")
    shutil.copyfile(exported("class", "onnx") / "model.onnx", tmp_path / "model.onnx")
    write_computing(source, "class", tmp_path / "model.onnx", tmp_path / "python", in_python=True)
    in_python = tmp_path / "python"
    assert (in_python / "class" / "config.pbtxt").read_text() == CONFIG
    assert (in_python / "class_onnx" / "config.pbtxt").read_text() == COMPUTING.replace("BACKEND", "python")
    assert {file.name for file in (in_python / "class_onnx" / "1").iterdir()} == {"model.onnx", "model.py"}
    export(model("class"), ExportOptions("triton", tmp_path / "own", name="reviews"))
    own = tmp_path / "own"
    assert {one.name for one in own.iterdir()} == {"README.md", "reviews", "reviews_onnx"}
    assert {file.name for file in (own / "reviews_onnx" / "1").iterdir()} == {"model.onnx"}
    wanted = COMPUTING.replace("BACKEND", "onnxruntime").replace("class_onnx", "reviews_onnx")
    assert (own / "reviews_onnx" / "config.pbtxt").read_text() == wanted
    words = (own / "README.md").read_text()
    assert "pip install numpy tokenizers\n" in words
    assert "v2/models/reviews/infer" in words


def test_a_task_of_one_s_own_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.finetune.models import films, our_folder

    monkeypatch.chdir(tmp_path)
    folder = our_folder(tmp_path / "model", films(tmp_path))
    write_text_model(open_source(folder), "model", tmp_path / "out")
    version = tmp_path / "out" / "model" / "1"
    assert (version / "films.py").read_text() == (tmp_path / "films.py").read_text()
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from bertjobs.export.triton.answering import open_answering\n"
        "print(type(open_answering(Path(sys.argv[1])).task).__module__, sys.modules['films'].__file__)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code, str(version)], capture_output=True, text=True, cwd="/")
    assert done.stdout == f"films {version / 'films.py'}\n", done.stderr


def test_a_model_that_fills_masks_is_refused(model: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fills masks") as caught:
        export(model("fill-mask"), ExportOptions("triton", tmp_path / "out"))
    assert "--features" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_rows_of_like_length_are_computed_together() -> None:
    lengths = [5, 500, 7, 480, 3]
    assert batches(lengths, most_rows=2, most_tokens=2000) == [[1, 3], [2, 0], [4]]
    assert batches(lengths, most_rows=9, most_tokens=600) == [[1], [3], [2, 0, 4]]
    assert batches([9], most_tokens=1) == [[0]]
    assert batches([]) == []


def test_texts_of_a_request() -> None:
    column = np.array([[b"a"], ["\u00e9".encode()]], dtype=np.object_)
    assert texts_of({"text": column, "second": None}) == [{"text": "a"}, {"text": "\u00e9"}]
    with pytest.raises(InputError, match="not UTF-8: byte 2 is wrong"):
        texts_of({"text": np.array([[b"a\xff"]], dtype=np.object_)})
    with pytest.raises(InputError, match="different numbers of texts"):
        texts_of({"text": column, "second": column[:1]})


def test_what_the_task_refuses_names_the_input(model: Callable[[str], Path]) -> None:
    answering = open_answering(model("tags"))
    with pytest.raises(InputError, match="no word"):
        answering.ask({"text": " "})
    asked: dict[str, Any] = {"txt": TEXTS[0]["text"]}
    with pytest.raises(InputError, match="takes no 'txt'"):
        answering.ask(asked)
