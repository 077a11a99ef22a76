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

SHARED = ("tests/export/",)
"""Folders whose files share something that is dear to make: exported models, and the exporter's import."""


class FilesAndHalves(LoadFileScheduling):
    """As ``--dist loadfile``, but that each half of the tests on Slurm counts as one file, and so does a folder of
    `SHARED`. In alphabetical order all processes would wait for Slurm at the same time, and each for a cluster of its
    own."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        for folder in SHARED:
            if file.startswith(folder):
                return folder
        if not file.startswith(CLUSTER):
            return file
        return f"{CLUSTER} {file.removeprefix(CLUSTER).removesuffix('.py') in FIRST_HALF}"


LONG = (
    "test_a_run_survives_all_faults_together",
    "test_a_slowed_group_computes_less",
    "test_nvidia_s_own_command_line",
    "test_a_heterogeneous_job_that_is_requeued",
)
"""How the names of the longest slow tests begin, each a matter of minutes."""


def apart(items: list[pytest.Item]) -> None:
    """Put the `LONG` ones first, each followed by a short one: xdist begins with two in a row for each process, and of
    two long ones the second would wait for the first."""
    long = [item for item in items if item.name.startswith(LONG)]
    rest = [item for item in items if item not in long]
    pairs = [item for one in long for item in (one, *([rest.pop()] if rest else []))]
    items[:] = [*pairs, *rest]


def longest_first(items: list[pytest.Item]) -> None:
    """Put the two halves before all others, so that nothing waits for them at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(CLUSTER))
