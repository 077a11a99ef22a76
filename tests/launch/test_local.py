"""`bertjobs submit` on this machine: worker processes over gloo, a live line, stop and resume."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertjobs.launch.local import label, labelled_log, rank_environment, tail
from bertjobs.launch.start import start_here, write_run
from bertjobs.launch.watch.progress import ProgressView
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.checkpoints import last_written
from bertjobs.run.directory import PhaseDirectory, RunDirectory
from tests.conftest import Bertjobs, wait_until

SmallRun = Callable[..., RunSpec]
TWO_RANKS = ("submit", "--backend", "local", "--recipe", "laptop-scratch", "--model", "bert-nano", "--nodes", "2")


def test_both_phases_run_here_and_end_with_a_report_in_which_there_are_no_secrets(
    bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    secret = "hf_4f9a_do_not_write_me"
    done = bertjobs(*TWO_RANKS, "--data", speeches_data, environ={"HF_TOKEN": secret})
    assert done.returncode == 0, done.stdout + done.stderr
    assert secret not in done.stdout + done.stderr
    files = [file for file in (tmp_path / "results").rglob("*") if file.is_file()]
    assert [file for file in files if secret.encode() in file.read_bytes()] == []
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    assert directory.phase(1).done().step == 20
    assert directory.phase(2).done().step == 5
    assert "this machine: 2 nodes x 1 task = 2 ranks; CPU; fp32" in done.stdout
    assert "phase 1 [####################] step 20/20  loss" in done.stdout
    assert "phase 2 [####################] step 5/5  loss" in done.stdout
    assert "report.html" in done.stdout
    assert directory.report.exists()
    assert directory.root.stat().st_mode & 0o777 == 0o700
    (log,) = directory.phase(1).logs.iterdir()
    lines = log.read_text().splitlines()
    assert any(line.startswith("0: phase 1 is done") for line in lines)
    assert all(re.match(r"[01]: ", line) for line in lines), lines
    version = json.loads((directory.source / "version.json").read_text())
    assert version["bertjobs"]
    again = bertjobs("resume", "laptop-scratch")
    assert again.returncode == 64
    assert "is done: nothing to resume" in again.stderr


@pytest.mark.slow
def test_phase_2_can_be_submitted_after_phase_1(bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path) -> None:
    short = ("--set", "phase1.steps=2", "--set", "phase2.steps=2")
    for phase in (1, 2):
        done = bertjobs(*TWO_RANKS, "--data", speeches_data, *short, "--phase", phase)
        assert done.returncode == 0, done.stdout + done.stderr
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    assert directory.phase(2).done().step == 2
    again = bertjobs(*TWO_RANKS, "--data", speeches_data, "--phase", 2)
    assert again.returncode == 64
    assert "a run named 'laptop-scratch' exists" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_run_writes_a_checkpoint_and_is_resumed(
    bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path, unhurried: dict[str, str], number: signal.Signals
) -> None:
    words = (*TWO_RANKS, "--data", str(speeches_data), "--phase", "1", "--set", "phase1.steps=100000")
    command = [sys.executable, "-m", "bertjobs", *words]
    environ = {**os.environ, **unhurried, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environ)
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    wait_until(directory.phase(1).metrics.exists)
    (row,) = json.loads(bertjobs("status", "--json").stdout)
    assert row["state"] == "RUNNING"
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 75, output
    assert "continue with: bertjobs resume" in output
    (row,) = json.loads(bertjobs("status", "--json").stdout)
    assert row["state"] == "STOPPED"
    assert row["checkpoint"]

    before = steps_of(directory)
    done = bertjobs("resume", "laptop-scratch", "--backend", "local", "--set", "steps_this_run=3")
    assert done.returncode == 75, done.stdout + done.stderr
    assert steps_of(directory) == list(range(1, len(before) + 4))


def test_a_run_goes_back_to_an_earlier_checkpoint_and_ends_as_it_would_have(
    bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path
) -> None:
    def files() -> list[str]:
        return sorted(folder.name for folder in phase.checkpoints.iterdir())

    words = (*TWO_RANKS, "--data", speeches_data, "--phase", 1, "--set", "phase1.steps=8",
             "--set", "phase1.checkpoint_every=2")  # fmt: skip
    done = bertjobs(*words, "--run", "whole")
    assert done.returncode == 0, done.stderr
    stopped = bertjobs(*words, "--run", "back", "--steps-this-run", 6)
    assert stopped.returncode == 75, stopped.stderr
    whole, back = (RunDirectory(tmp_path / "results" / name) for name in ("whole", "back"))
    phase = back.phase(1)
    assert files() == [f"step-{step:08d}" for step in (2, 4, 6)]

    resume = ("resume", "back", "--backend", "local", "--set", "steps_this_run=0")
    for step, message in ((3, "phase 1 has no checkpoint of step 3"), ("x", "'x' is not a whole number")):
        refused = bertjobs(*resume, "--from-step", step)
        assert refused.returncode == 64
        assert message in refused.stderr
    assert "it has those of 2, 4, 6" in bertjobs(*resume, "--from-step", 3).stderr
    for more, code in (("--dry-run",), 0), (("--set", "phase1.lr=1"), 64):
        assert bertjobs(*resume, "--from-step", 2, *more).returncode == code
        assert files() == [f"step-{step:08d}" for step in (2, 4, 6)]
    again = bertjobs(*resume, "--from-step", 2)
    assert again.returncode == 0, again.stderr
    assert "kept as set-aside-step-00000004, set-aside-step-00000006" in again.stdout
    assert "checkpoints/step-00000002 (step 2)" in newest_log(phase)
    assert steps_of(back) == list(range(1, 9))
    weights = [directory.phase(1).checkpoints / "step-00000008" / "model.safetensors" for directory in (whole, back)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def newest_log(phase: PhaseDirectory) -> str:
    return max(phase.logs.iterdir(), key=lambda file: file.stat().st_mtime_ns).read_text()


def steps_of(directory: RunDirectory) -> list[int]:
    return [json.loads(line)["step"] for line in directory.phase(1).metrics.read_text().splitlines()]


def test_ranks_stop_with_a_checkpoint_when_their_launcher_is_killed(
    bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path, unhurried: dict[str, str]
) -> None:
    words = (*TWO_RANKS, "--data", str(speeches_data), "--phase", "1", "--set", "phase1.steps=100000")
    command, environ = [sys.executable, "-m", "bertjobs", *words], {**os.environ, **unhurried}
    process = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.DEVNULL)
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
    assert "a CPU does not support tf32" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_labels_are_those_of_srun() -> None:
    assert (label(3, 8), label(3, 11), label(10, 11), label(7, 1000)) == ("3: ", " 3: ", "10: ", "  7: ")


def test_lines_of_all_ranks_are_kept_whole_whatever_they_hold(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"0: earlier\n")
    with labelled_log(log, 2) as pipes:
        code = "import os, sys\nfor _ in range(500): os.write(1, sys.argv[1].encode() + b' \\xff & /{}\\n')"
        command = [sys.executable, "-c", code]
        writers = [subprocess.Popen([*command, str(rank)], stdout=pipe) for rank, pipe in enumerate(pipes)]
        assert [writer.wait() for writer in writers] == [0, 0]
    lines = log.read_bytes().splitlines()
    assert lines[0] == b"0: earlier"
    assert sorted(lines[1:]) == [b"0: 0 \xff & /{}"] * 500 + [b"1: 1 \xff & /{}"] * 500


@pytest.fixture
def small_run(speeches_data: Path, tmp_path: Path) -> SmallRun:
    """Phase 1 of a run on two ranks, its directory written."""

    def write(**flags: Any) -> RunSpec:
        flags = {
            "recipe": "laptop-scratch",
            "nodes": 2,
            "data": str(speeches_data),
            "phase": 1,
            "model": "bert-nano",
            **flags,
        }
        flags |= {"results": str(tmp_path / "results"), "run": "here"}
        spec = resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec
        write_run(spec)
        return spec

    return write


def processes_of(command: str, environ: str) -> list[int]:
    """Processes whose command line and environment hold these words, oldest first."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + b"\0" + (process / "environ").read_bytes()
        except OSError:
            continue
        if command.encode() in words and environ.encode() in words:
            pids.append(int(process.name))
    return sorted(pids)


