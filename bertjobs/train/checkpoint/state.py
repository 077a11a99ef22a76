"""What a checkpoint contains besides the weights, and how it is read: on any number of ranks, whatever number wrote it.

Tensors are in safetensors, numbers in JSON: loading a checkpoint never runs code from it. No generator state is
stored: data order, masks and dropout are functions of (seed, step).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bertjobs.data.batches.order import StreamState
from bertjobs.errors import InputError
from bertjobs.files.reading import parse_json
from bertjobs.optim.base import Optimizer
from bertjobs.optim.loss_scale import DynamicLossScale, LossScale
from bertjobs.train.checkpoint.snapshot import MOMENTS

STATE_TENSORS = "training_state*.safetensors"
"""One file in format 1, ``training_state-00000-of-00004.safetensors`` and so on in format 2."""
STATE_NUMBERS = "training_state.json"


@dataclass(frozen=True)
class Progress:
    """How far a phase has come.

    Attributes:
        step: global batches consumed.
        skipped: how many of them did not update the weights (a non-finite gradient).
        loss_scale: the scale of the next step's loss.
    """

    step: int = 0
    skipped: int = 0
    loss_scale: LossScale = field(default_factory=DynamicLossScale)

    @property
    def updates(self) -> int:
        """Optimizer updates done; the schedule and the phase's length count these."""
        return self.step - self.skipped

    def after(self, skipped: bool) -> Progress:
        """The progress after one more step."""
        return Progress(self.step + 1, self.skipped + skipped, self.loss_scale.update(skipped))


def state_numbers(progress: Progress, optimizer: Optimizer, data: StreamState) -> dict[str, Any]:
    """The content of training_state.json."""
    return {
        "step": progress.step,
        "skipped": progress.skipped,
        "loss_scale": progress.loss_scale.state_dict(),
        "optimizer_step": optimizer.step_count,
        "data": asdict(data),
    }


def read_stream_state(folder: Path) -> StreamState:
    """The position in the data when a checkpoint was written.

    Raises:
        InputError: the checkpoint does not contain it.
    """
    try:
        return StreamState.from_json(_read_numbers(folder)["data"])
    except (KeyError, TypeError) as error:
        raise InputError(
            "the checkpoint does not say how far its data were read: an earlier version of bertjobs wrote it",
            where=str(folder / STATE_NUMBERS),
            hint="start a new run from its weights: INIT_CHECKPOINT and another name with RUN",
        ) from error


def read_training_state(
    folder: Path, model: nn.Module, optimizer: Optimizer, loss_scale: LossScale | None = None
) -> Progress:
    """Load into ``optimizer`` what it owns of a checkpoint's moments, and its step count.

    Args:
        folder: a verified checkpoint, written by any number of ranks.
        model: its parameters' names are those of the moments.
        optimizer: over the same parameters.
        loss_scale: the recipe's; None: as stored.

    Returns:
        The phase's progress.

    Raises:
        InputError: the state cannot be read, or belongs to another model; the optimizer is then unchanged.
    """
    try:
        numbers = _read_numbers(folder)
        count = int(numbers["optimizer_step"])
        scale = (loss_scale or DynamicLossScale()).restored(numbers["loss_scale"])
        progress = Progress(int(numbers["step"]), int(numbers["skipped"]), scale)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        where = str(folder / STATE_NUMBERS)
        raise InputError(f"the checkpoint's numbers are not as expected: {error!r}", where=where) from error
    optimizer.load_moments(_read_moments(folder, model, optimizer), count)
    return progress


def _read_numbers(folder: Path) -> dict[str, Any]:
    path = folder / STATE_NUMBERS
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the checkpoint's numbers cannot be read: {error}", where=str(path)) from error


def _read_moments(folder: Path, model: nn.Module, optimizer: Optimizer) -> dict[Tensor, tuple[Tensor, Tensor]]:
    """The moments that ``optimizer`` owns, by parameter: on its device and copied, since the file may be deleted
    while its pages are mapped. {} if there are none, as before the first step in format 1."""
    parameters = dict(model.named_parameters())
    files = sorted(folder.glob(STATE_TENSORS))
    if not files:
        raise InputError("the checkpoint has no optimizer state", where=str(folder / STATE_TENSORS))
    file = folder
    try:
        with ExitStack() as stack:
            stored: dict[str, Any] = {}
            for file in files:
                part = stack.enter_context(safe_open(file, framework="pt"))
                stored |= dict.fromkeys(part.keys(), part)
            if not stored:
                return {}
            _check(stored, parameters, folder)
            moments = {
                parameter: [_copied(stored[f"{moment}/{name}"], f"{moment}/{name}", parameter) for moment in MOMENTS]
                for name, parameter in parameters.items()
                if parameter in optimizer.owned
            }
            return {parameter: (first, second) for parameter, (first, second) in moments.items()}
    except (SafetensorError, OSError) as error:
        what = f"the optimizer's state cannot be read: {error}"
        raise InputError(what, where=str(file), hint="truncated or damaged? copy it again") from error


def _copied(file: Any, key: str, parameter: Tensor) -> Tensor:
    target = torch.empty_like(parameter, dtype=torch.float32, requires_grad=False)
    return target.copy_(file.get_tensor(key))


def _check(stored: Mapping[str, Any], parameters: Mapping[str, Tensor], folder: Path) -> None:
    """Compare all names and shapes before anything is loaded; tensors are not read."""
    expected = {f"{moment}/{name}": list(tensor.shape) for name, tensor in parameters.items() for moment in MOMENTS}
    missing = [key for key in expected if key not in stored]
    unknown = [key for key in stored if key not in expected]
    for keys, verb in ((missing, "lacks"), (unknown, "has, unlike the model,")):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise InputError(
                f"the checkpoint's optimizer state {verb} {keys[0]}{more}",
                where=str(folder),
                hint="it belongs to another model: start another run with RUN",
            )
    for key, shape in expected.items():
        stored_shape = stored[key].get_slice(key).get_shape()
        if stored_shape != shape:
            raise InputError(
                f"{key} has shape {stored_shape} in the checkpoint, {shape} in the model",
                where=str(folder),
                hint="it belongs to another model: start another run with RUN",
            )
