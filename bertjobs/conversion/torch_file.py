"""Checkpoints of NVIDIA's run_pretraining and of HetSeq: files of torch.save, of which nothing is executed."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertjobs.conversion.checkpoint import ForeignCheckpoint
from bertjobs.conversion.names import from_torch
from bertjobs.errors import InputError, first_line
from bertjobs.slurm.shell import shell_line

_REFUSED = re.compile(r"Unsupported (?:global: GLOBAL|class) (\S+)")  # torch's words, of files of before torch 1.6
_NAMED = 3  # classes that a file may not hold


def read_torch_file(path: Path) -> ForeignCheckpoint:
    """Read the weights of a checkpoint, and note what else is in it.

    NVIDIA's holds ``model``, the optimizer and more, HetSeq's also ``args`` and ``optimizer_history``; a plain
    ``state_dict`` is read, too.

    Raises:
        InputError: it cannot be read, would have to run code, or does not hold named tensors.
    """
    content = _loaded(path)
    state = content.get("model") if isinstance(content, Mapping) else None
    if isinstance(state, Mapping):
        origin = "HetSeq" if "optimizer_history" in content else "NVIDIA's run_pretraining"
        others = tuple(str(name) for name in content if name != "model")
    else:
        state, origin, others = content, "a state_dict of torch", ()
    tensors = _tensors(state)
    if not tensors:
        raise InputError(
            "the file holds no named tensors",
            where=str(path),
            hint="a checkpoint of NVIDIA's run_pretraining or of HetSeq has them under 'model'",
        )
    given = content.get("args") if others else None
    named = {
        name: Path(value) for name in ("config_file", "dict") if isinstance(value := getattr(given, name, None), str)
    }
    return ForeignCheckpoint(origin, path, tensors, others, named.get("config_file"), named.get("dict"))


def _tensors(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        return {}
    return {
        from_torch(name): value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)
    }


def _loaded(path: Path) -> Any:
    """What torch.load returns with weights_only; of a file of today's form only the tensors that are used are read."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        if classes := _refused_classes(path) or _REFUSED.findall(str(error)):
            raise _refusal(path, classes) from error
        # What torch says of a file that it cannot unpickle is advice to execute what is in it.
        unpickled = isinstance(error, pickle.UnpicklingError)
        reason = "it is not a whole file of torch.save" if unpickled else first_line(error)
        hint = "truncated or damaged? copy it again"
        raise InputError(f"the checkpoint cannot be read: {reason}", where=str(path), hint=hint) from error


def _refused_classes(path: Path) -> list[str]:
    """Names of what would have to be called to read the file, other than what makes tensors and plain values."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # a damaged file, or one of before torch 1.6
        return []


def _refusal(path: Path, classes: list[str]) -> InputError:
    more = f" and {len(classes) - _NAMED} more" if len(classes) > _NAMED else ""
    script = 'import sys, torch; torch.save(torch.load(sys.argv[1], weights_only=False)["model"], "weights.pt")'
    return InputError(
        f"the file holds more than tensors and plain values, which would run code: {', '.join(classes[:_NAMED])}{more}",
        where=str(path),
        hint="if you trust it, take its weights out where it was made, and import weights.pt: "
        f"{shell_line(['python', '-c', script, str(path)])}",
    )
