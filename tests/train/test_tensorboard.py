"""The event files, read back by TensorBoard."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from bertjobs.train.metrics import MetricsLog
from bertjobs.train.pretraining.measures import SCORES
from bertjobs.train.tensorboard import OF_EVERY_STEP, TensorBoardLog


def line(step: int, **fields: Any) -> dict[str, Any]:
    return {"step": step, "time_unix_s": 1.7e9 + step, "loss_nats": 10.0 - step / 8, "peak_share": None, **fields}


def validation(step: int) -> dict[str, Any]:
    return {"step": step, "mlm_loss_nats": 7.0, "masked_tokens": 20}


def reader(folder: Path) -> EventAccumulator:
    """TensorBoard's own reader, with all that it has read so far."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


def points(accumulator: EventAccumulator, tag: str) -> list[tuple[int, float, float]]:
    """Step, value and time, in the order of a curve."""
    return [(event.step, event.value, event.wall_time) for event in accumulator.Scalars(tag)]


def events(folder: Path) -> list[tuple[float, int, list[str]]]:
    """Time, step and tags of each event with scalars in the folder's only file; its checksums are right."""
    (file,) = folder.iterdir()
    loaded = [event for event in EventFileLoader(str(file)).Load() if event.HasField("summary")]
    return [(event.wall_time, event.step, [value.tag for value in event.summary.value]) for event in loaded]


def test_every_field_of_every_step_is_a_point(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, SCORES)
    steps = [line(step, **dict.fromkeys((*SCORES, *OF_EVERY_STEP), step / 4)) for step in range(1, 301)]
    log.begin(300, steps, [{**dict.fromkeys(SCORES, 0.5), "step": 300}])
    log.step(line(301, gradient_norm=math.inf))
    log.close()
    board = reader(tmp_path)
    assert set(board.Tags()["scalars"]) == {
        *(f"train/{field}" for field in (*SCORES, *OF_EVERY_STEP)),
        *(f"held_out/{field}" for field in SCORES),
    }
    assert points(board, "train/mlm_loss_nats") == [(step, step / 4, 1.7e9 + step) for step in range(1, 301)]
    assert points(board, "train/gradient_norm")[-1] == (301, math.inf, 1.7e9 + 301)


def test_an_objective_says_which_fields_of_a_validation_are_shown(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, SCORES, lambda line: [name for name in line if name.startswith("dev_")])
    log.begin(2, [line(2)], [{"step": 2, "dev_loss_nats": 0.5, "examples": 40}])
    log.held_out({"step": 4, "dev_loss_nats": 0.25, "dev_accuracy": -1.0, "mlm_loss_nats": 7.0})
    log.close()
    board = reader(tmp_path)
    assert [tag for tag in board.Tags()["scalars"] if tag.startswith("held_out")] == [
        "held_out/dev_loss_nats", "held_out/dev_accuracy",
    ]  # fmt: skip
    assert points(board, "held_out/dev_loss_nats") == [(2, 0.5, 1.7e9 + 2), (4, 0.25, 1.7e9 + 2)]


@settings(deadline=None, max_examples=20)
@given(step=st.integers(0, 2**40), value=st.floats(width=64, allow_nan=False))
def test_any_step_and_number_is_read_back(tmp_path_factory: pytest.TempPathFactory, step: int, value: float) -> None:
    folder = tmp_path_factory.mktemp("board")
    log = TensorBoardLog(folder, SCORES)
    log.begin(0, [], [])
    log.step(line(step, loss_nats=value))
    log.close()
    ((read_step, read, _),) = points(reader(folder), "train/loss_nats")
    assert read_step == step
    assert read == pytest.approx(value, rel=1e-6, abs=1e-38) or (math.isinf(read) and abs(value) > 3.4e38)


