"""Why gradients are no longer finite: which tensors, which loss, which sequences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bertjobs.errors import BertjobsError
from bertjobs.files.atomic import write_json
from bertjobs.run.causes import Cause

NAMED = 3  # tensors that the error names; the file lists them all


@dataclass(frozen=True)
class NotFinite:
    """A tensor, by its parameter's name, some of whose ``elements`` are NaN or infinite."""

    name: str
    elements: int
    nan: int
    inf: int

    def __str__(self) -> str:
        counts = " and ".join(f"{count} {kind}" for count, kind in ((self.nan, "NaN"), (self.inf, "inf")) if count)
        return f"{self.name} ({counts} of {self.elements})"


@dataclass(frozen=True)
class Diagnosis:
    """The last of several skipped steps.

    Attributes:
        phase, step: which; steps count from 1.
        skipped_in_a_row: steps up to this one without a finite gradient.
        precision: fp32, tf32, bf16 or fp16.
        loss_scale: what this step's loss, and so its gradients, were multiplied by.
        losses: means over the global batch, by their fields in metrics.jsonl.
        gradients: those that are not finite, summed over ranks and times the loss scale.
        parameters: those that are themselves not finite.
        tensors: how many parameters the model has.
        sequences: the step's global batch, each as shard and row.
    """

    phase: int
    step: int
    skipped_in_a_row: int
    precision: str
    loss_scale: float
    losses: Mapping[str, float]
    gradients: tuple[NotFinite, ...]
    parameters: tuple[NotFinite, ...]
    tensors: int
    sequences: tuple[str, ...]

    @property
    def is_loss_finite(self) -> bool:
        return math.isfinite(sum(self.losses.values()))

    def as_json(self) -> dict[str, Any]:
        """For a file, each loss in a field of its own; numbers that are not finite become words, as JSON lacks them."""
        fields: dict[str, Any] = {}
        for name, value in asdict(self).items():
            fields |= value if name == "losses" else {name: value}
        return {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in fields.items()
        }

    def write(self, folder: Path) -> Path:
        """Write it as JSON to the phase's folder; returns the file."""
        file = folder / f"diagnosis-step-{self.step:08d}.json"
        write_json(file, self.as_json())
        return file

    def error(self, file: Path, words: Mapping[str, str]) -> BertjobsError:
        """The error that ends the run; ``file`` holds the rest, ``words`` state each loss, as in `Objective.losses`."""
        affected = f"in {len(self.gradients)} of {self.tensors} parameters: {_listed(self.gradients)}"
        if not self.gradients:
            affected = "although every single number is finite: their norm exceeds float32"
        if self.parameters:
            affected += f"; parameters that are themselves not finite: {_listed(self.parameters)}"
        losses = " and ".join(words[name].format(value) for name, value in self.losses.items())
        return BertjobsError(
            f"{self.skipped_in_a_row} steps in a row had gradients that are not finite, {affected}",
            where=f"phase {self.phase}, step {self.step}, {losses}, loss scale {self.loss_scale:g}; details, and the "
            f"step's sequences, in {file}",
            hint=self._hint(),
            cause=Cause.GRADIENTS,
        )

    def _hint(self) -> str:
        if self.parameters:
            return "the weights are corrupted: delete the checkpoints that contain them, to resume from an earlier one"
        remedies = ["lower the learning rate"]
        if not self.is_loss_finite:
            remedies.insert(0, "look at the step's sequences")
        if self.loss_scale > 1:
            remedies.append("set a lower loss_scale")
        if wider := {"fp16": "bf16 or fp32", "bf16": "fp32"}.get(self.precision):
            remedies.append(f"train in {wider}")
        return ", or ".join(remedies)


def diagnose(
    model: nn.Module,
    *,
    phase: int,
    step: int,
    skipped_in_a_row: int,
    precision: str,
    loss_scale: float,
    losses: Mapping[str, float],
    sequences: Iterable[str],
) -> Diagnosis:
    """Diagnose a model whose last step was skipped: its gradients are still those of that step."""
    named = list(model.named_parameters())
    return Diagnosis(
        phase=phase,
        step=step,
        skipped_in_a_row=skipped_in_a_row,
        precision=precision,
        loss_scale=loss_scale,
        losses=losses,
        gradients=_not_finite([(name, p.grad) for name, p in named if p.grad is not None]),
        parameters=_not_finite(named),
        tensors=len(named),
        sequences=tuple(sequences),
    )


@torch.no_grad()
def _not_finite(tensors: Sequence[tuple[str, Tensor]]) -> tuple[NotFinite, ...]:
    counts = [torch.stack([tensor.isnan().sum(), tensor.isinf().sum()]) for _, tensor in tensors]
    rows = torch.stack(counts).tolist() if counts else []  # one wait for the device, not one per tensor
    return tuple(
        NotFinite(name, tensor.numel(), nan, inf)
        for (name, tensor), (nan, inf) in zip(tensors, rows, strict=True)
        if nan or inf
    )


def _listed(tensors: Sequence[NotFinite]) -> str:
    more = len(tensors) - NAMED
    return ", ".join(map(str, tensors[:NAMED])) + (f" and {more} more" if more > 0 else "")
