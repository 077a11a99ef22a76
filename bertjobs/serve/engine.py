"""One thread that computes: what all requests wait for, in packs without padding."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bertjobs.serve.packing import rows_of_next_pack
from bertjobs.serve.refusal import BUSY, FAILED, Refusal
from bertjobs.tasks.rows import Row

Outputs = list[NDArray[np.float32]]

SEEN = 1000
"""Requests that are looked at for one pack, at most."""

LONGEST_WAIT_S = 60


class Scorer(Protocol):
    """What computes a pack: one way of reading one model.

    Attributes:
        model: its name, for the metrics.
    """

    @property
    def model(self) -> str: ...

    def __call__(self, rows: Sequence[Row]) -> Outputs:
        """For each row its outputs, ``[places read, outputs]``."""


@dataclass(frozen=True)
class ComputedPack:
    """What was computed at once.

    Attributes:
        seconds: how long that took.
    """

    model: str
    requests: int
    rows: int
    tokens: int
    seconds: float


@dataclass(eq=False)
class _Request:
    """Rows, of which the first ``taken`` do not wait any more, and their outputs."""

    rows: Sequence[Row]
    lengths: list[int]
    answer: Future[Outputs] = field(default_factory=Future)
    outputs: Outputs = field(default_factory=list)
    taken: int = 0

    @property
    def left(self) -> list[int]:
        return self.lengths[self.taken :]


class Engine:
    """Computes rows in packs of at most ``budget`` tokens, for one scorer after the other.

    Args:
        queue_tokens: the most that wait; if nothing waits, a request may have more.
        computed: is told of every pack, in the engine's thread.
    """

    def __init__(
        self, budget: int, queue_tokens: int, computed: Callable[[ComputedPack], None] = lambda _: None
    ) -> None:
        self._budget, self._most, self._computed = budget, queue_tokens, computed
        self._changed = threading.Condition()
        self._waiting: dict[Scorer, list[_Request]] = {}
        self._tokens = self._rows = 0
        self._tokens_per_s = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting_tokens(self) -> int:
        """Of the rows that are not computed yet."""
        return self._tokens

    @property
    def waiting_rows(self) -> int:
        """Rows that are not computed yet."""
        return self._rows

    @property
    def is_alive(self) -> bool:
        """Whether it still computes."""
        return self._thread.is_alive()

    def submit(self, scorer: Scorer, rows: Sequence[Row]) -> Future[Outputs]:
        """The outputs of some rows, at least one, later; its cancelling takes what is left of them out of the queue.

        Raises:
            Refusal: too many wait.
        """
        request = _Request(rows, [len(row.ids) for row in rows])
        tokens = sum(request.lengths)
        with self._changed:
            if self._tokens and self._tokens + tokens > self._most:
                raise Refusal(
                    f"{self._tokens:,} tokens wait already, and at most {self._most:,} may",
                    status=BUSY,
                    hint="try again after the seconds that Retry-After says",
                    retry_after_s=self._seconds_of(self._tokens),
                )
            if self._closed or not self.is_alive:
                raise Refusal("the server does not compute any more", status=FAILED)
            self._waiting.setdefault(scorer, []).append(request)
            self._tokens += tokens
            self._rows += len(rows)
            self._changed.notify()
        return request.answer

    def close(self) -> None:
        """Compute what still waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _seconds_of(self, tokens: int) -> int:
        if not self._tokens_per_s:
            return 1
        return min(LONGEST_WAIT_S, math.ceil(tokens / self._tokens_per_s))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                scorer = next(iter(self._waiting))
                chosen = self._choose(scorer)
            if chosen:
                self._compute(scorer, chosen)

    def _choose(self, scorer: Scorer) -> list[tuple[_Request, Sequence[Row]]]:
        """The next pack: requests, each with its next rows; these do not wait any more."""
        queue = []
        for request in self._waiting.pop(scorer):
            if request.answer.cancelled():
                self._forget(request)
            else:
                queue.append(request)
        counts = rows_of_next_pack([request.left for request in queue[:SEEN]], self._budget)
        chosen = []
        for request, count in zip(queue, counts, strict=False):
            if count:
                rows = request.rows[request.taken : request.taken + count]
                self._rows -= count
                self._tokens -= sum(request.left[:count])
                request.taken += count
                chosen.append((request, rows))
        if rest := [request for request in queue if request.left]:
            self._waiting[scorer] = rest  # behind the other scorers
        return chosen

    def _forget(self, request: _Request) -> None:
        self._rows -= len(request.left)
        self._tokens -= sum(request.left)

    def _compute(self, scorer: Scorer, chosen: Sequence[tuple[_Request, Sequence[Row]]]) -> None:
        began = time.perf_counter()
        rows = [row for _, of_request in chosen for row in of_request]
        try:
            outputs = scorer(rows)
        except Exception as error:
            self._alone(scorer, chosen, error)
            return
        seconds = time.perf_counter() - began
        tokens = sum(len(row.ids) for row in rows)
        rate = tokens / max(seconds, 1e-9)
        self._tokens_per_s = 0.9 * self._tokens_per_s + 0.1 * rate if self._tokens_per_s else rate
        self._computed(ComputedPack(scorer.model, len(chosen), len(rows), tokens, seconds))
        first = 0
        for request, of_request in chosen:
            self._deliver(scorer, request, outputs[first : first + len(of_request)])
            first += len(of_request)

    def _alone(self, scorer: Scorer, chosen: Sequence[tuple[_Request, Sequence[Row]]], error: Exception) -> None:
        """A pack has failed: compute each request by itself, so that only the one at fault fails."""
        if len(chosen) > 1:
            for one in chosen:
                self._compute(scorer, [one])
            return
        ((request, _),) = chosen
        self._drop(scorer, request)
        _settle(request.answer, error)

    def _deliver(self, scorer: Scorer, request: _Request, outputs: Outputs) -> None:
        if not all(np.isfinite(output).all() for output in outputs):
            self._drop(scorer, request)
            _settle(request.answer, Refusal("the model's output is not a number", status=FAILED))
            return
        request.outputs += outputs
        if len(request.outputs) == len(request.rows):
            _settle(request.answer, request.outputs)

    def _drop(self, scorer: Scorer, request: _Request) -> None:
        """Take a request that has failed out of the queue, if rows of it still wait there."""
        with self._changed:
            queue = self._waiting.get(scorer)
            if queue and request in queue:
                queue.remove(request)
                self._forget(request)
                if not queue:
                    del self._waiting[scorer]


def _settle(answer: Future[Outputs], result: Outputs | Exception) -> None:
    """Give the answer, unless nobody waits for it any more."""
    try:
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)
    except InvalidStateError:
        pass
