"""Gradients stay where they are between steps, in DDP's buckets with several ranks, and that changes no weight."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bertjobs.data.batches.batches import Batch
from bertjobs.launch.local import free_port
from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.lamb import Lamb
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.train.placement import read_placement
from bertjobs.train.pretraining.forward import Forward
from bertjobs.train.pretraining.objective import probe
from bertjobs.train.ranks import Ranks, joined
from bertjobs.train.step import StepPlan, train_step
from tests.cluster.slurm import PATIENCE_S
from tests.forkserver import CONTEXT, preload

preload(__name__)
CPU = torch.device("cpu")
STEPS, MICRO_BATCHES, SIZE, LENGTH = 3, 2, 2, 16


class Freeing(Lamb):
    """Gradients are made anew in each step, as with torch's optimizers."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none=set_to_none)


def batch(ranks: Ranks, step: int, number: int) -> Batch:
    draw = torch.Generator().manual_seed((step * MICRO_BATCHES + number) * ranks.size + ranks.rank)
    tokens = torch.randint(5, 100, (SIZE, LENGTH), generator=draw)
    return Batch(tokens, tokens * 0, tokens * 0 + 1, tokens, torch.tensor([0, 1]))


def trained(ranks: Ranks, kind: type[Lamb]) -> tuple[dict[str, Tensor], list[list[int]]]:
    """The weights after some steps of several micro-batches, with dropout; and the gradients' addresses after each."""
    spec = replace(load_catalogue([builtin_file()]).model("bert-nano", "test"), vocab_size=100)
    torch.manual_seed(0)
    model = BertForPreTraining(spec)
    wrapped = ranks.wrapped(Forward(model), probe(CPU), bucket_mb=0.05)
    optimizer = kind(model.parameters(), 0.01)
    whole = ranks.size * MICRO_BATCHES * SIZE
    plan = StepPlan(ranks.size, "fp32", seed=7, divisors=(whole * LENGTH, whole), places=ranks.turns(MICRO_BATCHES))
    addresses: list[list[int]] = []
    for step in range(STEPS):
        micro_batches = [batch(ranks, step, number) for number in range(MICRO_BATCHES)]
        train_step(wrapped, optimizer, micro_batches, replace(plan, number=step), CPU)
        addresses.append([parameter.grad.data_ptr() for parameter in model.parameters() if parameter.grad is not None])
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}, addresses


def both_ways(ranks: Ranks, folder: Path) -> None:
    for kind in (Lamb, Freeing):
        weights, addresses = trained(ranks, kind)
        if kind is Lamb:
            assert len(addresses[0]) == len(weights)
            assert addresses[1:] == [addresses[0]] * (STEPS - 1), "a gradient has moved"
        save_file(weights, folder / f"{kind.__name__}-{ranks.rank}")


def one_of_several(rank: int, world_size: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    names: dict[str, Any] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    with joined(read_placement({name: str(value) for name, value in names.items()})) as ranks:
        both_ways(ranks, folder)
    os._exit(0)


@pytest.mark.parametrize("world_size", [1, 2])
def test_they_stay_and_the_weights_are_the_same_bit_for_bit(world_size: int, tmp_path: Path) -> None:
    port = free_port()
    ranks = [
        CONTEXT.Process(target=one_of_several, args=(rank, world_size, port, tmp_path)) for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(PATIENCE_S)
    assert [rank.exitcode for rank in ranks] == [0] * world_size
    for number in range(world_size):
        kept, freed = (load_file(tmp_path / f"{kind}-{number}") for kind in ("Lamb", "Freeing"))
        assert kept.keys() == freed.keys()
        for name, weight in kept.items():
            assert torch.equal(weight, freed[name]), name
