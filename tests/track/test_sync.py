"""The command around the trackers: what is missing, who comes second, when following ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bertjobs.errors import BertjobsError
from bertjobs.launch.watch.status import RunStatus, read_run, status_of
from bertjobs.launch.watch.timeline import Link
from bertjobs.slurm.jobs import JobReport
from bertjobs.track import sync as sync_module
from bertjobs.track.sync import Mirror, follow, has_ended, mirrored
from bertjobs.track.tracker import TrackerError, tracker_errors, without_secrets
from tests.conftest import Bertjobs
from tests.track.conftest import WrittenRun


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
@pytest.mark.usefixtures("run")
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(
    tracker: str, bertjobs: Bertjobs, tmp_path: Path
) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / f"{tracker}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{tracker}'\")\n")
    done = bertjobs("sync", "tracked", "--to", tracker, environ={"PYTHONPATH": str(absent)})
    assert done.returncode == 64
    assert f"{tracker} is not installed here" in done.stderr
    assert f"pip install 'bertjobs[{tracker}]'" in done.stderr


@pytest.mark.usefixtures("run")
def test_an_unknown_tracker_and_an_odd_interval_are_refused(bertjobs: Bertjobs) -> None:
    assert bertjobs("sync", "tracked", "--to", "comet").returncode == 64
    done = bertjobs("sync", "tracked", "--to", "tensorboard", "--follow", "--every", "0.5")
    assert done.returncode == 64
    assert "0.5 is not a number of seconds" in done.stderr


def test_of_two_at_once_the_second_leaves(run: WrittenRun) -> None:
    with (
        mirrored(run.directory, "tensorboard", {}),
        pytest.raises(BertjobsError, match="another process is syncing this run to tensorboard"),
        mirrored(run.directory, "tensorboard", {}),
    ):
        pass


def test_what_a_client_raises_is_one_of_our_errors_without_secrets() -> None:
    environ = {"MLFLOW_TRACKING_TOKEN": "t0ken"}
    with pytest.raises(TrackerError) as caught, tracker_errors("mlflow", "mine", environ):
        raise ValueError("no: http://me:pass@host/x?key=t0ken\nmore")
    assert caught.value.what == "mlflow rejected run 'mine': no: http://host/x?key=$MLFLOW_TRACKING_TOKEN"
    assert "t0ken" not in caught.value.render()
    assert caught.value.__cause__ is None
    assert without_secrets("plain", {}) == "plain"


def status(run: WrittenRun, *links: Link, silence: str = "") -> RunStatus:
    return replace(status_of(read_run(run.directory), JobReport(), 0.0), links=links, silence=silence)


def test_a_run_has_ended_when_it_is_done_or_nothing_can_continue_it(run: WrittenRun) -> None:
    running, failed, unknown = (Link("7", "slurm", 1, state=state) for state in ("RUNNING", "FAILED", "UNKNOWN"))
    assert not has_ended(status(run)), "nothing was queued yet"
    assert not has_ended(status(run, running))
    assert not has_ended(status(run, failed, running))
    assert has_ended(status(run, failed))
    assert not has_ended(status(run, unknown)), "there is no Slurm here: only the run's folder knows"
    assert not has_ended(status(run, failed, silence="squeue: timed out"))
    run.finish()
    assert has_ended(status(run, unknown))


class Flaky:
    """A tracker that fails at its first call."""

    place = "nowhere"

    def __init__(self) -> None:
        self.calls = 0

    def add(self, replay: Any) -> int:
        self.calls += 1
        if self.calls == 1:
            raise OSError("network is unreachable")
        return len(replay.points)

    def close(self) -> None:
        raise AssertionError("not by follow")


def test_following_survives_a_network_that_is_away(run: WrittenRun) -> None:
    run.start(1, 0)
    run.steps(1, 1, 10)
    run.checkpoint(1, 10)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            run.steps(1, 11, 60)
            run.done(1, 60)
            run.steps(2, 1, 20)
            run.done(2, 20)

    mirror = Mirror(run.directory, "flaky", Flaky(), {})
    looked = list(
        follow([mirror], lambda all: [status_of(read_run(one), JobReport(), 0.0) for one in all], 30.0, sleep)
    )
    assert [(one.added, one.problem is None) for (one,) in looked] == [(0, False), (10, True), (80, True)]
    assert slept == [30.0, 30.0]


def test_what_a_run_writes_before_it_ends_is_not_missed(run: WrittenRun) -> None:
    """It ends between the question whether it has ended and the look at its files, or the other way round."""
    run.finish()
    seen: list[str] = []

    def look(directories: Any) -> list[RunStatus]:
        seen.append("asked")
        return [status(run) for _ in directories]

    mirror = SimpleNamespace(directory=run.directory, sync=lambda: seen.append("synced"))
    list(follow([mirror], look, 1.0, lambda _: None))  # type: ignore[list-item]
    assert seen == ["asked", "synced"]
    assert sync_module.has_ended(status(run))


def test_of_all_runs_one_that_is_taken_does_not_stop_the_others(
    run: WrittenRun, bertjobs: Bertjobs, tmp_path: Path
) -> None:
    run.finish()
    other = WrittenRun(tmp_path / "results", "other")
    with mirrored(other.directory, "tensorboard", {}):
        done = bertjobs("sync", "--all", "--to", "tensorboard")
    assert done.returncode == 70
    assert "another process is syncing this run to tensorboard" in done.stderr
    assert "tracked: 80 steps sent" in done.stdout


def test_a_run_that_cannot_be_read_costs_its_own_row(run: WrittenRun, bertjobs: Bertjobs, tmp_path: Path) -> None:
    run.finish()
    WrittenRun(tmp_path / "results", "broken").directory.lockfile.write_text("recipes: [")
    alone = bertjobs("sync", "broken", "--to", "tensorboard")
    assert alone.returncode == 64
    done = bertjobs("sync", "--all", "--to", "tensorboard")
    assert done.returncode == 70
    assert "tracked: 80 steps sent" in done.stdout
