"""Predictions for a stream of examples, in bounded memory: some thousand at a time, rows of like length in one pack."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bertjobs.data.ragged import gather, offsets_of
from bertjobs.errors import InputError
from bertjobs.finetune.batches import TaskBatch
from bertjobs.finetune.loading import TrainedModel
from bertjobs.finetune.outputs import outputs_of, read_places
from bertjobs.tasks.asked import Asked
from bertjobs.tasks.rows import Row
from bertjobs.tasks.task import Fitted, Prediction, without_ids
from bertjobs.wording import counted

CHUNK = 2000
"""Examples that are held at a time."""

BATCH_TOKENS = 4096
"""Tokens in a pack."""

PERCENTILES = (50, 90, 99)


@dataclass
class PredictionRate:
    """How fast predictions come.

    Attributes:
        examples, rows, tokens: how many have been computed; tokens with [CLS] and [SEP].
        seconds: that this took, reading and writing not counted.
        latencies_s: of each batch.
    """

    examples: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))

    def as_json(self) -> dict[str, Any]:
        """Counts, rates and percentiles."""
        seconds = self.seconds or float("inf")
        latencies = np.percentile(self.latencies_s, PERCENTILES) if self.latencies_s else [0.0] * len(PERCENTILES)
        return {
            "examples": self.examples,
            "rows": self.rows,
            "tokens": self.tokens,
            "wall_time_s": self.seconds,
            "examples_per_s": self.examples / seconds,
            "tokens_per_s": self.tokens / seconds,
            "batches": len(self.latencies_s),
            "latency_s": {f"p{which}": float(value) for which, value in zip(PERCENTILES, latencies, strict=True)},
        }


class Predictor:
    """What a model says of examples.

    Args:
        budget: tokens in a pack.
        batch: examples that are encoded, computed and turned into predictions together; 0 takes `CHUNK` of them, and
            calls a pack a batch.

    Attributes:
        pace: of all predictions so far.
    """

    def __init__(self, model: TrainedModel, *, budget: int = BATCH_TOKENS, batch: int = 0) -> None:
        self._model, self._budget, self._batch = model, budget, batch
        self.pace = PredictionRate()

    def each(self, asked: Iterable[Asked]) -> Iterator[Prediction]:
        """The predictions, in order, under the ids that were asked, and without others where texts were.

        Raises:
            InputError: the examples cannot be read or encoded; what came before has been yielded.
        """
        for batch in _in_batches(asked, self._batch or CHUNK):
            for one, prediction in zip(batch, self.predict([one.example for one in batch]), strict=True):
                yield prediction if one.id is None else {"id": one.id, **without_ids(prediction)}

    def predict(self, examples: Sequence[Any], fitted: Fitted | None = None) -> list[Prediction]:
        """The predictions for some examples; ``fitted`` in place of the model's."""
        began = time.perf_counter()
        model, fitted = self._model, fitted or self._model.fitted
        rows = model.task.rows(examples, model.encoder, fitted)
        held = HeldRows([row for of_example in rows for row in of_example])
        computed = outputs_of(
            model.forward, held, precision=model.precision, budget=self._budget, each=self._packs_timed()
        )
        places = offsets_of(read_places(held, model.head))
        of_rows = (computed[first:last] for first, last in pairwise(places))
        grouped = [[next(of_rows) for _ in of_example] for of_example in rows]
        predictions = model.task.predict(examples, grouped, model.encoder, fitted)
        self._count(examples, held, time.perf_counter() - began)
        return predictions

    def _packs_timed(self) -> Any:
        """Takes down how long each pack takes, unless batches are given."""
        before = time.perf_counter()

        def each(batch: TaskBatch, outputs: torch.Tensor) -> None:  # noqa: ARG001
            nonlocal before
            if outputs.is_cuda:
                torch.cuda.synchronize(outputs.device)
            now = time.perf_counter()
            if not self._batch:
                self.pace.latencies_s.append(now - before)
            before = now

        return each

    def _count(self, examples: Sequence[Any], held: HeldRows, seconds: float) -> None:
        pace = self.pace
        pace.examples += len(examples)
        pace.rows += held.rows
        pace.tokens += int(held.lengths.sum())
        pace.seconds += seconds
        if self._batch:
            pace.latencies_s.append(seconds)


def _in_batches(asked: Iterable[Asked], size: int) -> Iterator[list[Asked]]:
    """Lists of ``size``; if an example cannot be read, those before it come first."""
    batch: list[Asked] = []
    try:
        for one in asked:
            batch.append(one)
            if len(batch) == size:
                yield batch
                batch = []
    except InputError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def cut_off(model: TrainedModel) -> list[str]:
    """A note on how many sequences were too long, if there were any."""
    count, longest = model.encoder.truncated, model.encoder.max_length
    if not count:
        return []
    verbs = ("is", "was") if count == 1 else ("are", "were")
    return [f"{counted(count, 'sequence')} {verbs[0]} longer than {longest} tokens and {verbs[1]} cut off"]


class HeldRows:
    """Rows in memory, as `bertjobs.finetune.batches.Rows`; without targets."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    @property
    def rows(self) -> int:
        return len(self._rows)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(row.ids) for row in self._rows], dtype=np.int64)

    @cached_property
    def seconds(self) -> NDArray[np.int64]:
        return np.array([row.second for row in self._rows], dtype=np.int64)

    @cached_property
    def read_counts(self) -> NDArray[np.int64]:
        return np.array([len(row.read) for row in self._rows], dtype=np.int64)

    def ids(self, rows: NDArray[Any]) -> NDArray[Any]:
        return gather(self._ids, self._id_offsets[rows], self.lengths[rows])

    def targets(self, rows: NDArray[Any]) -> NDArray[Any]:  # noqa: ARG002
        return np.zeros(0, dtype=np.float32)

    def read(self, rows: NDArray[Any]) -> NDArray[Any]:
        return gather(self._read, self._read_offsets[rows], self.read_counts[rows])

    @cached_property
    def _id_offsets(self) -> NDArray[np.int64]:
        return offsets_of(self.lengths)

    @cached_property
    def _read_offsets(self) -> NDArray[np.int64]:
        return offsets_of(self.read_counts)

    @cached_property
    def _ids(self) -> NDArray[np.int64]:
        return np.array([number for row in self._rows for number in row.ids], dtype=np.int64)

    @cached_property
    def _read(self) -> NDArray[np.int64]:
        return np.array([place for row in self._rows for place in row.read], dtype=np.int64)
