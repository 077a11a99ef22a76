"""When the loop reads: a step ahead, no more than it trains on; an error counts for the step that it is read for."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import pytest

from bertjobs.errors import InputError
from bertjobs.run.checkpoints import read_manifest, steps
from bertjobs.run.owner import Owners
from bertjobs.train.pace import Pace
from bertjobs.train.pretraining.batches import WatchedBatches
from bertjobs.train.watchdog import Watchdog
from tests.train.conftest import PHASES, Ended, Trial

Alone = Callable[..., Ended]
WAIT_S = 0.1


def each_read(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Act at each reading of a step's micro-batches."""
    real = WatchedBatches.__next__

    def read(self: WatchedBatches) -> Any:
        act()
        return real(self)

    monkeypatch.setattr(WatchedBatches, "__next__", read)


def test_each_step_reads_the_next_one_s_batches_before_it_is_over(
    trial: Trial, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[int] = []
    each_read(monkeypatch, lambda: finished.append(len(trial.metrics(1))))
    assert alone(trial.having(STEPS_THIS_RUN=6), 1).code == 75
    assert finished == [0, 0, 1, 2, 3, 4]
    assert alone(trial, 1).code == 0
    assert len(finished) == PHASES[1]["steps"], "nothing is read for steps that are not made"
    assert finished[6:9] == [6, 6, 7]


@pytest.mark.parametrize("reading", [1, 4])
def test_an_error_in_the_data_is_reported_by_the_step_that_needs_them(
    trial: Trial, alone: Alone, monkeypatch: pytest.MonkeyPatch, reading: int
) -> None:
    calls: list[None] = []

    def act() -> None:
        calls.append(None)
        if len(calls) >= reading:
            raise InputError("the shard is damaged")

    each_read(monkeypatch, act)
    end = alone(trial, 1)
    assert end.code == 64
    assert "the shard is damaged" in end.err
    assert len(calls) == reading
    assert len(trial.metrics(1)) == reading - 1
    assert read_manifest(steps(trial.phase(1).checkpoints)[-1]).step == reading - 1


@pytest.mark.parametrize("busy", [False, True])
def test_waiting_for_data_is_counted_unless_the_device_computes_meanwhile(
    trial: Trial, alone: Alone, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    each_read(monkeypatch, lambda: time.sleep(WAIT_S))
    monkeypatch.setattr("bertjobs.train.loop.is_busy", lambda _: busy)
    assert alone(trial.having(STEPS_THIS_RUN=4), 1).code == 75
    first, second, third, last = (line["data_wait_s"] for line in trial.metrics(1))
    assert first >= (1 if busy else 2) * WAIT_S, "its own batches, which nothing has read ahead, and the next step's"
    assert (second >= WAIT_S, third >= WAIT_S) == (not busy, not busy)
    assert last < WAIT_S
    assert all(line["data_wait_s"] <= line["step_time_s"] for line in trial.metrics(1))


def test_the_watchdog_hears_of_each_micro_batch(trial: Trial, alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of many may take longer than it waits."""
    heard: list[str] = []
    real_beat, real_timed = Watchdog.beat, Pace.timed

    def beat(self: Watchdog, step: int, doing: str) -> None:
        heard.append(doing)
        real_beat(self, step, doing)

    @contextmanager
    def timed(self: Pace) -> Iterator[None]:
        assert heard.pop() == "training"
        heard.append("a pass")
        with real_timed(self):
            yield

    monkeypatch.setattr(Watchdog, "beat", beat)
    monkeypatch.setattr(Pace, "timed", timed)
    assert alone(trial.having(STEPS_THIS_RUN=2), 1).code == 75
    passes = [len(list(run)) for doing, run in groupby(heard) if doing == "a pass"]
    assert max(passes) > 1, "the steps of the trial have several"


def test_a_folder_of_owners_that_cannot_be_read_now_costs_nothing(
    trial: Trial, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[None] = []

    def owns(*_: object) -> bool:
        looked.append(None)
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("bertjobs.train.loop.BEAT_S", 0.0)
    monkeypatch.setattr(Owners, "owns", owns)
    assert alone(trial.having(STEPS_THIS_RUN=4), 1).code == 75
    assert looked
    assert len(trial.metrics(1)) == 4
