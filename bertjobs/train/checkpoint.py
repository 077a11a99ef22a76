"""Writing and reading checkpoints: a Hugging Face model folder, with the optimizer's state beside the weights.

Tensors are in safetensors, numbers in JSON: loading a checkpoint never runs code from it. No generator state is
kept: data order, masks and dropout are functions of (seed, step).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bertjobs.data.stream import StreamState
from bertjobs.errors import BertjobsError, InputError
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.huggingface import save_pretrained
from bertjobs.optim.lamb import Lamb
from bertjobs.optim.loss_scale import DynamicLossScale
from bertjobs.run.atomic import new_folder, write_json
from bertjobs.run.checkpoints import folder_name, prune, seal

STATE_TENSORS = "training_state.safetensors"
STATE_NUMBERS = "training_state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Progress:
    """Where a phase stands.

    Attributes:
        step: global batches consumed.
        skipped: how many of them did not update the weights (a non-finite gradient).
        loss_scale: the scale of the next step's loss; used in fp16 only.
    """

    step: int = 0
    skipped: int = 0
    loss_scale: DynamicLossScale = field(default_factory=DynamicLossScale)

    @property
    def updates(self) -> int:
        """Optimizer updates done; the schedule and the phase's length count these."""
        return self.step - self.skipped

    def after(self, skipped: bool) -> Progress:
        """The progress after one more step."""
        return Progress(self.step + 1, self.skipped + skipped, self.loss_scale.update(skipped))


@dataclass(frozen=True)
class CheckpointWriter:
    """Knows what goes into each checkpoint of a phase."""

    checkpoints: Path
    phase: int
    recipe_hash: str
    vocabulary: Path
    lowercase: bool

    def write(self, model: BertForPreTraining, optimizer: Lamb, progress: Progress, data: StreamState) -> Path:
        """Write one checkpoint beside the others, whole or not at all, and delete those that are too old.

        Raises:
            BertjobsError: it could not be written; those before are as they were.
        """
        target = self.checkpoints / folder_name(progress.step)
        try:
            with new_folder(target) as folder:
                self._fill(folder, model, optimizer, progress, data)
            prune(self.checkpoints)
        except (OSError, SafetensorError) as error:
            raise BertjobsError(
                f"the checkpoint of step {progress.step} cannot be written: {error}",
                where=str(target),
                hint="make room, then start the phase again: it goes on from the checkpoint before",
            ) from error
        return target

    def _fill(
        self, folder: Path, model: BertForPreTraining, optimizer: Lamb, progress: Progress, data: StreamState
    ) -> None:
        save_pretrained(model, self.vocabulary, folder, lowercase=self.lowercase)
        save_file(moments(model, optimizer), folder / STATE_TENSORS)
        numbers = {
            "step": progress.step,
            "skipped": progress.skipped,
            "loss_scale": progress.loss_scale.state_dict(),
            "optimizer_step": optimizer.param_groups[0]["step"],
            "data": asdict(data),
        }
        write_json(folder / STATE_NUMBERS, numbers)
        seal(folder, phase=self.phase, step=progress.step, recipe_hash=self.recipe_hash)


def moments(model: BertForPreTraining, optimizer: Lamb) -> dict[str, torch.Tensor]:
    """The optimizer's tensors by ``moment/parameter name``."""
    return {
        f"{key}/{name}": optimizer.state[parameter][key]
        for name, parameter in model.named_parameters()
        for key in MOMENTS
        if key in optimizer.state[parameter]
    }


def read_stream_state(folder: Path) -> StreamState:
    """Where the data stood when a checkpoint was written.

    Raises:
        InputError: the checkpoint does not say it.
    """
    path = folder / STATE_NUMBERS
    try:
        return StreamState.from_json(json.loads(path.read_text(encoding="utf-8"))["data"])
    except (KeyError, TypeError) as error:
        raise InputError(
            "the checkpoint does not say how far its data were read: an earlier bertjobs wrote it",
            where=str(path),
            hint="start a new run from its weights: INIT_CHECKPOINT and another name with RUN",
        ) from error


def read_training_state(folder: Path, model: BertForPreTraining, optimizer: Lamb) -> Progress:
    """Load a checkpoint's optimizer state into ``optimizer``; returns where the phase stood."""
    numbers: dict[str, Any] = json.loads((folder / STATE_NUMBERS).read_text(encoding="utf-8"))
    tensors = load_file(folder / STATE_TENSORS)
    for name, parameter in model.named_parameters():
        for key in MOMENTS:
            if (stored := tensors.get(f"{key}/{name}")) is not None:
                optimizer.state[parameter][key] = stored.to(parameter.device)
    for group in optimizer.param_groups:
        group["step"] = numbers["optimizer_step"]
    return Progress(numbers["step"], numbers["skipped"], DynamicLossScale.from_state_dict(numbers["loss_scale"]))
