"""How two ranks agree on checkpoints; each is a thread here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from bertjobs.optim.base import Optimizer
from bertjobs.run.checkpoints import steps
from bertjobs.train.checkpoint.saving import Saving
from bertjobs.train.checkpoint.stop_time import Lead
from bertjobs.train.checkpoint.writer import CheckpointWriter
from tests.cluster.slurm import PATIENCE_S
from tests.train.checkpoints import data, progress, trained, writers

RANKS = 2


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In all of this module's tests."""


@dataclass
class Meeting:
    """Where the ranks sum up numbers. One that asks for another sum than the rest has lost the others."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(RANKS, timeout=PATIENCE_S))
    given: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def sum(self, rank: int, values: tuple[int, ...]) -> list[int]:
        self.given[rank] = values
        self.barrier.wait()
        columns = list(zip(*self.given.values(), strict=True))
        self.barrier.wait()
        return [sum(column) for column in columns]


@dataclass
class RankOfTwo:
    """What `Saving` needs of `Ranks`."""

    meeting: Meeting
    rank: int

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum_on_host(self, *values: int) -> list[int]:
        return self.meeting.sum(self.rank, values)

    def say(self, _: str) -> None: ...

    def raise_first(self, error: Exception | None) -> None:
        raise AssertionError(f"rank {self.rank} gives up: {error}")


class Metrics:
    """A log that cannot be written when the disk is full."""

    full = False

    def sync(self) -> None:
        if self.full:
            raise OSError(28, "No space left on device")


def on_both(act: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            act(rank)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


@pytest.fixture
def two(tmp_path: Path) -> tuple[list[Saving], list[CheckpointWriter], list[Metrics]]:
    both, meeting, logs = writers(tmp_path, RANKS), Meeting(), [Metrics() for _ in range(RANKS)]
    savings = [
        Saving(writer, RankOfTwo(meeting, rank), logs[rank], Lead(), None, lambda _: None)  # type: ignore[arg-type]
        for rank, writer in enumerate(both)
    ]
    return savings, both, logs


State = tuple[nn.Module, Optimizer]


def begun(savings: list[Saving], state: State, step: int) -> Callable[[int], None]:
    def act(rank: int) -> None:
        savings[rank].begin(*state, progress(step), data(step))  # type: ignore[arg-type]
        savings[rank]._writer.wait()

    return act


@pytest.mark.parametrize("is_best", [False, True])
def test_a_stop_in_the_step_of_a_failed_commit_writes_its_checkpoint_on_all_ranks(two: Any, is_best: bool) -> None:
    """Rank 1 has committed, and has nothing to give up; rank 0 has failed."""
    savings, both, logs = two
    state = trained()
    if is_best:
        for saving in savings:
            saving.keep(10)
    on_both(begun(savings, state, 10))
    logs[0].full = True
    on_both(lambda rank: savings[rank].settle(0, 0))
    assert [writer.state for writer in both] == ["written", "idle"]
    logs[0].full = False
    on_both(lambda rank: savings[rank].save_now(*state, progress(12), data(12)))
    checkpoints = both[0]._series.directory.checkpoints
    assert [folder.name for folder in steps(checkpoints)] == ["step-00000012"]
    assert [writer.best_step for writer in both] == [None, None]


def test_after_the_first_best_one_failed_a_stop_finds_both_ranks_at_one_point(two: Any) -> None:
    savings, both, logs = two
    state = trained()
    for saving in savings:
        saving.keep(10)
    on_both(begun(savings, state, 10))
    logs[0].full = True
    on_both(lambda rank: savings[rank].settle(0, 0))
    logs[0].full = False
    on_both(lambda rank: savings[rank].settle(0, 1))  # which drops it on both
    on_both(lambda rank: savings[rank].save_now(*state, progress(12), data(12)))
    assert [folder.name for folder in steps(both[0]._series.directory.checkpoints)] == ["step-00000012"]


def test_a_stop_waits_for_the_best_one_and_gives_up_any_other(two: Any) -> None:
    savings, both, _ = two
    state = trained()
    on_both(begun(savings, state, 10))
    on_both(lambda rank: savings[rank].save_now(*state, progress(11), data(11)))
    for saving in savings:
        saving.keep(20)
    on_both(begun(savings, state, 20))
    on_both(lambda rank: savings[rank].save_now(*state, progress(21), data(21)))
    names = [folder.name for folder in steps(both[0]._series.directory.checkpoints)]
    assert names == ["step-00000011", "step-00000020", "step-00000021"]
    assert savings[0].lead.keeps_best
