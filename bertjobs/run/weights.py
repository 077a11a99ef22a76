"""The file of a folder's weights, and whether it is what the folder's config.json says; no weights are read."""

from __future__ import annotations

from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.files.safetensors_header import read_header
from bertjobs.recipe.bert_config import read_model_spec

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, of which the first that exists is read."""


def weights_file(folder: Path, name: str = "the folder") -> Path:
    """The file of a folder's weights.

    Args:
        name: what errors call the folder.

    Raises:
        InputError: there is none.
    """
    file = next((folder / each for each in WEIGHTS if (folder / each).is_file()), None)
    if file is None:
        is_onnx = any(folder.glob("*.onnx"))
        raise InputError(
            f"{name} has no weights: neither {' nor '.join(WEIGHTS)} exists",
            where=str(folder),
            hint="it is an export for ONNX; give the run that it was made of, or what `bertjobs export RUN --to hf` "
            "writes" if is_onnx else f"copy {WEIGHTS[0]} there from where the model comes from",
        )  # fmt: skip
    return file


def check_weights(folder: Path, name: str) -> None:
    """A folder's weights must be there, and whole; of a safetensors file, the header is read.

    Args:
        name: what errors call the folder.

    Raises:
        InputError: they are not, or have other shapes than config.json says.
    """
    file = weights_file(folder, name)
    if file.name == WEIGHTS[0]:
        check_safetensors(file)
        _check_shapes(file)


def check_safetensors(path: Path) -> None:
    """Compare a safetensors file's size with what its header says; reads only the header.

    Raises:
        InputError: the file is truncated or is not a safetensors file.
    """
    try:
        expected, size = read_header(path).file_size, path.stat().st_size
    except (OSError, ValueError) as error:
        raise InputError(f"the weights cannot be read: {error}", where=str(path)) from error
    if size != expected:
        raise InputError(
            f"the weights cannot be read: the file has {size:,} bytes, but its header says {expected:,}",
            where=str(path),
            hint="truncated? copy it again",
        )


def _check_shapes(file: Path) -> None:
    """InputError if one of a few tensors, whose shapes tell the model's, has another shape than config.json says."""
    spec = read_model_spec(file.parent)
    wanted = {
        "embeddings.word_embeddings.weight": (spec.vocab_size, spec.hidden_size),
        "embeddings.position_embeddings.weight": (spec.max_position_embeddings, spec.hidden_size),
        "encoder.layer.0.intermediate.dense.weight": (spec.intermediate_size, spec.hidden_size),
    }
    for name, entry in read_header(file).tensors.items():
        shape = wanted.get(name.removeprefix("bert."))
        if shape not in (None, entry.shape):
            raise InputError(
                f"{name} has shape {list(entry.shape)}, but the model's config says {list(shape or ())}",
                where=str(file),
                hint="config.json and the weights are of different models: copy both from where the model comes from",
            )
