"""Scoring held-out batches never waits for the GPU before the last one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.train.job import resolve_job
from bertjobs.train.placement import read_placement
from bertjobs.train.pretraining.objective import Pretraining, PretrainingLearner
from bertjobs.train.ranks import Ranks
from tests.gpu.conftest import GPU, NewTrial, no_waiting


@pytest.fixture
def learner(new_trial: NewTrial, data: DataManifest) -> Iterator[PretrainingLearner]:
    environ = new_trial("run", precision="bf16").environment(1)
    placement = read_placement(environ)
    torch.manual_seed(0)
    yield resolve_job(environ, placement, Pretraining.of).objective.open(Ranks(placement), GPU)


def test_only_the_sums_are_waited_for(learner: PretrainingLearner) -> None:
    expected = learner.validate(lambda: None)  # also computes the unigram line, and warms kernels up
    waits: list[torch.Tensor] = []

    def keep(sums: torch.Tensor) -> torch.Tensor:
        waits.append(sums)
        torch.cuda.set_sync_debug_mode("default")
        return sums

    learner._validation._ranks.sum_on_device = keep  # type: ignore[method-assign]
    with no_waiting():
        assert learner.validate(lambda: None) == expected
    assert len(waits) == 1
