"""A model of known weights scored on the held-out set, as one of several ranks."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import torch

from bertjobs.data.shards.ids_shard import ShardRows
from bertjobs.train.job import resolve_job
from bertjobs.train.placement import read_placement
from bertjobs.train.pretraining.objective import Pretraining
from bertjobs.train.ranks import Ranks, joined
from bertjobs.train.watchdog import Watchdog

CPU = torch.device("cpu")


def score(environ: Mapping[str, str], ranks: Ranks) -> dict[str, float | int]:
    """The learner's scores on this rank, computed twice, since masks must not change."""
    job = resolve_job(environ, read_placement(environ), Pretraining.of)
    torch.manual_seed(0)
    learner = job.objective.open(ranks, CPU)
    beats: list[int] = []
    first, second = learner.validate(lambda: beats.append(1)), learner.validate(lambda: beats.append(2))
    assert first == second
    assert beats.count(1) >= beats.count(2), "the first reads the training text as well"
    assert learner.model.training
    return first


def score_to_file(environ: Mapping[str, str], file: Path) -> None:
    """`score` in a process of its own."""
    torch.set_num_threads(1)
    with joined(read_placement(environ)) as ranks:
        file.write_text(json.dumps(score(environ, ranks)))


def score_slow_shards(environ: Mapping[str, str], file: Path, shard_s: float, timeout_s: float) -> None:
    """`score` in a process of its own, where each shard of the training text takes ``shard_s`` to read, under a
    watchdog that ends the process after ``timeout_s`` without a beat."""
    torch.set_num_threads(1)
    read = ShardRows.original_ids

    def slowly(shard: ShardRows) -> object:
        time.sleep(shard_s)
        return read(shard)

    with joined(read_placement(environ)) as ranks:
        placement = read_placement(environ)
        job = resolve_job(environ, placement, Pretraining.of)
        learner = job.objective.open(ranks, CPU)
        with (
            patch.object(ShardRows, "original_ids", slowly),
            Watchdog(timeout_s, placement, ranks.arrivals) as watchdog,
        ):
            scores = learner.validate(lambda: watchdog.beat(1, "validating"))
    file.write_text(json.dumps(scores))
