"""Joining the group, and who speaks when a rank fails."""

from __future__ import annotations

import shutil
import socket

from .conftest import Trial, truncate


def test_a_port_that_is_taken_is_named(trial: Trial) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (end,) = trial.having(MASTER_PORT=port, WORLD_SIZE=2).run(1, 1)
    assert end.code == 70, end
    assert "rank 0 of 2 cannot join the others" in end.err
    assert f"MASTER_PORT={port}" in end.err
    assert "Traceback" not in end.err


def test_a_rank_that_fails_alone_says_why_and_all_end(trial: Trial) -> None:
    """Rank 1 sees other data than rank 0: a shard that is cut off."""
    damaged = trial.results.parent / "damaged"
    shutil.copytree(trial.data, damaged)
    truncate(next((damaged / "phase1" / "train").iterdir()))
    first, second = trial.run(1, 2, {1: {"DATADIR": str(damaged)}})
    assert second.code == 64
    assert second.err.startswith("rank 1: error: shard ")
    assert first.code == 70
    assert "another rank is gone" in first.err
    assert "Traceback" not in first.err + second.err
