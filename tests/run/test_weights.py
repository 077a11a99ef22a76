"""Whether a folder has weights, and those that its config.json describes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bertjobs.errors import InputError
from bertjobs.run.weights import check_safetensors, check_weights

SHAPE = {"model_type": "bert", "vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = "bert.embeddings.word_embeddings.weight"


def test_weights_are_compared_with_the_size_that_their_header_says(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(100, dtype=np.float32)}, file)
    whole = file.read_bytes()
    check_safetensors(file)
    for content, reason in (
        (whole[:-1], f"the file has {len(whole) - 1} bytes, but its header says {len(whole)}"),
        (whole + b"x", f"the file has {len(whole) + 1} bytes, but its header says {len(whole)}"),
        (whole[:20], "do not begin with a header"),
        (b"PAR1" * 100, "do not begin with a header"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=f"the weights cannot be read: .*{reason}"):
            check_safetensors(file)


@pytest.mark.parametrize(
    ("file", "hint"),
    [("model.onnx", "it is an export for ONNX; .* `bertjobs export RUN --to hf`"), ("vocab.txt", "copy model.safe")],
)
def test_a_folder_without_weights_is_refused(tmp_path: Path, file: str, hint: str) -> None:
    (tmp_path / file).touch()
    with pytest.raises(InputError, match=f"(?s)the model has no weights: neither .*{hint}"):
        check_weights(tmp_path, "the model")


def test_weights_have_the_shapes_that_the_config_says(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    save_file({WORDS: np.zeros((20, 8), dtype=np.float32)}, tmp_path / "model.safetensors")
    check_weights(tmp_path, "the model")
    save_file({WORDS: np.zeros((20, 4), dtype=np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"has shape \[20, 4\], but the model's config says \[20, 8\]"):
        check_weights(tmp_path, "the model")
