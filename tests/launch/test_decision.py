"""What comes next after an attempt has ended."""

from __future__ import annotations

from itertools import product

import pytest

from bertjobs.launch.decision import End, Next, contract_code, what_next
from bertjobs.run.causes import Cause
from bertjobs.run.journal import Attempt

BUDGETS = {"crashed": 1, "out_of_memory": 0}


def attempts(*words: str) -> tuple[Attempt, ...]:
    """Attempts, one per word, which is the journal's for why it ended."""
    return tuple(Attempt(1, "7", number, started_unix_s=1.7e9, word=word) for number, word in enumerate(words))


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (End(0), Next.NEXT_PHASE),
        (End(0, told_to_end=True), Next.NEXT_PHASE),
        (End(75, advanced=True), Next.RESTART),
        (End(70, advanced=True), Next.RESTART),
        (End(70), Next.STOP),
        (End(75), Next.STOP),
        (End(64, advanced=True, unfit_nodes="node7"), Next.STOP),
        (End(75, advanced=True, step_limit=True), Next.STOP),
        (End(70, unfit_nodes="node7"), Next.ELSEWHERE),
        (End(70, advanced=True, unfit_nodes="node7"), Next.RESTART),
        (End(75, told_to_end=True, advanced=True), Next.NOTHING_HERE),
        (End(70, told_to_end=True), Next.NOTHING_HERE),
        (End(64, told_to_end=True), Next.NOTHING_HERE),
        (End(75, advanced=True, cause=Cause.SIGUSR2), Next.RESTART),
        (End(75, advanced=True, cause=Cause.BAD_SHARD), Next.RESTART),
        (End(75, advanced=True, cause=Cause.STEPS_THIS_RUN), Next.STOP),
        (End(70, advanced=True, cause=Cause.HANG), Next.RESTART),
        (End(70, cause=Cause.UNFIT_NODE, unfit_nodes="node7"), Next.ELSEWHERE),
    ],
)
def test_what_comes_next(ended: End, expected: Next) -> None:
    assert what_next(ended, [], BUDGETS).next is expected


def test_a_spent_budget_stops_the_chain_and_says_which() -> None:
    once, twice = attempts("crashed"), attempts("crashed", "crashed")
    assert what_next(End(70, advanced=True), once, BUDGETS).next is Next.RESTART
    stopped = what_next(End(70, advanced=True), twice, BUDGETS)
    assert stopped.next is Next.STOP
    assert stopped.why == "2 attempts crashed; the recipe allows 1 restart after a crash"
    assert stopped.spent_by is Cause.CRASHED
    assert what_next(End(70, unfit_nodes="node7"), twice, BUDGETS).next is Next.STOP
    memory = what_next(End(70, advanced=True), attempts("out of memory"), BUDGETS)
    assert memory.next is Next.STOP
    assert memory.why == "1 attempt ran out of memory; the recipe allows no restarts after running out of memory"
    assert memory.spent_by is Cause.GPU_MEMORY


def test_nothing_but_a_new_checkpoint_or_other_nodes_brings_another_attempt() -> None:
    for code, is_told, limit in product((0, 64, 70, 75), (False, True), (False, True)):
        ended = End(code, told_to_end=is_told, step_limit=limit)
        assert what_next(ended).next not in (Next.RESTART, Next.ELSEWHERE)


@pytest.mark.parametrize(("code", "contract"), [(0, 0), (64, 64), (75, 75), (70, 70), (1, 70), (137, 70), (-9, 70)])
def test_a_code_that_the_contract_does_not_know_is_a_failure(code: int, contract: int) -> None:
    assert contract_code(code) == contract
