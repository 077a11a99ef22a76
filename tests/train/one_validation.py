"""A model of known weights scored on the held-out set, as one of several ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from bertjobs.model.bert import BertForPreTraining
from bertjobs.train.job import resolve_job
from bertjobs.train.phase_data import open_shards
from bertjobs.train.placement import read_placement
from bertjobs.train.ranks import Ranks, joined
from bertjobs.train.validation import Validation
from bertjobs.train.watchdog import Watchdog

CPU = torch.device("cpu")


def score(environ: Mapping[str, str], ranks: Ranks) -> dict[str, float | int]:
    """What `Validation` says on this rank; twice, as masks must not change."""
    job = resolve_job(environ, read_placement(environ))
    validation = Validation(job, open_shards(job, ranks), ranks, CPU, Watchdog(0, job.placement, ranks.arrivals))
    torch.manual_seed(0)
    model = BertForPreTraining(job.spec.model)
    first, second = validation.run(model, 1), validation.run(model, 2)
    assert first == second
    assert model.training
    return first


def score_to_file(environ: Mapping[str, str], file: Path) -> None:
    """`score` in a process of its own."""
    torch.set_num_threads(1)
    with joined(read_placement(environ)) as ranks:
        file.write_text(json.dumps(score(environ, ranks)))
