"""A cluster as other people have it: GPUs with a type, a prolog that fails, nodes reserved for maintenance."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjobs.launch.doctor.diagnose import diagnose
from bertjobs.launch.doctor.evidence import collect
from bertjobs.launch.doctor.verdict import Standing, Verdict
from bertjobs.run.causes import Cause
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.cluster import Gpus, partitions_of
from tests.cluster.slurm import Cluster
from tests.conftest import Bertjobs, wait_until

RUN = "laptop-scratch"
NODES = "node[1-4]"


@pytest.fixture(scope="module")
def other() -> Iterator[Cluster]:
    """Four nodes with ``gpu:a100:8``, and a prolog that fails on the node named in the file ``bad``."""
    folder = Path(tempfile.mkdtemp(prefix="bertjobs-other-", dir="/tmp"))
    prolog = folder / "prolog"
    prolog.write_text(f'#!/bin/bash\n[[ ! -e {folder}/bad || $(<{folder}/bad) != "$SLURMD_NODENAME" ]]\n')
    prolog.chmod(0o755)
    changes = {
        "Gres=gpu:8": "Gres=gpu:a100:8",
        "Name=gpu File": "Name=gpu Type=a100 File",
        "GresTypes=gpu\n": f"GresTypes=gpu\nProlog={prolog}\n",
    }
    booted = Cluster.boot(folder / "slurm", changes=changes)
    yield booted
    booted.stop()
    shutil.rmtree(folder)


@pytest.fixture
def cluster(other: Cluster) -> Iterator[Cluster]:  # type: ignore[misc]
    """In this file, the other one."""
    yield other
    (other.folder.parent / "bad").unlink(missing_ok=True)
    other.clear()
    other.run(["scontrol", "update", f"NodeName={NODES}", "State=RESUME"], check=False)


def submitted(cluster: Cluster, bertjobs: Bertjobs, data: Path, folder: Path, *words: object) -> str:
    """The job of a run of phase 1."""
    given = ("--recipe", RUN, "--data", data, "--phase", 1, *words)
    done = bertjobs("submit", *given, environ=cluster.environment)
    assert done.returncode == 0, done.stderr
    events = RunDirectory(folder / "results" / RUN).events()
    return str([event["job"] for event in events if event["event"] == "submitted"][-1])


def verdict_on(cluster: Cluster, folder: Path) -> Verdict:
    directory = RunDirectory(folder / "results" / RUN)
    return diagnose(collect(directory, Slurm(cluster.environment), RUN, time.time()))


def test_the_types_are_seen(cluster: Cluster) -> None:
    partitions = partitions_of(Slurm(cluster.environment))
    assert [partition.gpu_types for partition in partitions] == [{"a100": 8}] * 2
    assert partitions[0].kinds[0].gpus == (Gpus(8, "a100"),)


def test_gpus_of_a_type_are_asked_for_and_given(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    words = ("--gpus", "a100:2", "--set", "tasks_per_node=2", "--sbatch", "hold")
    job = submitted(cluster, bertjobs, speeches_data, tmp_path, *words)
    shown = cluster.run(["scontrol", "show", "job", job]).stdout
    assert "gpu:a100:2" in shown, shown
    cluster.run(["scontrol", "release", job])
    cluster.wait(job)
    ((allocated,),) = cluster.accounted(job, "AllocTRES")
    assert "gres/gpu=2" in allocated


def test_a_type_that_does_not_exist_is_refused_with_those_that_do(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path
) -> None:
    given = ("--recipe", RUN, "--data", speeches_data, "--phase", 1, "--gpus", "h100:2", "--set", "tasks_per_node=2")
    done = bertjobs("submit", *given, environ=cluster.environment)
    assert done.returncode == 64
    assert "partition batch has no GPUs of type 'h100'; its types: a100 (8 per node)" in done.stderr
    assert "--gpus a100:8" in done.stderr
    assert cluster.run(["squeue", "-h"]).stdout == ""


@pytest.mark.slow
def test_a_job_whose_node_failed_in_the_prolog_is_held_and_the_doctor_says_how_to_release_it(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    (cluster.folder.parent / "bad").write_text("node1")
    job = submitted(cluster, bertjobs, speeches_data, tmp_path, "--sbatch", "nodelist=node1")
    wait_until(lambda: verdict_on(cluster, tmp_path).command == f"scontrol release {job}")
    verdict = verdict_on(cluster, tmp_path)
    assert verdict.cause is Standing.QUEUED, verdict
    assert "a node failed to start it, most often in the site's prolog, and Slurm holds it" in verdict.sentence

    (cluster.folder.parent / "bad").unlink()
    cluster.run(["scontrol", "update", "NodeName=node1", "State=RESUME"])
    cluster.run(verdict.command.split())
    cluster.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)
    assert cluster.wait(job) == "COMPLETED"


def test_ranks_whose_node_failed_in_the_prolog(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    """The batch script's own node is fine."""
    (cluster.folder.parent / "bad").write_text("node2")
    job = submitted(cluster, bertjobs, speeches_data, tmp_path, "--nodes", 2, "--sbatch", "nodelist=node[1-2]")
    wait_until(lambda: verdict_on(cluster, tmp_path).command == f"scontrol release {job}")
    verdict = verdict_on(cluster, tmp_path)
    assert verdict.cause is Standing.QUEUED, verdict
    before = "its last attempt: not launched: the ranks could not be started on node node2: the site's prolog failed"
    assert any(line.startswith(before) for line in verdict.evidence), verdict


def test_nodes_reserved_for_maintenance(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    reservation = ["ReservationName=works", "StartTime=now+10minutes", "Duration=60", "Users=root", "Nodes=ALL"]
    cluster.run(["scontrol", "create", "reservation", *reservation, "Flags=MAINT"])
    try:
        job = submitted(cluster, bertjobs, speeches_data, tmp_path, "--time", "60")
        wait_until(lambda: "aint" in cluster.run(["squeue", "-ho", "%r", "-j", job]).stdout)
        verdict = verdict_on(cluster, tmp_path)
        assert verdict.cause is Standing.QUEUED, verdict
        assert "reserved for maintenance: a shorter --time may fit before it" in verdict.sentence
        assert verdict.command == "scontrol show reservation"
    finally:
        cluster.run(["scontrol", "delete", "ReservationName=works"])


def test_a_python_that_is_missing_on_the_nodes(
    cluster: Cluster, bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    job = submitted(cluster, bertjobs, speeches_data, tmp_path, "--sbatch", "hold")
    cluster.run(["scancel", job])
    cluster.wait(job)
    script = RunDirectory(tmp_path / "results" / RUN).phase(1).script
    lines = script.read_text().splitlines(keepends=True)
    (python,) = [line.partition("=")[2].strip() for line in lines if line.startswith("export BERTJOBS_PYTHON=")]
    again = [line for line in lines if "--hold" not in line]
    text = "".join(again).replace(
        f"export BERTJOBS_PYTHON={python}", f"export BERTJOBS_PYTHON=/opt/gone/python BERTJOBS_LINK={python}"
    )
    script.write_text(text)
    job = str(cluster.submit([script], cwd=tmp_path))
    assert cluster.wait(job) == "FAILED"
    verdict = verdict_on(cluster, tmp_path)
    assert verdict.cause is Cause.LAUNCH, verdict
    assert "cannot start /opt/gone/python: no such file or directory" in verdict.sentence
    assert verdict.command.startswith("srun -N1 ")
    assert verdict.command.endswith("ls -l /opt/gone/python")
