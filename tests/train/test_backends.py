"""Ranks that would update their weights in different ways are detected before the first step."""

from __future__ import annotations

import os
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.launch.local import free_port
from bertjobs.train.phase import check_backends
from bertjobs.train.placement import read_placement
from bertjobs.train.ranks import FirstRankFailedError, joined
from tests.forkserver import CONTEXT, preload

preload(__name__)


def one_of_two(rank: int, port: int, folder: Path) -> None:
    environ = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    with joined(read_placement(environ)) as ranks:
        check_backends("torch", ranks)
        try:
            check_backends("fused" if rank else "torch", ranks)
            message = "nothing"
        except InputError as error:
            message = error.what
        except FirstRankFailedError:
            message = "rank 0 says it"
        (folder / str(rank)).write_text(message)
    os._exit(0)


def test_backends_must_be_the_same_on_all_ranks(tmp_path: Path) -> None:
    port = free_port()
    processes = [CONTEXT.Process(target=one_of_two, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert "different ways: fused on 1, torch on 1" in (tmp_path / "0").read_text()
    assert (tmp_path / "1").read_text() == "rank 0 says it"
