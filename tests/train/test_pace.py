"""Ranks are timed by their own forward passes; one that is slow is named soon, and once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.run.journal import SlowRank
from bertjobs.train.pace import REPORT_STEPS, Pace, times_of_median

CPU = torch.device("cpu")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Run:
    """Some ranks, whose micro-batches take as long as ``seconds`` says, by step."""

    def __init__(self, ranks: int, start: int = 0) -> None:
        self.clock, self.step = Clock(), start
        self.paces = [Pace(rank, ranks, CPU, start, self.clock) for rank in range(ranks)]
        self.changes: list[tuple[int, SlowRank]] = []

    def steps(self, count: int, *seconds: float) -> None:
        for _ in range(count):
            rows = [pace.row(self.step) for pace in self.paces]
            if rows[0]:
                total = [sum(column) for column in zip(*rows, strict=True)]
                learned = [pace.learn(self.step, total) for pace in self.paces]
                assert all(each == learned[0] for each in learned), "all ranks conclude the same"
                self.changes += [(self.step, change) for change in learned[0]]
            for pace, each in zip(self.paces, seconds, strict=True):
                for _ in range(3):
                    with pace.timed():
                        self.clock.now += each
            self.step += 1


def test_medians_travel_every_few_steps_and_not_those_of_the_first_steps() -> None:
    run = Run(2, start=100)
    run.steps(2, 9.0, 9.0)
    run.steps(REPORT_STEPS, 0.2, 0.1)
    assert run.paces[0].seconds == ()
    run.steps(1, 0.2, 0.1)
    assert run.paces[1].seconds == pytest.approx((0.2, 0.1))


@given(st.integers(0, 40), st.integers(2, 5), st.integers(0, 4), st.floats(1.4, 50))
def test_a_rank_that_becomes_slow_is_named_within_20_steps(before: int, ranks: int, which: int, times: float) -> None:
    run, slow = Run(ranks), which % ranks
    run.steps(2 + before, *[0.1] * ranks)
    run.steps(20, *(0.1 * times if rank == slow else 0.1 for rank in range(ranks)))
    run.steps(1, *[0.1] * ranks)
    ((_, change),) = run.changes
    assert change.rank == slow
    assert change.times == pytest.approx(times, rel=0.01)
    assert abs(change.step - (2 + before + 1)) <= REPORT_STEPS


def test_one_that_is_fast_again_is_named_too_and_a_moment_is_not() -> None:
    run = Run(3)
    run.steps(30, 0.1, 0.1, 0.3)
    run.steps(30, 0.1, 0.1, 0.1)
    run.steps(2, 0.1, 5.0, 0.1)
    run.steps(30, 0.1, 0.1, 0.1)
    assert [(change.rank, change.times) for _, change in run.changes] == [(2, 3.0), (2, 0.0)]


@given(st.lists(st.floats(0.099, 0.105), min_size=2, max_size=6))
def test_noise_names_no_rank(seconds: list[float]) -> None:
    run = Run(len(seconds))
    run.steps(40, *seconds)
    assert not run.changes


def test_one_rank_measures_nothing() -> None:
    run = Run(1)
    run.steps(20, 0.1)
    assert run.paces[0].seconds == ()


def test_of_two_the_faster_is_the_measure() -> None:
    assert times_of_median([0.1, 0.3]) == pytest.approx([1, 3])
    assert times_of_median([0.3, 0.1, 0.1, 0.1]) == pytest.approx([3, 1, 1, 1])


def test_one_that_is_slow_now_and_then_is_named_less_and_less_often() -> None:
    changes = []
    pace = Pace(0, 3, CPU, 0)
    for number in range(4000):
        slow = number // 20 % 2  # 100 steps each
        changes += pace.learn(number * REPORT_STEPS, [1000, 1000, 2000 if slow else 1000])
    assert 3 <= len(changes) <= 6
