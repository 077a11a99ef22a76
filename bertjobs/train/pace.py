"""How fast each rank computes, measured on its own forward passes: those never wait for another rank.

Every `REPORT_STEPS` steps all ranks learn all medians, with numbers that travel anyway; so they all decide alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median, median_low

import torch

from bertjobs.run.journal import SlowRank

REPORT_STEPS = 5
GAIN = 0.05
"""Packs are dealt anew where that shortens a step by this share."""
SLOW = 1.25
"""A rank is slow that takes this many times as long per micro-batch as the median of all ranks, in `REPORTS` reports in
a row."""
AS_FAST = 1.1
"""Below this it no longer is."""
REPORTS = 2
MOST_REPORTS = 256
"""Each change of a rank doubles the reports that its next one needs, up to these: one that is slow now and then is not
named again and again."""

_WARM_UP = 2  # first steps of an attempt, in which kernels are chosen and caches filled


def times_of_median(seconds: Sequence[float]) -> list[float]:
    """Each rank's time as a multiple of the ranks' median, of two ranks the faster one's."""
    usual = median_low(seconds)
    return [each / usual for each in seconds]


class Pace:
    """The forward passes of one rank, and the reports of all.

    Args:
        step: steps of the phase that were done before this attempt.
        clock: seconds, for CPUs. GPUs time their own work.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, step: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._rank, self._size, self._first, self._clock = rank, size, step + _WARM_UP, clock
        self._on_gpu = device.type == "cuda"
        self._seconds: list[float] = []
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._above = [0] * size  # reports in a row in which a rank was above SLOW, or a slow one below AS_FAST
        self._needed = [REPORTS] * size
        self._slow: set[int] = set()
        self.seconds: tuple[float, ...] = ()
        """Median seconds per micro-batch of each rank in the last report; () before the first."""

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around a forward pass."""
        if self._size == 1:
            yield
        elif self._on_gpu:
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
            yield
            events[1].record()
            self._events.append(events)
        else:
            began = self._clock()
            yield
            self._seconds.append(self._clock() - began)

    def row(self, step: int) -> list[int]:
        """What to add up over ranks after ``step`` steps: this rank's microseconds in its place; [] most times."""
        if self._size == 1 or step < self._first:
            return []
        if step == self._first:
            self._take()
        if step == self._first or (step - self._first) % REPORT_STEPS:
            return []
        numbers = [0] * self._size
        numbers[self._rank] = max(1, round(1e6 * median(self._take())))
        return numbers

    def _take(self) -> list[float]:
        """The times since the last call. The device is done with them: the last step's update was waited for."""
        taken = self._seconds + [began.elapsed_time(ended) / 1e3 for began, ended in self._events]
        self._seconds, self._events = [], []
        return taken

    def learn(self, step: int, row: Sequence[int]) -> list[SlowRank]:
        """Take in the sum of all ranks' rows after ``step`` steps; returns the ranks that are slow now, or no longer,
        and were not before. Of those that no longer are ``times`` is 0; the nodes' names are left empty."""
        self.seconds = tuple(number / 1e6 for number in row)
        changed = []
        for rank, times in enumerate(times_of_median(self.seconds)):
            is_slow = rank in self._slow
            self._above[rank] = self._above[rank] + 1 if (times < AS_FAST if is_slow else times > SLOW) else 0
            if self._above[rank] == self._needed[rank]:
                since = step - self._needed[rank] * REPORT_STEPS + 1
                self._above[rank], self._needed[rank] = 0, min(2 * self._needed[rank], MOST_REPORTS)
                self._slow ^= {rank}
                changed.append(SlowRank(rank, "", 0.0 if is_slow else round(times, 2), since))
        return changed
