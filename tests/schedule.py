"""Which process runs which files: two run what needs Slurm, which mostly waits, while the others compute."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling

CLUSTER = "tests/cluster/"
FIRST_HALF = (
    "chaos/test_chaos",
    "test_submit",
    "test_doctor",
    "test_by_hand",
    "test_harness",
    "test_paths",
    "test_owner",
)
"""Files of the tests on Slurm that one process runs; another one runs the rest, which takes about as long."""


class FilesAndHalves(LoadFileScheduling):
    """As ``--dist loadfile``, but that each half of the tests on Slurm counts as one file. In alphabetical order all
    processes would wait for Slurm at the same time, and each for a cluster of its own."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if not file.startswith(CLUSTER):
            return file
        return f"{CLUSTER} {file.removeprefix(CLUSTER).removesuffix('.py') in FIRST_HALF}"


def longest_first(items: list[pytest.Item]) -> None:
    """Put the two halves before all others, so that nothing waits for them at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(CLUSTER))
