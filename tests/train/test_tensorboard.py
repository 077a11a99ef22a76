"""The event files, read back: record by record, and by TensorBoard itself where it is installed."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.train.tensorboard import HELD_OUT, TRAIN, TensorBoardLog, crc32c, record, scalar_event

# What tensorboard 2.21's RecordWriter writes of the event with wall_time 1700000001.5, step 300 and two values.
GOLDEN = (
    "420000000000000079f36eaa0900006040fc54d94110ac022a340a160a0f747261696e2f6c6f73735f6e61747315000024410a1a0a13"
    "747261696e2f6772616469656e745f6e6f726d150000807f65769a09"
)


def line(step: int, **fields: Any) -> dict[str, Any]:
    return {"step": step, "time_unix_s": 1.7e9 + step, "loss_nats": 10.0 - step / 8, "peak_share": None, **fields}


def validation(step: int) -> dict[str, Any]:
    return {"step": step, "mlm_loss_nats": 7.0, "masked_tokens": 20}


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and raw content of a protocol buffer's fields."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        if key & 7 == 0:
            value, at = varint(message, at)
            yield key >> 3, value
        else:
            length, at = {1: (8, at), 5: (4, at)}.get(key & 7) or varint(message, at)
            yield key >> 3, message[at : at + length]
            at += length


def events(folder: Path) -> list[tuple[float, int, dict[str, float]]]:
    """Time, step and scalars of each event in the folder's only file, checksums checked."""
    (file,) = folder.iterdir()
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        message = data[at + 12 : at + 12 + length]
        assert record(message) == data[at : at + 16 + length]
        event = dict(fields(message))
        values = [dict(fields(value)) for _, value in fields(event.get(5, b""))]
        scalars = {value[1].decode(): struct.unpack("<f", value[2])[0] for value in values}
        found.append((struct.unpack("<d", event[1])[0], event.get(2, 0), scalars))
        at += 16 + length
    return found[1:]  # the first is the file's version


def test_the_bytes_are_those_that_tensorboard_writes() -> None:
    event = scalar_event(1700000001.5, 300, {"train/loss_nats": 10.25, "train/gradient_norm": math.inf})
    assert record(event).hex() == GOLDEN
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C


@given(st.integers(0, 2**40), st.floats(width=64, allow_nan=False))
def test_any_step_and_number_is_read_back(step: int, value: float) -> None:
    event = dict(fields(scalar_event(0.0, step, {"a": value})))
    ((_, content),) = fields(event[5])
    (read,) = struct.unpack("<f", dict(fields(content))[2])
    assert event[2] == step
    assert read == pytest.approx(value, rel=1e-6, abs=1e-38) or (math.isinf(read) and abs(value) > 3.4e38)


def test_a_phase_is_one_file_with_each_step_once_over_restarts(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    log = TensorBoardLog(folder)
    log.begin([], [])
    for step in (1, 2, 3):
        log.step(line(step))
    log.held_out(validation(3))
    (first,) = folder.iterdir()
    first.rename(folder / "events.out.tfevents.1.elsewhere")  # of another second, on another node

    log = TensorBoardLog(folder)
    log.begin([line(1), line(2)], [])  # step 3 was undone by a crash
    log.step(line(3, loss_nats=5.5))
    log.held_out(validation(3))

    found = events(folder)
    assert [(time, step) for time, step, _ in found] == [(1.7e9 + step, step) for step in (1, 2, 3, 3)]
    assert [scalars for *_, scalars in found] == [
        {"train/loss_nats": 9.875},
        {"train/loss_nats": 9.75},
        {"train/loss_nats": 5.5},
        {"held_out/mlm_loss_nats": 7.0},
    ]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_validations_of_before_stand_behind_their_steps(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    log.begin([line(1), line(2), line(3)], [validation(2)])
    assert [(time, step, len(scalars)) for time, step, scalars in events(tmp_path)] == [
        (1.7e9 + 1, 1, 1),
        (1.7e9 + 2, 2, 1),
        (1.7e9 + 2, 2, 1),
        (1.7e9 + 3, 3, 1),
    ]


def test_a_record_that_a_crash_cut_is_gone_after_the_restart(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    log.begin([line(1)], [])
    (file,) = tmp_path.iterdir()
    with open(file, "ab") as out:
        out.write(record(scalar_event(0, 2, {"train/loss_nats": 1.0}))[:20])
    (tmp_path / ".tmp-events.out.tfevents.1.here-0a1b2c3d").write_bytes(b"killed while writing")
    log = TensorBoardLog(tmp_path)
    log.begin([line(1)], [])
    assert [step for _, step, _ in events(tmp_path)] == [1]


def test_it_says_once_that_it_cannot_write_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    log = TensorBoardLog(tmp_path / "tensorboard")
    log.begin([line(1)], [])
    log.step(line(2))
    log.held_out(validation(2))
    assert capsys.readouterr().out.count("no more TensorBoard files") == 1

    log = TensorBoardLog(tmp_path / "other")
    log.begin([line(1)], [])
    (file,) = (tmp_path / "other").iterdir()
    file.unlink()
    file.mkdir()
    log.step(line(2))
    log.step(line(3))
    assert capsys.readouterr().out.count("no more TensorBoard files") == 1


def test_tensorboard_reads_it(tmp_path: Path) -> None:
    module = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = pytest.importorskip(module, reason="TensorBoard itself is not installed")
    log = TensorBoardLog(tmp_path)
    steps = [line(step, **dict.fromkeys(TRAIN.fields, step / 4)) for step in range(1, 301)]
    log.begin(steps, [{**dict.fromkeys(HELD_OUT.fields, 0.5), "step": 300}])
    log.step(line(301, gradient_norm=math.inf))
    reader = accumulator.EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    reader.Reload()
    assert set(reader.Tags()["scalars"]) == {
        *(f"train/{field}" for field in TRAIN.fields),
        *(f"held_out/{field}" for field in HELD_OUT.fields),
    }
    losses = reader.Scalars("train/mlm_loss_nats")
    assert [(event.step, event.value, event.wall_time) for event in losses] == [
        (step, step / 4, 1.7e9 + step) for step in range(1, 301)
    ]
    assert reader.Scalars("train/gradient_norm")[-1].value == math.inf
