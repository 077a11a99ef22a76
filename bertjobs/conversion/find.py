"""Which checkpoint a path means, and which program wrote it."""

from __future__ import annotations

import re
from pathlib import Path

from bertjobs.conversion.checkpoint import ForeignCheckpoint
from bertjobs.conversion.tensor_bundle import index_of
from bertjobs.conversion.tensorflow_checkpoint import read_tensorflow_checkpoint
from bertjobs.conversion.torch_file import read_torch_file
from bertjobs.errors import InputError
from bertjobs.slurm.shell import quote

_PARTS = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_TORCH_SUFFIXES = (".pt", ".pth", ".bin")
_LISTED = 5

GIVE = "give ckpt_7038.pt of NVIDIA's run_pretraining, checkpoint_last.pt of HetSeq, or bert_model.ckpt of Google"


def read_checkpoint(path: Path) -> ForeignCheckpoint:
    """Read the checkpoint that ``path`` means: a file of torch.save; a TensorFlow checkpoint's prefix, or one of its
    files; or a folder that holds one of these.

    Raises:
        InputError: nothing of that kind is there, a folder holds several, or as the readers.
    """
    if path.is_dir():
        path = _in_folder(path)
    prefix = path.with_name(_PARTS.sub("", path.name))
    if index_of(prefix).is_file():
        return read_tensorflow_checkpoint(prefix)
    if prefix != path:
        raise InputError("the checkpoint lacks its .index file", where=str(prefix), hint="copy all of its files")
    if not path.is_file():
        raise InputError("there is no such checkpoint", where=str(path), hint=GIVE)
    return read_torch_file(path)


def _in_folder(folder: Path) -> Path:
    """The one checkpoint in a folder."""
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        raise InputError(
            "the folder is a Hugging Face model already",
            where=str(folder),
            hint=f"use it as it is: --init-checkpoint {quote(str(folder))}, or finetune --from {quote(str(folder))}",
        )
    files = sorted(file for file in folder.iterdir() if file.suffix in (".index", *_TORCH_SUFFIXES))
    if len(files) == 1:
        return files[0]
    if not files:
        raise InputError("the folder holds no checkpoint", where=str(folder), hint=GIVE)
    names = ", ".join(file.name.removesuffix(".index") for file in files[:_LISTED])
    more = ", ..." if len(files) > _LISTED else ""
    raise InputError(f"the folder holds {len(files)} checkpoints", where=str(folder), hint=f"give one: {names}{more}")
