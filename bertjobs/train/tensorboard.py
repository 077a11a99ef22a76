"""TensorBoard's event files, written without TensorBoard: a run needs no package for them, only who looks at them does.

An event file is a row of records (TFRecord: length, its checksum, message, its checksum); a message is the protocol
buffer ``Event``. Sources: tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto and
tensorflow/core/framework/summary.proto; CRC-32C as in RFC 3720, appendix B.4.
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bertjobs.files.atomic import PRIVATE_FOLDER, new_file, remove_leftovers

PREFIX = "events.out.tfevents."  # the name by which TensorBoard knows its files


class Group(NamedTuple):
    """Fields of a line that are shown, as scalars ``NAME/FIELD``."""

    name: str
    fields: tuple[str, ...]


TRAIN = Group("train", (
    "loss_nats", "mlm_loss_nats", "nsp_loss_nats", "mlm_accuracy", "nsp_accuracy", "learning_rate", "gradient_norm",
    "loss_scale", "skipped_steps", "step_time_s", "data_wait_s", "sequences_per_s", "tokens_per_s",
    "model_flops_per_s", "peak_share", "checkpoint_s", "checkpoint_stall_s", "peak_memory_gb",
))  # fmt: skip

HELD_OUT = Group("held_out", ("mlm_loss_nats", "nsp_loss_nats", "mlm_accuracy", "nsp_accuracy"))


class TensorBoardLog:
    """The scalars of a phase in one event file, made anew from metrics.jsonl at each start: so it holds each step once.

    It is never a reason for a run to fail: where it cannot be written it says so once and stops.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._file: Path | None = None  # none before `begin`, or after a failure
        self._time_unix_s = 0.0

    def begin(self, steps: Sequence[Mapping[str, Any]], validations: Sequence[Mapping[str, Any]]) -> None:
        """Write a file of the lines of metrics.jsonl and validation.jsonl so far, in the place of those before."""
        lines = [(TRAIN, line) for line in steps] + [(HELD_OUT, line) for line in validations]
        lines.sort(key=lambda entry: entry[1]["step"])
        file = self._folder / f"{PREFIX}{int(time.time())}.{socket.gethostname()}"
        try:
            self._folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            remove_leftovers(self._folder)
            with new_file(file) as out:
                out.write(record(_file_version(time.time())))
                out.writelines(self._record(*entry) for entry in lines)
            for before in self._folder.glob(f"{PREFIX}*"):
                if before != file:
                    before.unlink(missing_ok=True)
            self._file = file
        except OSError as error:
            self._stop(error)

    def step(self, line: Mapping[str, Any]) -> None:
        """Add a line of metrics.jsonl."""
        self._append(self._record(TRAIN, line))

    def held_out(self, line: Mapping[str, Any]) -> None:
        """Add a line of validation.jsonl, at the time of the step that it scores."""
        self._append(self._record(HELD_OUT, line))

    def _record(self, group: Group, line: Mapping[str, Any]) -> bytes:
        self._time_unix_s = line.get("time_unix_s", self._time_unix_s)
        scalars = {f"{group.name}/{field}": line[field] for field in group.fields if line.get(field) is not None}
        return record(scalar_event(self._time_unix_s, line["step"], scalars))

    def _append(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            with open(self._file, "ab") as out:
                out.write(data)
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        self._file = None
        print(f"warning: no more TensorBoard files in {self._folder}: {error.strerror}", flush=True)


def scalar_event(time_unix_s: float, step: int, scalars: Mapping[str, float]) -> bytes:
    """An ``Event`` message: wall_time = 1, step = 2, summary = 5 of values with tag = 1 and simple_value = 2."""
    summary = b"".join(_value_head(tag) + _float32(value) for tag, value in scalars.items())
    return struct.pack("<Bd", 0x09, time_unix_s) + b"\x10" + _varint(step) + _field(5, summary)


@cache
def _value_head(tag: str) -> bytes:
    """A value up to its number, which takes four bytes."""
    content = _field(1, tag.encode()) + b"\x15"
    return b"\x0a" + _varint(len(content) + 4) + content


def _file_version(time_unix_s: float) -> bytes:
    """The ``Event`` that a file begins with: file_version = 3."""
    return struct.pack("<Bd", 0x09, time_unix_s) + _field(3, b"brain.Event:2")


def record(message: bytes) -> bytes:
    """A message as it stands in the file."""
    length = struct.pack("<Q", len(message))
    return length + _masked(crc32c(length)) + message + _masked(crc32c(message))


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) checksum of ``data``."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _crc_entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_TABLE = tuple(_crc_entry(byte) for byte in range(256))


def _masked(crc: int) -> bytes:
    """A checksum turned and shifted, as TFRecord stores it."""
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes, text or a message (wire type 2)."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:  # beyond float32
        return struct.pack("<f", math.copysign(math.inf, value))
