"""What a rank leaves for the next attempt, and what it computes once for all."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bertjobs.run.directory import RunDirectory
from bertjobs.run.suspects import record
from bertjobs.train.loop import Trainer
from bertjobs.train.worker import write_exclusions


def test_nodes_that_were_merely_warned_of_are_not_excluded(tmp_path: Path) -> None:
    """They may be all that the partition has."""
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    directory.phase(1).create()
    job: Any = SimpleNamespace(spec=SimpleNamespace(results=str(tmp_path)), folder=directory.phase(1))
    for node in ("n1", "n2", "n3"):
        for number in ("7", "8"):
            record(tmp_path, node, "nvidia-smi is slow", fatal=False, run="r", job=number, now=time.time())
    write_exclusions(job)
    assert not directory.phase(1).exclude.exists()
    record(tmp_path, "n3", "a GPU is missing", fatal=True, run="r", job="9", now=time.time())
    write_exclusions(job)
    assert directory.phase(1).exclude.read_text() == "n3"


@pytest.mark.parametrize(("others", "expected"), [((989e12, 0), 1114e12), ((0, 1), None)])
def test_the_peak_rate_of_unequal_gpus_is_their_sum(others: tuple[int, int], expected: float | None) -> None:
    pairs = lambda own: zip(own, others, strict=True)  # noqa: E731
    ranks = SimpleNamespace(size=2, sum_on_host=lambda *own: [mine + theirs for mine, theirs in pairs(own)])
    trainer: Any = SimpleNamespace(job=SimpleNamespace(spec=SimpleNamespace(groups=("1x1", "1x1"))), ranks=ranks)
    assert Trainer._peak_of_all(trainer, 125e12) == expected
