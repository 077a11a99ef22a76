"""TensorBoard: what its own reader finds, over restarts of the run and of the sync."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertjobs.track.replay import read_replay
from bertjobs.track.sync import mirrored
from tests.conftest import Bertjobs
from tests.track.conftest import WrittenRun


def shown(run: WrittenRun, tag: str = "train/loss_nats") -> list[tuple[int, float]]:
    """Steps and values of a scalar, as TensorBoard reads the folder."""
    folder = run.directory.root / "tracking" / "tensorboard"
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return [(event.step, round(event.value, 4)) for event in reader.Scalars(tag)]


def expected(run: WrittenRun, tag: str = "train/loss_nats") -> list[tuple[int, float]]:
    points = read_replay(run.directory).points
    return [(point.step, round(point.values[tag], 4)) for point in points if tag in point.values]


def test_each_look_adds_what_is_new(run: WrittenRun) -> None:
    run.start(1, 0)
    run.steps(1, 1, 30)
    run.checkpoint(1, 20)
    with mirrored(run.directory, "tensorboard", {}) as mirror:
        assert mirror.sync().added == 20
        run.start(1, 20)  # steps 21 to 30 were undone
        run.steps(1, 21, 40)
        run.validate(1, 40)
        run.checkpoint(1, 40)
        assert mirror.sync().added == 20
        assert mirror.sync().added == 0
    with mirrored(run.directory, "tensorboard", {}) as again:
        assert again.sync().added == 0
    assert shown(run) == expected(run)
    assert [step for step, _ in shown(run)] == list(range(1, 41))
    assert shown(run, "held_out/mlm_loss_nats") == [(40, 5.0)]


def test_a_sync_that_is_killed_leaves_no_gap_and_no_double_step(run: WrittenRun, tmp_path: Path) -> None:
    run.finish()
    folder = run.directory.root / "tracking" / "tensorboard"
    words = [
        sys.executable,
        "-m",
        "bertjobs",
        "sync",
        "tracked",
        "--to",
        "tensorboard",
        "--results",
        tmp_path / "results",
    ]
    process = subprocess.Popen([str(word) for word in words], cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and not any(folder.glob(".tmp-*/events*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with mirrored(run.directory, "tensorboard", {}) as mirror:
        mirror.sync()
    assert [step for step, _ in shown(run)] == list(range(1, 81))
    assert not list(folder.glob(".tmp-*"))


def test_the_command_says_what_it_sent_and_where(run: WrittenRun, bertjobs: Bertjobs, tmp_path: Path) -> None:
    run.finish()
    other = WrittenRun(tmp_path / "results", "other")
    first = bertjobs("sync", "tracked", "--to", "tensorboard")
    assert first.returncode == 0, first.stderr
    place = run.directory.root / "tracking" / "tensorboard"
    assert first.stdout == f"tracked: 80 steps sent, tensorboard has 80 ({place})\n"
    both = bertjobs("sync", "--all", "--to", "tensorboard", "--json")
    told = {line["run"]: (line["added"], line["last_step"], line["problem"]) for line in json.loads(both.stdout)}
    assert told == {"tracked": (0, 80, None), "other": (0, 0, None)}
    assert not list((other.directory.root / "tracking" / "tensorboard").glob("events*"))


@pytest.mark.parametrize("arguments", [("--to", "tensorboard"), ("tracked", "--all", "--to", "tensorboard")])
@pytest.mark.usefixtures("run")
def test_one_run_or_all(bertjobs: Bertjobs, arguments: tuple[str, ...]) -> None:
    done = bertjobs("sync", *arguments)
    assert done.returncode == 64
    assert "name a run, or give --all" in done.stderr