def test_a_run_that_crashes_after_a_checkpoint_is_restarted_within_its_budget(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed rank 0 writes no end; with a budget of one restart, the second crash is the last."""
    monkeypatch.chdir(Path(sys.prefix))
    spec = replace(small_run(steps=100_000), restarts_crashed=1)
    spec = replace(spec, phases=(replace(spec.phases[0], checkpoint_every=2),))
    directory = write_run(spec)
    out = io.StringIO()
    struck: set[str] = set()

    def kill(_: ProgressView) -> None:
        newest = last_written(directory.phase(1).checkpoints)
        begun = sum(event["event"] == "started" for event in directory.events())
        if begun > len(struck) and newest and newest not in struck:
            struck.add(newest)
            os.kill(processes_of("bertjobs.train", f"RESULTS={spec.results}\0")[0], signal.SIGKILL)

    monkeypatch.setattr(ProgressView, "update", kill)
    assert start_here(spec, os.environ, out) == 70
    ends = [(event["attempt"], event["cause"]) for event in directory.events() if event["event"] == "ended"]
    assert ends == [(0, "crashed"), (1, "crashed")]
    assert out.getvalue().count("restarting phase 1 from step-") == 1
    assert len(list(directory.phase(1).logs.iterdir())) == 2


def test_ranks_share_the_cores_that_they_may_use_unless_the_shell_says_how_many_threads(
    small_run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_run()
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))

    def threads(environ: dict[str, str]) -> str:
        return rank_environment(environ, spec, 1, 0, port=1, job="local-1")["OMP_NUM_THREADS"]

    assert threads({}) == threads({"OMP_NUM_THREADS": ""}) == "3"
    assert threads({"OMP_NUM_THREADS": "1"}) == "1"


def test_a_log_s_last_lines_are_shown_after_the_name_of_the_crash_that_they_belong_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stacks = [f"1:   File thread.py, line {number}" for number in range(30)]
    log.write_text("\n".join(["1: step 1", "1: Fatal Python error: Bus error", *stacks]))
    assert tail(log).splitlines() == [f"  | {line}" for line in ("1: Fatal Python error: Bus error", *stacks[-12:])]
    log.write_text("0: step 1\n0: step\x1b[2J 2\n")
    assert tail(log) == "  | 0: step 1\n  | 0: step\\x1b[2J 2\n"
