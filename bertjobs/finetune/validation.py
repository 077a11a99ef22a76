"""The measures of a task on its dev data, exact over all of them whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from bertjobs.data.ragged import in_batches, offsets_of
from bertjobs.errors import InputError, nearest
from bertjobs.finetune.batches import TaskBatch
from bertjobs.finetune.forward import TaskForward, loss_term
from bertjobs.finetune.outputs import Floats, outputs_of, read_places
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.metrics.scores import Scores, scores_of
from bertjobs.tasks.prepared import PreparedTask, TaskSplit
from bertjobs.tasks.rows import Head
from bertjobs.tasks.task import Fitted, Prediction, Task
from bertjobs.train.ranks import Ranks

EXAMPLES = 1000
"""Whose outputs are turned into predictions at a time."""


class DevValidation:
    """Scores a model on the dev split; where that has no labels, or is missing, it measures nothing.

    A task's further dev splits, such as MNLI's ``dev_mismatched``, are scored too: their fields end with what follows
    ``dev``, as in ``accuracy_mismatched``.
    """

    def __init__(self, prepared: PreparedTask, forward: TaskForward, ranks: Ranks, precision: str, budget: int) -> None:
        self._prepared, self._forward, self._ranks = prepared, forward, ranks
        self._precision, self._budget = precision, budget
        self._last: Floats | None = None
        self._task = ranks.in_turn(prepared.open_task)
        self._encoder = TextEncoder.of_folder(prepared.folder, prepared.max_length)

    @property
    def split(self) -> TaskSplit | None:
        """The labelled dev data; None if there are none."""
        split = self._prepared.splits.get("dev")
        return split if split and split.facts.labelled else None

    def run(self, beat: Callable[[], None]) -> dict[str, Any]:
        """The dev loss, and the measures of the task; the same on all ranks. ``beat`` is called for each pack.

        Raises:
            InputError: as `check_measure`.
        """
        if (split := self.split) is None:
            return {}
        loss, self._last = self._outputs(split, beat)
        outputs = self._last
        scores = self._ranks.decided(lambda: self._measured(split, outputs))
        line = {f"dev_{self._unit}": loss, **scores, "examples": split.facts.examples}
        for name, other in self._prepared.splits.items():
            if name.startswith("dev_") and other.facts.labelled:
                self._add(line, name, other, beat)
        return line

    @property
    def _unit(self) -> str:
        return "squared_error" if self._prepared.head.loss == "squared_error" else "loss_nats"

    def _outputs(self, split: TaskSplit, beat: Callable[[], None]) -> tuple[float, Floats]:
        """The loss of a split, and the outputs for all its rows."""
        head, device = self._prepared.head, self._forward.device
        sums = torch.zeros(2, dtype=torch.float64, device=device)

        def each(batch: TaskBatch, outputs: torch.Tensor) -> None:
            beat()
            term = loss_term(outputs, batch, head)
            sums.add_(torch.stack([term.loss_sum.double(), term.count.double()]))

        own = outputs_of(
            self._forward,
            split,
            precision=self._precision,
            budget=self._budget,
            rank=self._ranks.rank,
            world_size=self._ranks.size,
            each=each,
        )
        outputs = self._ranks.sum_on_device(torch.from_numpy(own).to(device)).cpu().numpy()
        loss, count = self._ranks.sum_on_device(sums).tolist()
        return loss / max(1.0, count), outputs

    def _add(self, line: dict[str, Any], name: str, split: TaskSplit, beat: Callable[[], None]) -> None:
        """Add the measures of another dev split to a line, without those of single classes. What was tuned on the
        dev data serves here too."""
        loss, outputs = self._outputs(split, beat)
        tuned = line.get("tuned", {})
        scores = self._ranks.decided(lambda: self._scored(split, outputs, tuned))
        line[f"{name}_{self._unit}"] = loss
        ending = name.removeprefix("dev")
        line.update({f"{key}{ending}": value for key, value in scores.values.items() if "/" not in key})
        if scores.notes:
            line["notes"] = [*line.get("notes", []), *(f"{name}: {note}" for note in scores.notes)]

    def outputs_of_model(self, *, is_current: bool) -> Floats | None:
        """The outputs for the dev data, those of the last `run` if the model ``is_current``; None without dev data."""
        if self.split is not None and (not is_current or self._last is None):
            self.run(lambda: None)
        return self._last

    def predictions(self, outputs: Floats, tuned: Mapping[str, Any]) -> Iterator[tuple[Any, Prediction]]:
        """Each dev example with what the model says of it."""
        assert self.split is not None
        fitted = Fitted(self._prepared.fitted.labels, tuned)
        return predictions(self._task, self.split, outputs, self._prepared.head, self._encoder, fitted)

    def _scored(self, split: TaskSplit, outputs: Floats, tuned: Mapping[str, Any]) -> Scores:
        fitted = Fitted(self._prepared.fitted.labels, tuned)
        predicted = predictions(self._task, split, outputs, self._prepared.head, self._encoder, fitted)
        return self._task.score(predicted, fitted)

    def _measured(self, split: TaskSplit, outputs: Floats) -> dict[str, Any]:
        prepared, task = self._prepared, self._task
        line = measured(task, split, outputs, prepared.head, self._encoder, prepared.fitted)
        check_measure(prepared.task, prepared.measure, line)
        return line


def check_measure(task: str, measure: str, line: Mapping[str, Any]) -> None:
    """Make sure that a task is measured by what its best checkpoint is chosen by.

    Raises:
        InputError: it is not (names the nearest measure, and those that there are).
    """
    scores = scores_of(line)
    if measure in scores:
        return
    known = [name for name in scores if "/" not in name]
    hint = nearest(measure, known)
    raise InputError(
        f"the best checkpoint is chosen by {measure!r}, but what is measured is {', '.join(known) or 'nothing'}",
        where=f"task {task}",
        hint=f"{hint}; correct the class's `measure` and begin another run" if hint else None,
    )


def predictions(
    task: Task[Any], split: TaskSplit, outputs: Floats, head: Head, encoder: TextEncoder, fitted: Fitted
) -> Iterator[tuple[Any, Prediction]]:
    """Each example of a split with what the model says of it, in order."""
    places = offsets_of(read_places(split, head))
    numbers, first = split.example_numbers, 0
    row = 0
    for batch in in_batches(split.examples(), lambda _: 1, EXAMPLES):
        grouped: list[list[Floats]] = []
        for number in range(first, first + len(batch)):
            rows = []
            while row < split.rows and numbers[row] == number:
                rows.append(outputs[places[row] : places[row + 1]])
                row += 1
            grouped.append(rows)
        yield from zip(batch, task.predict(batch, grouped, encoder, fitted), strict=True)
        first += len(batch)


def measured(
    task: Task[Any], split: TaskSplit, outputs: Floats, head: Head, encoder: TextEncoder, fitted: Fitted
) -> dict[str, Any]:
    """The measures of a split with labels, what was tuned on it (``tuned``), and notes on what is undefined."""

    def scored(fitted: Fitted) -> Iterator[tuple[Any, Prediction]]:
        return predictions(task, split, outputs, head, encoder, fitted)

    tuned: Mapping[str, Any] = task.tune(scored(fitted), fitted)
    if tuned:
        fitted = Fitted(fitted.labels, {**fitted.tuned, **tuned})
    scores = task.score(scored(fitted), fitted)
    extra = {"tuned": dict(tuned)} if tuned else {}
    return {**scores.values, **extra, **({"notes": list(scores.notes)} if scores.notes else {})}
