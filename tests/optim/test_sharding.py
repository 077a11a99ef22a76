"""Optimizer states over ranks: how they are spread, and real processes against one that keeps all states."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, multiprocessing

from bertjobs.optim import sharding
from bertjobs.optim.adam import Adam, AdamW
from bertjobs.optim.base import Optimizer
from bertjobs.optim.lamb import Lamb
from bertjobs.optim.sharding import WHOLE, StateShare, runs, spread

SHAPES = ((30, 20), (7,), (), (513, 3), (64, 33), (1,), (5, 1, 2), (100,))
STEPS, SKIPPED = 24, 9

sizes_of_items = st.lists(st.integers(0, 1000), max_size=40)


@given(sizes_of_items, st.integers(1, 9))
def test_a_deal_is_balanced_and_always_the_same(sizes: list[int], parts: int) -> None:
    dealt = spread(sizes, parts)
    assert dealt == spread(list(sizes), parts)
    assert len(dealt) == len(sizes)
    assert set(dealt) <= set(range(parts))
    loads = [sum(size for size, part in zip(sizes, dealt, strict=True) if part == one) for one in range(parts)]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_a_deal_by_hand() -> None:
    assert spread([1, 5, 3, 3], 2) == [0, 0, 1, 1]
    assert spread([2, 2, 2], 5) == [0, 1, 2]
    assert spread([], 3) == []
    with pytest.raises(ValueError, match="0 parts"):
        spread([1], 0)


@given(sizes_of_items, st.integers(1, 1500))
def test_runs_keep_the_order_and_the_limit(sizes: list[int], elements: int) -> None:
    tensors = [torch.empty(size) for size in sizes]
    cut = list(runs(tensors, elements))
    assert [id(t) for run in cut for t in run] == [id(t) for t in tensors]
    assert all(len(run) == 1 or sum(t.numel() for t in run) <= elements for run in cut)
    together = [sum(t.numel() for t in one) + two[0].numel() for one, two in itertools.pairwise(cut)]
    assert all(total > elements for total in together)


def optimizer_of(kind: type[Optimizer], shard: StateShare) -> tuple[Optimizer, list[torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(3)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    decayed = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    return kind(groups, 0.02, shard=shard), parameters


def set_gradients(parameters: list[torch.nn.Parameter], step: int) -> None:
    """The same on all ranks, as after an all-reduce; one gradient is not finite in the step that is skipped."""
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in parameters:
        parameter.grad = 8.0 * torch.randn(parameter.shape, generator=generator)
    if step == SKIPPED:
        parameters[4].grad.view(-1)[-1] = math.inf


def train_sharded(rank: int, size: int, meeting: str) -> None:
    """One of ``size`` processes: each optimizer sharded, beside one in this process that keeps all states."""
    torch.set_num_threads(1)
    sharding.MESSAGE_ELEMENTS = 2000  # several messages per owner
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    for kind in (Lamb, AdamW, Adam):
        sharded, ours = optimizer_of(kind, StateShare(rank, size))
        whole, theirs = optimizer_of(kind, WHOLE)
        for step in range(STEPS):
            if step == STEPS // 2:
                sharded = resumed(kind, sharded, ours, whole, theirs)
            set_gradients(ours, step)
            set_gradients(theirs, step)
            actual, expected = sharded.step(8.0), whole.step(8.0)
            assert actual.skipped == expected.skipped == (step == SKIPPED)
            assert actual.skipped or torch.equal(actual.gradient_norm, expected.gradient_norm)
            assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True)), (kind, step)
        assert sharded.step_count == whole.step_count == STEPS - 1
        check_moments(sharded, ours, whole, theirs)
    distributed.destroy_process_group()


def resumed(
    kind: type[Optimizer],
    sharded: Optimizer,
    ours: list[torch.nn.Parameter],
    whole: Optimizer,
    theirs: list[torch.nn.Parameter],
) -> Optimizer:
    """A new optimizer over ``ours``; each rank is offered all moments, as from a checkpoint."""
    fresh = kind(
        [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in sharded.param_groups],
        0.02,
        shard=sharded.shard,
    )
    saved = whole.moments()
    moments = {own: (saved[p][0].clone(), saved[p][1].clone()) for own, p in zip(ours, theirs, strict=True)}
    fresh.load_moments(moments, whole.step_count)
    return fresh


def check_moments(
    sharded: Optimizer, ours: list[torch.nn.Parameter], whole: Optimizer, theirs: list[torch.nn.Parameter]
) -> None:
    """Each parameter's moments are kept by exactly one rank, with the same bits as unsharded ones."""
    kept, expected = sharded.moments(), whole.moments()
    for one, two in zip(ours, theirs, strict=True):
        assert (one in kept) == (one in sharded.owned)
        if one in kept:
            assert all(torch.equal(a, b) for a, b in zip(kept[one], expected[two], strict=True))
    keepers = torch.tensor([int(one in kept) for one in ours])
    distributed.all_reduce(keepers)
    assert keepers.tolist() == [1] * len(ours)
    elements = sum(p.numel() for p in kept)
    assert 0 < elements < 0.6 * sum(p.numel() for p in ours)


@pytest.mark.parametrize("size", [2, 3])
def test_sharded_states_give_the_bits_of_whole_ones(size: int, tmp_path: Path) -> None:
    multiprocessing.start_processes(train_sharded, (size, str(tmp_path / "meeting")), size, start_method="fork")


def test_a_single_rank_communicates_nothing() -> None:
    optimizer, parameters = optimizer_of(Lamb, StateShare(0, 1))
    set_gradients(parameters, 0)
    assert not distributed.is_initialized()
    assert not optimizer.step().skipped
