"""A job goes on by itself after whatever may happen to it, and the journal names the cause."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from bertjobs.run.directory import RunDirectory
from tests.cluster.process import job_processes
from tests.cluster.slurm import Cluster
from tests.cluster.test_by_hand import RUN_SUB, _logs
from tests.cluster.test_prepare import environment_of
from tests.conftest import wait_until

STEPS = 60


@pytest.fixture
def environ(speeches_data: Path, tmp_path: Path) -> dict[str, str]:
    recipe = {"restarts_crashed": 1, "phases": {1: {"steps": STEPS, "checkpoint_every": 5}}}
    (tmp_path / "bertjobs.yml").write_text(json.dumps({"recipes": {"laptop-scratch": recipe}}))
    return {
        "BERTJOBS_PYTHON": sys.executable,
        "DATADIR": str(speeches_data),
        "RESULTS": str(tmp_path / "results"),
        "RECIPE": "laptop-scratch",
        "PHASE": "1",
    }


def ends(directory: RunDirectory) -> list[tuple[int, str]]:
    return [(event["attempt"], event["cause"]) for event in directory.events() if event["event"] == "ended"]


def workers(cluster: Cluster, job: int) -> list[Any]:
    """The ranks of a job, by their rank."""
    found = []
    for process in job_processes(cluster.folder):
        variables = environment_of(process)
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        if variables.get("SLURM_JOB_ID") == str(job) and b"bertjobs.train" in command and b"srun" not in command:
            found.append((int(variables["SLURM_PROCID"]), process))
    return [process for _, process in sorted(found, key=lambda pair: pair[0])]


def test_a_job_that_crashes_goes_on_as_often_as_the_recipe_allows(
    cluster: Cluster, environ: dict[str, str], tmp_path: Path
) -> None:
    """Each attempt gets a checkpoint further, and then a rank is killed; at last somebody starts the phase again."""
    job = cluster.submit(["-N2", RUN_SUB], env=environ, cwd=tmp_path)
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    checkpoints = directory.phase(1).checkpoints
    for attempt in range(2):
        wait_until((directory.phase(1).logs / f"{job}-{attempt}.out").exists)
        before = set(checkpoints.glob("step-*"))
        wait_until(lambda before=before: set(checkpoints.glob("step-*")) - before)
        workers(cluster, job)[1 - attempt].send(signal.SIGKILL)
    wait_until((directory.phase(1).logs / f"{job}-2.out").exists)
    assert cluster.wait(job, timeout=120) == "FAILED", _logs(tmp_path)
    assert cluster.run(["sacct", "-nXP", "-o", "ExitCode", "-j", str(job)]).stdout.strip() == "64:0"
    assert "2 attempts ended by: crashed; the recipe allows 1" in _logs(tmp_path)
    assert ends(directory)[:2] == [(0, "crashed"), (1, "crashed")]

    again = cluster.submit(["-N2", RUN_SUB], env=environ, cwd=tmp_path)
    assert cluster.wait(again, timeout=120) == "COMPLETED", _logs(tmp_path)
    steps = [json.loads(line)["step"] for line in directory.phase(1).metrics.read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
