"""`--to tensorrt`: the file, the line that builds an engine, and text for the calibration. No engine is built here."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertjobs.export.export import ExportOptions, export
from bertjobs.export.tensorrt import Shapes, shapes_for, tensorrt_words, trtexec_line


def test_an_engine_is_tuned_for_the_length_that_nine_of_ten_texts_keep() -> None:
    assert shapes_for([10] * 9 + [400], 512) == Shapes((1, 2), (16, 56), (64, 512))
    assert shapes_for([600], 512).usual == (16, 512)


@pytest.mark.parametrize(("precision", "flags"), [
    ("", []), ("fp16", ["--fp16"]), ("bf16", ["--bf16"]), ("int8", ["--int8", "--fp16", "--calib=calibration.cache"]),
])  # fmt: skip
def test_the_line_for_trtexec(precision: str, flags: list[str]) -> None:
    line = trtexec_line(Shapes((1, 2), (16, 56), (64, 512)), precision)
    words = shlex.split(line.replace("\\\n", " "))
    assert words[:3] == ["trtexec", "--onnx=model.onnx", "--saveEngine=model.plan"]
    assert words[3:6] == [
        "--minShapes=input_ids:1x2,attention_mask:1x2,token_type_ids:1x2",
        "--optShapes=input_ids:16x56,attention_mask:16x56,token_type_ids:16x56",
        "--maxShapes=input_ids:64x512,attention_mask:64x512,token_type_ids:64x512",
    ]
    assert words[6:] == flags


def test_without_eight_bits_there_is_no_calibration() -> None:
    words = tensorrt_words(Shapes((1, 2), (16, 56), (64, 512)), 0)
    assert "--fp16" in words
    assert "calibrate.py" not in words


def test_the_folder(model: Callable[[str], Path], tmp_path: Path) -> None:
    done = export(model("class"), ExportOptions("tensorrt", tmp_path / "out", int8=True))
    assert "not run here" in done.notes[0]
    folder = tmp_path / "out"
    compile((folder / "calibrate.py").read_text(), "calibrate.py", "exec")
    arrays = np.load(folder / "calibration.npz")
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    assert ids.shape == mask.shape == arrays["token_type_ids"].shape
    assert ids.shape[1] == 8
    assert ids.shape[2] < arrays["longest"] == 64, "an engine reads all that the model reads"
    assert (ids[mask == 0] == 0).all()
    assert (mask[:, :, 0] == 1).all()
    assert f"16x{ids.shape[2]}" in (folder / "README.md").read_text()
    assert "--calib=calibration.cache" in (folder / "README.md").read_text()
