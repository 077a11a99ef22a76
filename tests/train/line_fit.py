"""A second objective: a line through points, by least squares. It has neither text nor heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bertjobs.data.batches.order import StreamState
from bertjobs.errors import InputError
from bertjobs.files.atomic import sha256_of
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import PhaseDirectory
from bertjobs.train.objective import GlobalBatch, Term
from bertjobs.train.ranks import Ranks

FILE = "points.safetensors"


class Line(nn.Module):
    """What a micro-batch of points, x and y ``[points, 2]``, adds to a line's squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.dropout = nn.Linear(1, 1), nn.Dropout(0.05)

    def forward(self, points: Tensor) -> list[Term]:
        error = self.dropout(self.line(points[:, :1])) - points[:, 1:]
        return [Term(error.square().sum(), torch.tensor(len(points)), (error.detach().abs().sum(),))]


@dataclass(frozen=True)
class LineFit:
    """The objective; an epoch takes the points of the data folder's only file in their order."""

    spec: RunSpec
    data_sha256: str
    checkpoint_bytes = 24
    losses: ClassVar = {"squared_error": "squared error {:g}"}
    scores = ("squared_error",)
    best_by = None

    @classmethod
    def of(cls, spec: RunSpec) -> LineFit:
        return cls(spec, sha256_of(Path(spec.data) / FILE))

    def check_weights(self, folder: Path) -> None:
        if not (folder / "line.txt").is_file():
            raise InputError("these are not the weights of a line", where=str(folder))

    def open(self, ranks: Ranks, device: torch.device) -> LineLearner:
        return LineLearner(self, ranks, device)

    def held_out_scores(self, line: Mapping[str, Any]) -> Sequence[str]:
        return [field for field in self.scores if field in line]

    def measures(self, sums: Sequence[float], divisors: Sequence[int]) -> dict[str, float]:
        return {"squared_error": sums[0] / divisors[0], "absolute_error": sums[1] / divisors[0]}

    def step_words(self, line: Mapping[str, Any]) -> str:
        return f"squared error {line['squared_error']:.4f}"

    validation_words = step_words


class LineLearner:
    probe = torch.zeros(1, 2)

    def __init__(self, objective: LineFit, ranks: Ranks, device: torch.device) -> None:
        self.objective, self.ranks = objective, ranks
        self.points = load_file(Path(objective.spec.data) / FILE)["points"]
        self.events = {"opened points": {"points": len(self.points)}}
        self.model = self.forward = Line().to(device)

    def describe(self) -> str:
        return "a line"

    @contextmanager
    def batches(self, start: StreamState | None) -> Iterator[PointBatches]:
        yield PointBatches(self, start.step if start else 0)

    def places(self, micro_batches: Sequence[Tensor]) -> Sequence[int]:
        return self.ranks.turns(len(micro_batches))

    def count(self, micro_batches: Sequence[Tensor]) -> tuple[int]:
        return (sum(map(len, micro_batches)),)

    def global_batch(self, counts: Sequence[int]) -> GlobalBatch:
        return GlobalBatch(divisors=(counts[0],), sequences=counts[0], tokens=counts[0], flops=6.0 * counts[0])

    def validate(self, beat: Callable[[], None]) -> dict[str, float | int]:
        beat()
        self.model.eval()
        with torch.inference_mode():
            (term,) = self.model(self.points)
        self.model.train()
        return {"squared_error": float(term.loss_sum / term.count)}

    def conclude(self, folder: PhaseDirectory, step: int, *, is_current: bool) -> None:
        """The line is all there is to know."""

    def load_weights(self, folder: Path) -> tuple[str, ...]:
        return tuple(self.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False).missing_keys)

    def description(self) -> dict[str, bytes]:
        return {"line.txt": b"y = weight * x + bias\n"}


class PointBatches:
    """Every rank takes its share of the points of each step's global batch."""

    def __init__(self, learner: LineLearner, step: int) -> None:
        self.learner, self.step, self.phase = learner, step, learner.objective.spec.phases[0]

    def __next__(self) -> list[Tensor]:
        ranks, points = self.learner.ranks, [int(name) for name in self.samples(self.step)]
        self.step += 1
        return list(self.learner.points[points[ranks.rank :: ranks.size]].split(self.phase.micro_batch))

    def deal(self, step: int, seconds: Sequence[float], gain: float) -> None:
        """Points are not dealt by speed."""

    def state(self, step: int) -> StreamState:
        epoch, place = divmod(step * self.phase.global_batch, len(self.learner.points))
        return StreamState(epoch, place, step, 0, self.learner.objective.data_sha256)

    def samples(self, step: int) -> list[str]:
        size, count = self.phase.global_batch, len(self.learner.points)
        return [str(number % count) for number in range(step * size, (step + 1) * size)]
