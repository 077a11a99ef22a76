"""The cluster that the other tests rely on behaves like a real one, and leaves no trace."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cluster import slurm
from tests.cluster.slurm import GPUS_PER_NODE, Cluster, ClusterError, scrubbed
from tests.conftest import wait_until

ROOT = Path(__file__).parents[2]


def script(folder: Path, *lines: str) -> Path:
    path = folder / "job.sh"
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    return path


def processes_of(folder: Path) -> list[str]:
    """The command lines that name a folder, and the processes that work in it."""
    lines = []
    for entry in Path("/proc").glob("[1-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if line and int(entry.name) != os.getpid():
                inside = (entry / "cwd").readlink().is_relative_to(folder)
                lines += [f"{entry.name} {line}"] if inside or str(folder) in line else []
        except OSError:
            continue
    return lines


def test_clusters_have_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "PLACES", 4)
    monkeypatch.setattr(slurm, "_ports", lambda place: range(9_000 + 7 * place, 9_007 + 7 * place))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 9_009))  # of the second place
        claims = [slurm._claim_place() for _ in range(3)]
        assert sorted(place for _, place in claims) == [0, 2, 3]
        with pytest.raises(ClusterError, match="9000 to 9027"):
            slurm._claim_place()
    claims.pop()[0].close()
    claims.append(slurm._claim_place())
    assert len({place for _, place in claims}) == 3
    for claim, _ in claims:
        claim.close()


def test_jobs_of_different_clusters_meet_on_different_ports() -> None:
    meeting = {place: 20_000 + slurm._first_job(place) % 12_000 for place in range(slurm.PLACES)}
    assert sorted(meeting.values()) == list(range(20_001, 32_001, 120))
    assert max(slurm._ports(slurm.PLACES - 1)) < 20_000


def test_sixteen_tasks_run_on_two_nodes_and_accounting_says_completed(cluster: Cluster, tmp_path: Path) -> None:
    job = script(tmp_path, "srun bash -c 'echo \"$SLURM_PROCID $SLURMD_NODENAME\"' > ranks")
    job_id = cluster.submit(["-N2", "--ntasks-per-node=8", job], cwd=tmp_path)
    assert cluster.wait(job_id) == "COMPLETED"
    ranks = sorted((tmp_path / "ranks").read_text().splitlines(), key=lambda line: int(line.split()[0]))
    assert ranks == [f"{rank} node{1 + rank // 8}" for rank in range(16)]


def test_accounting_says_how_a_failed_and_a_cancelled_job_ended(cluster: Cluster, tmp_path: Path) -> None:
    failing = cluster.submit([script(tmp_path, "exit 64")], cwd=tmp_path)
    assert cluster.wait(failing) == "FAILED"
    done = cluster.run(["sacct", "-nXP", "-o", "ExitCode", "-j", str(failing)])
    assert done.stdout.strip() == "64:0"
    endless = cluster.submit([script(tmp_path, "srun sleep 600")], cwd=tmp_path)
    cluster.wait_queue(endless, "RUNNING")
    cluster.run(["scancel", str(endless)])
    assert cluster.wait(endless) == "CANCELLED"


def test_gpus_are_allocated_and_counted_by_accounting(cluster: Cluster, tmp_path: Path) -> None:
    job = script(tmp_path, "srun --ntasks-per-node=1 bash -c 'echo \"$CUDA_VISIBLE_DEVICES\"' > gpus")
    job_id = cluster.submit(["-N2", f"--gpus-per-node={GPUS_PER_NODE}", job], cwd=tmp_path)
    assert cluster.wait(job_id) == "COMPLETED"
    assert (tmp_path / "gpus").read_text().split() == ["0,1,2,3,4,5,6,7"] * 2
    ((tres,),) = cluster.accounted(job_id, "AllocTRES")
    assert "gres/gpu=16" in tres.split(",")
    with pytest.raises(ClusterError, match="not available"):
        cluster.submit([f"--gpus-per-node={GPUS_PER_NODE + 1}", job], cwd=tmp_path)


def test_an_urgent_job_preempts_a_batch_job_which_starts_again(cluster: Cluster, tmp_path: Path) -> None:
    task = (  # the first that exits ends the others: each waits until all have been heard of
        "trap 'trap : TERM; echo TERM on $SLURMD_NODENAME >> seen; sleep 5; exit 75' TERM;"
        "touch started.$SLURM_PROCID; while true; do sleep 0.1; done"
    )
    job = script(
        tmp_path,
        'if [ "${SLURM_RESTART_COUNT:-0}" = 1 ]; then exit 0; fi',
        f'srun --kill-on-bad-exit=1 --wait=60 bash -c "{task.replace("$", chr(92) + "$")}"',
        "sleep 600",
    )
    batch = cluster.submit(["-N4", "--exclusive", "--ntasks-per-node=1", job], cwd=tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("started.*"))) == 4)
    urgent = cluster.submit(["-p", "urgent", "-N4", "--exclusive", "--wrap", "true"], cwd=tmp_path)
    assert cluster.wait(urgent) == "COMPLETED"
    assert sorted(set((tmp_path / "seen").read_text().splitlines())) == [f"TERM on node{n}" for n in (1, 2, 3, 4)]
    assert cluster.wait(batch) == "COMPLETED"
    record = cluster.run(["sacct", "-DnXP", "-o", "State", "-j", str(batch)]).stdout.split()
    assert record == ["PREEMPTED", "COMPLETED"]


def test_the_warning_signal_before_the_time_limit_reaches_the_tasks(cluster: Cluster, tmp_path: Path) -> None:
    task = "trap 'echo got USR2 >> seen; exit 75' USR2; while true; do sleep 0.1; done"
    job = script(tmp_path, f'srun bash -c "{task}"')
    job_id = cluster.submit(["-N1", "-n2", "--time=1", "--signal=USR2@55", job], cwd=tmp_path)
    assert cluster.wait(job_id) == "FAILED"
    assert (tmp_path / "seen").read_text().splitlines() == ["got USR2"] * 2
    done = cluster.run(["sacct", "-nXP", "-o", "ExitCode", "-j", str(job_id)])
    assert done.stdout.strip() == "75:0"


def test_waiting_too_long_shows_the_controllers_log(cluster: Cluster, tmp_path: Path) -> None:
    job_id = cluster.submit([script(tmp_path, "sleep 600")], cwd=tmp_path)
    with pytest.raises(ClusterError, match=rf"job {job_id} did not reach a final state(.|\n)*slurmctld\.log"):
        cluster.wait(job_id, timeout=1)


def test_variables_of_a_surrounding_job_do_not_reach_a_submitted_one() -> None:
    inherited = {"SLURM_CPU_BIND": "mask", "SBATCH_PARTITION": "x", "PMIX_RANK": "3", "PATH": "/bin", "HOME": "/"}
    assert scrubbed(inherited) == {"PATH": "/bin:/usr/sbin:/sbin", "HOME": "/"}


def test_a_second_cluster_by_hand_beside_the_first_leaves_no_trace(cluster: Cluster) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bertjobs-slurm-", dir="/tmp"))
    with tempfile.NamedTemporaryFile(prefix="#sql-of-another-server-", suffix=".MAI", dir="/tmp") as neighbours:
        _a_cluster_by_hand(cluster, folder)
        assert Path(neighbours.name).exists()  # a database that shared its temporary folder would have deleted it
    assert not folder.exists()
    assert [line for line in processes_of(folder) if not re.search("defunct", line)] == []


def _a_cluster_by_hand(cluster: Cluster, folder: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "cluster")]
    subprocess.run([*command, "up", str(folder)], check=True, timeout=300)
    try:
        asked = 'eval "$("$0" "$1" env "$2")" && sbatch --parsable -N4 --wrap "srun setsid -f sleep 600; sleep 600"'
        typed = subprocess.run(
            ["bash", "-c", asked, *command, str(folder)], cwd=folder, check=True, text=True, capture_output=True
        )
        second = Cluster.open(folder)
        second.wait_queue(typed.stdout.strip(), "RUNNING")
        wait_until(lambda: any("sleep 600" in line for line in processes_of(folder)))
        assert cluster.run(["squeue", "-h"]).stdout == ""
    finally:
        subprocess.run([*command, "down", str(folder)], check=True, timeout=300)


def test_no_daemon_outlives_a_killed_test_run() -> None:
    folder = Path(tempfile.mkdtemp(prefix="bertjobs-slurm-", dir="/tmp"))
    boot = (
        "import sys, os, signal, pathlib; from tests.cluster.slurm import Cluster;"
        "Cluster.boot(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", boot, str(folder)], cwd=ROOT, timeout=300)
    assert done.returncode == -9
    assert (folder / "run" / "processes").exists()
    try:
        wait_until(lambda: processes_of(folder) == [])
    finally:
        Cluster.open(folder).stop()
        subprocess.run(["rm", "-r", str(folder)], check=True)
