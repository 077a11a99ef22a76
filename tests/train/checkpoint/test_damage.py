"""Checkpoints that are damaged, missing or not yet written."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable

import pytest

from bertjobs.launch.doctor.diagnose import diagnose
from bertjobs.launch.doctor.evidence import collect
from bertjobs.run.checkpoints import MANIFEST, steps, verify
from bertjobs.slurm.client import Slurm
from tests.train.conftest import Ended, Trial, files_of_at_most, truncate

FILES = ["model.safetensors", "training_state-00000-of-00001.safetensors", "training_state.json", "vocab.txt", MANIFEST]


def assert_refused(end: Ended, *words: str) -> None:
    assert end.code == 64, end
    for word in words:
        assert word in end.err
    assert end.err.count("error:") == 1
    assert "Traceback" not in end.err


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_checkpoint_is_skipped(
    stopped: Trial, alone: Callable[..., Ended], phase_one_done: Trial, file: str
) -> None:
    truncate(stopped.phase(1).checkpoints / "step-00000025" / file)
    end = alone(stopped, 1)
    assert end.code == 0, end
    started = [event for event in stopped.directory.events() if event["event"] == "started"]
    assert started[-1]["damaged_step"] == 25
    assert re.search(r"warning: skipping \S*step-00000025: ", end.out)
    assert "(step 20)" in end.out
    assert stopped.weights(1) == phase_one_done.weights(1)
    assert [line["step"] for line in stopped.metrics(1)] == list(range(1, 31))


def test_without_a_whole_checkpoint_the_phase_is_refused(stopped: Trial, alone: Callable[..., Ended]) -> None:
    folders = steps(stopped.phase(1).checkpoints)
    for folder in folders:
        truncate(folder / "model.safetensors")
    assert_refused(alone(stopped, 1), "all checkpoints of phase 1 are damaged")
    assert steps(stopped.phase(1).checkpoints) == folders
    assert stopped.directory.events()[-1]["cause"] == "bad input"


def test_a_phase_starts_over_where_no_more_than_one_interval_of_checkpoints_is_lost(
    trial: Trial, alone: Callable[..., Ended], phase_one_done: Trial
) -> None:
    assert alone(trial.having(STEPS_THIS_RUN=7), 1).code == 75
    truncate(trial.phase(1).checkpoints / "step-00000007" / "model.safetensors")
    end = alone(trial.having(STEPS_THIS_RUN=12), 1)
    assert end.code == 75, end
    assert "warning: phase 1 starts over: all its checkpoints are damaged, the newest of step 7" in end.out
    started = [event for event in trial.directory.events() if event["event"] == "started"]
    assert [(event["step"], event.get("damaged_step")) for event in started] == [(0, None), (0, 7)]
    verdict = diagnose(collect(trial.directory, Slurm({}), "trial", time.time()))
    assert any("started the phase over: the newest checkpoint, of step 7, was damaged" in line
               for line in verdict.evidence)  # fmt: skip

    assert alone(trial, 1).code == 0
    assert [line["step"] for line in trial.metrics(1)] == list(range(1, 31))
    assert trial.weights(1) == phase_one_done.weights(1)


def test_a_checkpoint_of_a_later_version_is_not_skipped(stopped: Trial, alone: Callable[..., Ended]) -> None:
    path = stopped.phase(1).checkpoints / "step-00000025" / MANIFEST
    path.write_text(json.dumps({"format_version": 99, "something": "new"}))
    assert_refused(alone(stopped, 1), "format 99 is newer", "update bertjobs")


def test_phase_2_refuses_a_truncated_last_checkpoint_of_phase_1(done: Trial, alone: Callable[..., Ended]) -> None:
    truncate(done.phase(1).checkpoints / "step-00000030" / "model.safetensors")
    assert_refused(alone(done, 2), "model.safetensors has", "the checkpoint is truncated", "step-00000030")
    assert not done.phase(2).root.exists()


def test_phase_2_refuses_another_checkpoint_than_phase_1_ended_with(done: Trial, alone: Callable[..., Ended]) -> None:
    last = done.phase(1).checkpoints / "step-00000030"
    shutil.rmtree(last)
    shutil.copytree(done.phase(1).checkpoints / "step-00000025", last)
    assert_refused(alone(done, 2), "not the one that DONE.json names")


def test_phase_2_before_phase_1_is_done(stopped: Trial, alone: Callable[..., Ended]) -> None:
    lockfile = stopped.directory.lockfile.read_text()
    assert_refused(alone(stopped, 2), "phase 2 starts from phase 1, which is not done", "--dependency=afterany")
    assert stopped.directory.lockfile.read_text() == lockfile
    assert not stopped.phase(2).root.exists()


def test_phase_2_of_a_run_that_does_not_exist_on_two_ranks(trial: Trial) -> None:
    first, second = trial.run(2, 2)
    assert_refused(first, "phase 2 starts from phase 1, which is not done")
    # Not 64 too, and no message twice: the run's exit code is rank 0's.
    assert (second.code, second.out, second.err) == (0, "", "")
    assert not trial.results.exists()


def test_a_done_phase_is_not_done_again(done: Trial, alone: Callable[..., Ended]) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.phase(1).root.rglob("*")}
    end = alone(done, 1)
    assert end.code == 0
    assert "phase 1 is already done" in end.out
    assert {path: path.stat().st_mtime_ns for path in done.phase(1).root.rglob("*")} == before


def test_a_done_file_that_cannot_be_read_is_named(done: Trial, alone: Callable[..., Ended]) -> None:
    truncate(done.phase(1).done_file)
    end = alone(done, 1)
    assert end.code == 64, "a person is needed"
    assert str(done.phase(1).done_file) in end.err
    assert "delete it" in end.err
    assert "Traceback" not in end.err


def test_a_full_disk_leaves_the_checkpoints_before(stopped: Trial, alone: Callable[..., Ended]) -> None:
    newest = stopped.phase(1).checkpoints / "step-00000025"
    size = (newest / "model.safetensors").stat().st_size
    with files_of_at_most(size // 2):
        end = alone(stopped, 1)
    assert end.code == 70, end
    assert "the checkpoint of step 30 cannot be written" in end.err
    assert "Traceback" not in end.err
    verify(newest)
    assert sorted(path.name for path in newest.parent.iterdir()) == ["step-00000010", "step-00000020", "step-00000025"]
    assert alone(stopped, 1).code == 0
