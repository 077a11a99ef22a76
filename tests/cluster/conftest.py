"""Fixtures of the tests that need a real Slurm: one cluster for the session, free of jobs after each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm import Cluster, ClusterError, why_unavailable

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test of this folder ``cluster``; the hook sees those of other folders too."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)


def pytest_runtest_setup() -> None:
    """Skips where no cluster can be booted; with BERTJOBS_REQUIRE_CLUSTER=1 that is a failure.

    Here and not in the fixture, so that the summary has one line for all these tests.
    """
    if reason := why_unavailable():
        if os.environ.get("BERTJOBS_REQUIRE_CLUSTER") == "1":
            pytest.fail(f"{reason}, and BERTJOBS_REQUIRE_CLUSTER=1", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The session's Slurm, booted for the first test; its folder with the logs is kept when a test failed."""
    # Not pytest's own temporary folder: its path is too long for the sockets.
    folder = Path(tempfile.mkdtemp(prefix="bertjobs-slurm-", dir="/tmp"))
    failed_before = request.session.testsfailed
    try:
        booted = Cluster.boot(folder)
    except ClusterError as error:
        pytest.fail(str(error), pytrace=False)
    booted.environment["MODEL"] = "bert-nano"  # for all runs that name no other: what is tested here is not the model
    yield booted
    booted.stop()
    if request.session.testsfailed == failed_before:
        shutil.rmtree(folder)
    else:
        reporter = request.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"\nthe Slurm cluster's logs are kept in {folder}/log")


@pytest.fixture(autouse=True)
def _no_job_is_left(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.clear()
