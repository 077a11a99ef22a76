"""Scoring held-out batches waits for the GPU once, after the last one."""

from __future__ import annotations

import pytest
import torch

from bertjobs.train.job import resolve_job
from bertjobs.train.placement import read_placement
from bertjobs.train.pretraining.objective import Pretraining
from bertjobs.train.ranks import Ranks
from tests.gpu.conftest import GPU, NewTrial, no_waiting


class Counting(Ranks):
    """One rank that counts its sums, after which waiting is allowed."""

    sums = 0

    def sum_on_device(self, values: torch.Tensor) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("default")
        self.sums += 1
        return values


def test_only_the_sums_are_waited_for(new_trial: NewTrial) -> None:
    environ = new_trial("run", precision="bf16").environment(1)
    placement = read_placement(environ)
    torch.manual_seed(0)
    ranks = Counting(placement)
    learner = resolve_job(environ, placement, Pretraining.of).objective.open(ranks, GPU)
    first = learner.validate(lambda: None)  # also reads the training text
    assert ranks.sums == 1
    with no_waiting():
        again = learner.validate(lambda: None)
    assert ranks.sums == 2
    assert again == pytest.approx(first, rel=1e-6)
