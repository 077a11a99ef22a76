"""`bertjobs export`, as a user types it: a run with dev data, the other folders, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bertjobs.cli.main import main
from bertjobs.errors import InputError
from bertjobs.export.export import ExportOptions, default_name, export
from bertjobs.files.json_lines import append_line
from bertjobs.finetune.loading import load_trained
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.run.checkpoints import folder_name, seal
from bertjobs.run.directory import RunDirectory
from tests.cli.test_json import documented, strict
from tests.finetune.models import our_folder
from tests.finetune.trained import CPU, prepared


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a run called reviews, with prepared dev data and a checkpoint of random weights."""
    folder = tmp_path_factory.mktemp("export")
    files = {split: folder / f"{split}.jsonl" for split in ("train", "dev")}
    for file in files.values():
        rows = [{"text": "a good film", "label": "good"}, {"text": "a bad book", "label": "bad"}] * 10
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = prepared(folder, "sentences", files, "a good bad film book")
    flags = {"recipe": "finetune", "task": "sentences", "data": str(task.folder), "run": "reviews"}
    sets = (f"phase1.sequence_length={task.max_length}", "phase1.global_batch=8")
    spec = resolve(load_catalogue([builtin_file()]), flags=flags, environ={}, sets=sets, training_rows=20).spec
    directory = RunDirectory(folder / "results" / "reviews")
    directory.create()
    directory.write_lockfile(lockfile(spec))
    phase = directory.phase(1)
    phase.create()
    append_line(phase.validation, {"step": 4, "examples": 20, "accuracy": 0.5, "tuned": {"cut": 0.25}})
    checkpoint = our_folder(phase.checkpoints / folder_name(4), task)
    (checkpoint / "training_state.bin").write_bytes(b"moments")
    seal(checkpoint, phase=1, step=4, recipe_hash="0")
    return folder / "results"


def test_a_run_becomes_a_hugging_face_folder(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "reviews", "--results", str(results), "--to", "hf", "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("task sentences, ")
    assert f"how to load it: {tmp_path / 'out' / 'README.md'}" in out
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "task.json", "tokenizer.json",
                     "tokenizer_config.json", "vocab.txt"}  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# reviews\n" in card
    assert "Labels: bad, good." in card
    assert "| accuracy | 0.5 |" in card
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["id2label"], config["label2id"]) == ({"0": "bad", "1": "good"}, {"bad": 0, "good": 1})
    assert load_trained(tmp_path / "out", CPU).fitted.tuned == {"cut": 0.25}


def test_int8_is_measured_on_the_dev_data_beside_the_float_file(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "reviews", "--results", str(results), "--to", "onnx", "--int8", "--json"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    found = strict(out)
    fields = documented("export")
    assert set(found) == {field[0] for field in fields}
    for key in ("check", "int8"):
        assert set(found[key]) == {field[1] for field in fields if field[0] == key and len(field) > 1}
    assert found["check"]["largest_difference"] < found["check"]["limit"] == 1e-4
    assert found["int8"]["measure"] == "accuracy"
    assert found["int8"]["examples"] == 20
    assert found["int8"]["float_scores"]["accuracy"] in (0.0, 0.5, 1.0)
    assert 0 < found["int8"]["largest_difference"] < 1
    assert found["int8"]["why_not_measured"] is None
    assert "the float file" in (tmp_path / "out" / "README.md").read_text()
    assert {file["file"] for file in found["files"]} >= {"model.onnx", "model_int8.onnx", "README.md"}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--to", "hf", "--output", "full"], "exists and is not empty"),
        (["--to", "hf", "--output", "full/file"], "exists and is not a folder"),
        (["--to", "hf", "--output", "new", "--int8"], "a Hugging Face folder has no int8 form"),
        (["--to", "onnx", "--output", "new", "--triton-python"], "only Triton has it"),
        (["--to", "hf", "--output", "new", "--name", "a/b"], "'a/b' is not a name that servers take"),
        (["--to", "hf", "--output", "new", "--threads", "-1"], "-1 is too small"),
        (["--to", "onxx", "--output", "new"], "invalid choice: 'onxx'"),
    ],
)
def test_what_cannot_be_exported_so(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], what: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    try:
        code = main(["export", "reviews", "--results", str(results), *words])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 64
    assert what in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"full"}
    assert (tmp_path / "full" / "file").read_text() == "kept"


def test_an_empty_folder_may_be_the_output(results: Path, tmp_path: Path) -> None:
    export(results / "reviews" / "phase1" / "checkpoints" / folder_name(4), ExportOptions("hf", tmp_path))
    assert (tmp_path / "model.safetensors").is_file()


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as Python has it of a module that is not there
    words = ["export", "reviews", "--results", str(results), "--to", "onnx", "--output", str(tmp_path / "out")]
    assert main(words) == 64
    err = capsys.readouterr().err
    assert "onnxscript is not installed here" in err
    assert "pip install 'bertjobs[export]'" in err
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_hugging_face_still_works(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    words = ["export", "reviews", "--results", str(results), "--to", "hf", "--output", str(tmp_path / "out")]
    assert main(words) == 0


def test_names(results: Path, tmp_path: Path) -> None:
    assert default_name(results / "reviews" / "phase1" / "checkpoints" / folder_name(4)) == "reviews"
    assert default_name(tmp_path / "-my model\u00e9") == "my_model_"


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no tokenizer"):
        export(tmp_path, ExportOptions("hf", tmp_path / "out"))
