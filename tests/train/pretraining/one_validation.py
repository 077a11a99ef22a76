"""A model of known weights scored on the held-out set, as one of several ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from bertjobs.train.job import resolve_job
from bertjobs.train.placement import read_placement
from bertjobs.train.pretraining.objective import Pretraining
from bertjobs.train.ranks import Ranks, joined

CPU = torch.device("cpu")


def score(environ: Mapping[str, str], ranks: Ranks) -> dict[str, float | int]:
    """The learner's scores on this rank, computed twice, since masks must not change."""
    job = resolve_job(environ, read_placement(environ), Pretraining.of)
    torch.manual_seed(0)
    learner = job.objective.open(ranks, CPU)
    beats: list[int] = []
    first, second = learner.validate(lambda: beats.append(1)), learner.validate(lambda: beats.append(2))
    assert first == second
    assert beats.count(1) == beats.count(2)
    assert learner.model.training
    return first


def score_to_file(environ: Mapping[str, str], file: Path) -> None:
    """`score` in a process of its own."""
    torch.set_num_threads(1)
    with joined(read_placement(environ)) as ranks:
        file.write_text(json.dumps(score(environ, ranks)))