def test_each_step_appears_once_over_restarts(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    log = TensorBoardLog(folder, SCORES)
    log.begin(0, [], [])
    for step in (1, 2, 3):
        log.step(line(step))
    log.held_out(validation(2))
    log.held_out(validation(3))
    log.close()
    assert folder.stat().st_mode & 0o777 == 0o700
    (first,) = folder.iterdir()
    first.rename(folder / "events.out.tfevents.1000000000.elsewhere")  # from another second, on another node
    board = reader(folder)

    log = TensorBoardLog(folder, SCORES)
    log.begin(2, [line(1), line(2)], [validation(2)])  # step 3 was undone by a crash
    log.step(line(3, loss_nats=5.5))
    log.step(line(4))
    log.held_out(validation(4))
    log.close()

    board.Reload()  # a reader that was open all the time
    for accumulator in (board, reader(folder)):
        losses = [(step, value) for step, value, _ in points(accumulator, "train/loss_nats")]
        assert losses == [(1, 9.875), (2, 9.75), (3, 5.5), (4, 9.5)]
        scored = [(step, time) for step, _, time in points(accumulator, "held_out/mlm_loss_nats")]
        assert scored == [(2, 1.7e9 + 3), (4, 1.7e9 + 4)]


def test_steps_missing_from_the_files_come_from_metrics_jsonl(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, SCORES)
    log.begin(3, [line(1), line(2), line(3)], [validation(2)])
    log.close()
    assert events(tmp_path) == [
        (1.7e9 + 1, 1, ["train/loss_nats"]),
        (1.7e9 + 2, 2, ["train/loss_nats"]),
        (1.7e9 + 2, 2, ["held_out/mlm_loss_nats"]),
        (1.7e9 + 3, 3, ["train/loss_nats"]),
    ]


def test_after_a_file_truncated_by_a_crash_the_series_continues(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, SCORES)
    log.begin(2, [line(1), line(2)], [])
    log.close()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    log = TensorBoardLog(tmp_path, SCORES)
    log.begin(1, [line(1)], [])
    log.step(line(2, loss_nats=5.5))
    log.close()
    assert [(step, value) for step, value, _ in points(reader(tmp_path), "train/loss_nats")] == [(1, 9.875), (2, 5.5)]


def test_what_a_checkpoint_holds_is_on_the_disk_before_it(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "validation.jsonl", tmp_path / "board", SCORES, active=True)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line(step)) + "\n" for step in range(1, 2001)))
    log.resume_after(2000)  # more than the thread writes in the meantime
    log.sync()
    (file,) = (tmp_path / "board").iterdir()
    size = file.stat().st_size
    log.close()
    assert file.stat().st_size == size
    assert [step for _, step, _ in events(tmp_path / "board")] == list(range(1, 2001))


def test_without_tensorboard_there_is_no_folder_and_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "validation.jsonl", tmp_path / "board", SCORES, active=True)
    log.resume_after(0)
    (message,) = capsys.readouterr().out.splitlines()
    assert "pip install 'bertjobs[tensorboard]'" in message
    log.close()
    assert not (tmp_path / "board").exists()


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    log = TensorBoardLog(tmp_path / "tensorboard", SCORES)
    log.begin(1, [line(1)], [])
    log.step(line(2))
    log.held_out(validation(2))
    log.close()
    assert capsys.readouterr().out.count("no more TensorBoard files") == 1


@pytest.fixture
def idle_threads() -> Iterator[None]:
    """The writer's thread runs only while the test waits for it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.usefixtures("idle_threads")
@pytest.mark.parametrize("steps", [1, 3])
def test_a_file_that_can_no_longer_be_written_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int
) -> None:
    log = TensorBoardLog(tmp_path, SCORES)
    log.begin(1, [line(1)], [])
    log.sync()
    (file,) = tmp_path.iterdir()
    file.unlink()
    file.mkdir()
    for step in range(2, 2 + steps):
        log.step(line(step))
    log.close()
    assert capsys.readouterr().out.count("no more TensorBoard files") == 1
