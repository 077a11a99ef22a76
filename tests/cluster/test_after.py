"""Data that a Slurm job makes, and a run that waits for them."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.run.directory import RunDirectory
from tests.cluster.slurm import Cluster
from tests.conftest import SPEECHES, Bertjobs, wait_until

Prepare = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real speeches, in a folder whose name a shell would split, with a small vocabulary beside it."""
    folder = tmp_path_factory.mktemp("after") / "six $peeches; really"
    folder.mkdir()
    for file in sorted(SPEECHES.glob("*.txt"))[:6]:
        (folder / file.name).symlink_to(file)
    letters = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789.,;'-" for prefix in ("", "##")]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    (folder.parent / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return folder


@pytest.fixture
def prepare(bertjobs: Bertjobs, cluster: Cluster, corpus: Path) -> Prepare:
    """Prepares the corpus into ./data as a queued job."""

    def call(*more: object) -> subprocess.CompletedProcess[str]:
        return bertjobs(
            *("data", "prepare", "--corpus", f"text:{corpus}", "--vocab", corpus.parent / "vocab.txt"),
            *("--output", "data", "--duplicates", 1, "--shards", 4, "--slurm", "--queue", *more),
            environ=cluster.environment,
        )

    return call


def test_a_run_waits_for_the_data_that_a_job_prepares(
    prepare: Prepare, bertjobs: Bertjobs, cluster: Cluster, tmp_path: Path
) -> None:
    queued = prepare("--nodes", 2, "--cpus", 1)
    assert queued.returncode == 0, queued.stderr
    job = re.search(r"queued as job (\d+); log (\S+)", queued.stdout)
    assert job is not None
    assert Path(job[2]) == tmp_path / f"data.prepare-{job[1]}.log"
    following = queued.stdout.split("next: bertjobs ")[1].split()
    assert following == ["submit", "--recipe", "NAME", "--data", str(tmp_path / "data"), "--after", job[1]]

    following[2] = "laptop-scratch"
    sets = ("--set", "phase1.steps=4", "--set", "phase2.steps=2")
    submitted = bertjobs(*following, *sets, "--json", environ=cluster.environment)
    assert submitted.returncode == 0, submitted.stderr
    jobs = json.loads(submitted.stdout)["jobs"]
    waits = cluster.run(["scontrol", "show", "job", jobs["1"]]).stdout
    assert f"afterany:{job[1]}" in waits or cluster.squeue_state(job[1]) == ""

    assert cluster.wait(job[1]) == "COMPLETED", Path(job[2]).read_text()
    DataManifest.read(tmp_path / "data")
    assert [cluster.wait(id) for id in jobs.values()] == ["COMPLETED", "COMPLETED"]
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    assert [directory.phase(number).done().step for number in (1, 2)] == [4, 2]
    assert read_lockfile(directory.lockfile).model.vocab_size == DataManifest.read(tmp_path / "data").vocabulary_size

    again = prepare()
    assert "is already complete" in again.stdout, "nothing is queued for existing data"


def test_a_requeued_coordinator_resumes(prepare: Prepare, cluster: Cluster, tmp_path: Path) -> None:
    """Sends the signal that Slurm sends near the time limit."""
    blocked = prepare("--sbatch", "begin=now+1hour").stdout
    job = re.search(r"queued as job (\d+)", blocked)
    assert job is not None
    # The coordinator has to start; its arrays inherit `begin` and wait, so that there is time for the signal.
    cluster.run(["scontrol", "update", f"JobId={job[1]}", "StartTime=now"])
    log = tmp_path / f"data.prepare-{job[1]}.log"
    wait_until(lambda: log.exists() and "shards: 16 tasks" in log.read_text())
    arrays = set(re.findall(r"\((\d+)\)", log.read_text()))
    cluster.run(["scancel", "--batch", "--signal=USR2", job[1]])
    wait_until(lambda: "back to the queue" in log.read_text())
    wait_until(lambda: cluster.squeue_state(job[1]) == "PENDING")
    time.sleep(3)  # slurmd refuses a job for a moment after it was killed; left alone, it would wait two minutes
    cluster.run(["scontrol", "update", f"JobId={job[1]}", "StartTime=now"])
    for array in sorted(arrays, key=int):
        cluster.run(["scontrol", "update", f"JobId={array}", "StartTime=now"])
    assert cluster.wait(job[1]) == "COMPLETED", log.read_text()
    assert "of an earlier prepare are still queued or running and will continue" in log.read_text()
    DataManifest.read(tmp_path / "data")


@pytest.mark.parametrize("job", ["4242424", "4242424_1"])
def test_a_job_that_slurm_does_not_know_is_refused(
    bertjobs: Bertjobs, cluster: Cluster, speeches_data: Path, tmp_path: Path, job: str
) -> None:
    """sbatch itself would regard it as a job that has ended, and start at once."""
    words = ("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--after", job)
    done = bertjobs(*words, environ=cluster.environment)
    assert done.returncode == 64
    assert f"Slurm does not know job {job}" in done.stderr
    assert not (tmp_path / "results").exists()
    assert cluster.run(["squeue", "-h"]).stdout == ""


def test_a_job_that_has_ended_is_not_expected_to_make_data(
    bertjobs: Bertjobs, cluster: Cluster, tmp_path: Path
) -> None:
    script = tmp_path / "true.sub"
    script.write_text("#!/bin/bash\ntrue\n")
    job = cluster.run(["sbatch", "--parsable", "--output=/dev/null", str(script)]).stdout.strip()
    assert cluster.wait(job) == "COMPLETED"
    done = bertjobs(
        *("submit", "--recipe", "laptop-scratch", "--data", tmp_path / "nowhere", "--after", job),
        environ=cluster.environment,
    )
    assert done.returncode == 64
    assert "does not exist" in done.stderr
    assert not (tmp_path / "results").exists()


def test_without_a_job_to_wait_for_resume_too_refuses_missing_data(
    bertjobs: Bertjobs, cluster: Cluster, tmp_path: Path
) -> None:
    script = tmp_path / "sleep.sub"
    script.write_text("#!/bin/bash\nsleep 600\n")
    job = cluster.run(["sbatch", "--parsable", "--output=/dev/null", str(script)]).stdout.strip()
    words = ("--recipe", "laptop-scratch", "--data", tmp_path / "later", "--phase", 1)
    submitted = bertjobs("submit", *words, "--after", job, environ=cluster.environment)
    assert submitted.returncode == 0, submitted.stderr
    assert f"warning: data folder '{tmp_path}/later' does not exist" in submitted.stdout
    assert f"the run waits for job {job}" in submitted.stdout
    cluster.run(["scancel", job])
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    (first,) = [event["job"] for event in directory.events() if event["event"] == "submitted"]
    assert cluster.wait(first) == "FAILED"
    resumed = bertjobs("resume", "laptop-scratch", environ=cluster.environment)
    assert resumed.returncode == 64
    assert "does not exist" in resumed.stderr
