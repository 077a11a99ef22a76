"""`bertjobs submit` on this machine: worker processes over gloo, a live line, stop and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bertjobs.run.directory import RunDirectory
from tests.conftest import Bertjobs, wait_until

TWO_RANKS = ("submit", "--backend", "local", "--recipe", "laptop-scratch", "--nodes", "2")


def test_both_phases_run_here_and_end_with_a_report(bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path) -> None:
    done = bertjobs(*TWO_RANKS, "--data", speeches_data)
    assert done.returncode == 0, done.stdout + done.stderr
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    assert directory.phase(1).done().step == 20
    assert directory.phase(2).done().step == 5
    assert "this machine: 2 nodes x 1 task = 2 ranks; CPU; fp32" in done.stdout
    assert "phase 1 [####################] step 20/20  loss" in done.stdout
    assert "phase 2 [####################] step 5/5  loss" in done.stdout
    assert "report.html" in done.stdout
    assert directory.report.exists()
    assert directory.root.stat().st_mode & 0o777 == 0o700
    version = json.loads((directory.source / "version.json").read_text())
    assert version["bertjobs"]
    again = bertjobs("resume", "laptop-scratch")
    assert again.returncode == 64
    assert "is done: nothing to resume" in again.stderr


def test_phase_2_can_be_submitted_after_phase_1(bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path) -> None:
    for phase in (1, 2):
        done = bertjobs(*TWO_RANKS, "--data", speeches_data, "--phase", phase)
        assert done.returncode == 0, done.stdout + done.stderr
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    assert directory.phase(2).done().step == 5
    again = bertjobs(*TWO_RANKS, "--data", speeches_data, "--phase", 2)
    assert again.returncode == 64
    assert "a run named 'laptop-scratch' exists" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_writes_a_checkpoint_and_is_resumed(
    bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    words = (*TWO_RANKS, "--data", str(speeches_data), "--phase", "1", "--set", "phase1.steps=60")
    command = [sys.executable, "-m", "bertjobs", *words]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environ)
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    wait_until(directory.phase(1).metrics.exists)
    (row,) = json.loads(bertjobs("status", "--json").stdout)
    assert row["state"] in ("RUNNING", "DONE")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert "continue with: bertjobs resume" in output
    (row,) = json.loads(bertjobs("status", "--json").stdout)
    assert row["state"] == "STOPPED"
    assert row["checkpoint"]

    done = bertjobs("resume", "laptop-scratch", "--backend", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert directory.phase(1).done().step == 60
    steps = [json.loads(line)["step"] for line in directory.phase(1).metrics.read_text().splitlines()]
    assert steps == list(range(1, 61))


def test_ranks_stop_with_a_checkpoint_when_their_launcher_is_killed(
    bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    words = (*TWO_RANKS, "--data", str(speeches_data), "--phase", "1", "--set", "phase1.steps=100000")
    process = subprocess.Popen([sys.executable, "-m", "bertjobs", *words], cwd=tmp_path, stdout=subprocess.DEVNULL)
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    wait_until(directory.phase(1).metrics.exists)
    process.kill()
    process.wait()
    wait_until(lambda: any(event["event"] == "ended" for event in directory.events()))
    (row,) = json.loads(bertjobs("status", "--json").stdout)
    assert row["state"] == "STOPPED"
    assert row["checkpoint"]


def test_a_worker_that_fails_shows_the_end_of_its_log(bertjobs: Bertjobs, speeches_data: Path) -> None:
    done = bertjobs(*TWO_RANKS, "--data", speeches_data, "--precision", "tf32")
    assert done.returncode == 64
    assert "a CPU has no tf32" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_secrets_of_the_environment_are_written_nowhere(
    bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    secret = "hf_4f9a_do_not_write_me"
    done = bertjobs(
        *TWO_RANKS, "--data", speeches_data, "--phase", 1, "--set", "phase1.steps=1", environ={"HF_TOKEN": secret}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert secret not in done.stdout + done.stderr
    for file in (tmp_path / "results").rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file
