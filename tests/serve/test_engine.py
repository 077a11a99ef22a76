"""The thread that computes: packs, queue, faults."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from bertjobs.serve.engine import ComputedPack, Engine, Outputs
from bertjobs.serve.refusal import BUSY, Refusal
from bertjobs.serve.served import Served
from bertjobs.tasks.rows import Row
from tests.cluster.slurm import PATIENCE_S


def row(*ids: int) -> Row:
    return Row(ids, len(ids))


class Sums:
    """Stands for a model: a row's output is the sum of its ids. Waits until it is let go."""

    model = "sums"

    def __init__(self, open_: bool = True) -> None:
        self.packs: list[list[int]] = []
        self.began, self.go = threading.Event(), threading.Event()
        if open_:
            self.go.set()

    def __call__(self, rows: Sequence[Row]) -> Outputs:
        self.began.set()
        assert self.go.wait(PATIENCE_S)
        self.packs.append([sum(one.ids) for one in rows])
        if any(13 in one.ids for one in rows):
            raise RuntimeError("13 cannot be computed")
        return [np.array([[float("nan") if 17 in one.ids else sum(one.ids)]], dtype=np.float32) for one in rows]


@contextmanager
def engine(budget: int = 10, queue: int = 1000) -> Iterator[tuple[Engine, list[ComputedPack]]]:
    packs: list[ComputedPack] = []
    made = Engine(budget, queue, packs.append)
    try:
        yield made, packs
    finally:
        made.close()


def values(outputs: Outputs) -> list[float]:
    return [float(output[0, 0]) for output in outputs]


def test_what_waits_together_is_computed_together() -> None:
    sums = Sums(open_=False)
    with engine(budget=6) as (running, packs):
        first = running.submit(sums, [row(1)])
        assert sums.began.wait(PATIENCE_S)
        others = [running.submit(sums, [row(number, 1)]) for number in range(2, 6)]
        assert (running.waiting_rows, running.waiting_tokens) == (4, 8)
        sums.go.set()
        assert values(first.result(PATIENCE_S)) == [1]
        assert [values(one.result(PATIENCE_S)) for one in others] == [[3], [4], [5], [6]]
    assert sums.packs == [[1], [3, 4, 5], [6]]
    assert [(pack.requests, pack.rows, pack.tokens) for pack in packs] == [(1, 1, 1), (3, 3, 6), (1, 1, 2)]
    assert (running.waiting_rows, running.waiting_tokens) == (0, 0)


def test_the_outputs_of_a_large_request_are_in_its_order() -> None:
    sums = Sums()
    with engine(budget=7) as (running, _):
        answer = running.submit(sums, [row(*range(n % 5 + 1)) for n in range(40)])
        assert values(answer.result(PATIENCE_S)) == [sum(range(n % 5 + 1)) for n in range(40)]
    assert len(sums.packs) > 10


def test_a_large_request_does_not_hold_up_a_small_one() -> None:
    sums = Sums(open_=False)
    with engine(budget=4) as (running, _):
        large = running.submit(sums, [row(1, 1, 1)] * 50)
        assert sums.began.wait(PATIENCE_S)
        small = running.submit(sums, [row(2)])
        sums.go.set()
        large.result(PATIENCE_S)
        small.result(PATIENCE_S)
    assert [2] in sums.packs[:3] or [3, 2] in sums.packs[:3]


def test_models_take_turns() -> None:
    slow, other = Sums(open_=False), Sums()
    other.packs = slow.packs
    with engine(budget=3) as (running, _):
        large = running.submit(slow, [row(1, 1, 1)] * 50)
        assert slow.began.wait(PATIENCE_S)
        small = running.submit(other, [row(2)])
        slow.go.set()
        large.result(PATIENCE_S)
        small.result(PATIENCE_S)
    assert [2] in slow.packs[:3]


@pytest.mark.parametrize(("bad", "words"), [(13, "13 cannot be computed"), (17, "not a number")])
def test_a_row_that_fails_fails_alone(bad: int, words: str) -> None:
    sums = Sums(open_=False)
    with engine(budget=100) as (running, _):
        blocker = running.submit(sums, [row(1)])
        assert sums.began.wait(PATIENCE_S)
        good = [running.submit(sums, [row(number)]) for number in (2, 3)]
        broken = running.submit(sums, [row(5), row(bad)])
        sums.go.set()
        assert values(blocker.result(PATIENCE_S)) == [1]
        assert [values(one.result(PATIENCE_S)) for one in good] == [[2], [3]]
        with pytest.raises(Exception, match=words):
            broken.result(PATIENCE_S)
    assert (running.waiting_rows, running.waiting_tokens) == (0, 0)


def test_a_request_that_fails_leaves_the_queue() -> None:
    sums = Sums()
    with engine(budget=2) as (running, _):
        broken = running.submit(sums, [row(13, 1), *[row(1, 1)] * 30])
        with pytest.raises(RuntimeError):
            broken.result(PATIENCE_S)
        assert values(running.submit(sums, [row(4)]).result(PATIENCE_S)) == [4]
    assert len(sums.packs) <= 3
    assert (running.waiting_rows, running.waiting_tokens) == (0, 0)


def test_a_full_queue_says_when_to_come_back() -> None:
    sums = Sums(open_=False)
    with engine(budget=4, queue=8) as (running, _):
        first = running.submit(sums, [row(*[1] * 20)])  # nothing waits: it may be larger than the queue
        assert sums.began.wait(PATIENCE_S)
        second = running.submit(sums, [row(1, 1, 1, 1)])
        with pytest.raises(Refusal, match="4 tokens wait already, and at most 8 may") as caught:
            running.submit(sums, [row(1, 1, 1, 1, 1)])
        assert caught.value.status == BUSY
        assert caught.value.retry_after_s >= 1
        sums.go.set()
        assert values(first.result(PATIENCE_S)) == [20]
        assert values(second.result(PATIENCE_S)) == [4]


def test_who_hangs_up_is_not_computed() -> None:
    sums = Sums(open_=False)
    with engine(budget=4) as (running, _):
        first = running.submit(sums, [row(1)])
        assert sums.began.wait(PATIENCE_S)
        gone = running.submit(sums, [row(7)] * 30)
        other = running.submit(sums, [row(2)])
        assert gone.cancel()
        sums.go.set()
        first.result(PATIENCE_S)
        assert values(other.result(PATIENCE_S)) == [2]
    assert sums.packs == [[1], [2]]
    assert (running.waiting_rows, running.waiting_tokens) == (0, 0)


def test_an_engine_that_ends_computes_what_waits() -> None:
    sums = Sums(open_=False)
    with engine(budget=1) as (running, _):
        answers = [running.submit(sums, [row(number)]) for number in range(1, 9)]
        sums.go.set()
    assert [values(one.result(0)) for one in answers] == [[number] for number in range(1, 9)]
    with pytest.raises(Refusal):
        running.submit(sums, [row(1)])


def test_real_outputs_do_not_depend_on_the_pack(models: dict[str, Served]) -> None:
    draw = np.random.default_rng(0)
    rows = [row(*draw.integers(5, 20, draw.integers(2, 60)).tolist()) for _ in range(60)]
    for name in ("films", "answers", "words"):
        alone = [models[name].scorer([one])[0] for one in rows]
        with engine(budget=300, queue=100_000) as (running, packs):
            answers = [running.submit(models[name].scorer, [one]) for one in rows]
            for answer, expected in zip(answers, alone, strict=True):
                np.testing.assert_allclose(answer.result(PATIENCE_S)[0], expected, atol=1e-4)
        assert len(packs) < len(rows)
