"""TensorFlow's checkpoints, written as its BundleWriter writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bertjobs.conversion.tensor_bundle import MAGIC, checksum

TYPES = {"<f4": 1, "<f8": 2, "<i4": 3, "<i8": 9, "<f2": 19}
RESTART = 16
"""Keys after which one is written whole again."""


def write_bundle(
    prefix: Path, arrays: Mapping[str, np.ndarray], *, keys_per_block: int = 20, bfloat16: tuple[str, ...] = ()
) -> None:
    """``PREFIX.index`` and ``PREFIX.data-00000-of-00001``."""
    data, table = bytearray(), {b"": message(1, 1) + message(3, message(1, 1))}
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        content, kind = array.tobytes(), TYPES[array.dtype.str]
        if name in bfloat16:
            content, kind = (array.view("<u4") >> 16).astype("<u2").tobytes(), 14
        shape = b"".join(message(2, message(1, size)) for size in array.shape)
        places = message(4, len(data)) * bool(data) + message(5, len(content))
        table[name.encode()] = message(1, kind) + message(2, shape) + places + fixed32(6, checksum(content))
        data += content
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table_of(table, keys_per_block))


def table_of(entries: Mapping[bytes, bytes], keys_per_block: int) -> bytes:
    """A table in LevelDB's format: blocks, an empty one of metadata, one that lists the blocks, the footer."""
    content, listed = bytearray(), {}
    keys = sorted(entries)
    for first in range(0, len(keys), keys_per_block):
        part = keys[first : first + keys_per_block]
        listed[part[-1]] = append(content, block({key: entries[key] for key in part}, RESTART))
    metadata = append(content, block({}, RESTART))
    index = append(content, block(listed, 1))
    footer = (metadata + index).ljust(40, b"\0") + MAGIC.to_bytes(8, "little")
    return bytes(content) + footer


def append(content: bytearray, one: bytes) -> bytes:
    """Add a block that is not compressed, and its checksum; returns its handle."""
    handle = varint(len(content)) + varint(len(one))
    content += one + b"\0" + checksum(one + b"\0").to_bytes(4, "little")
    return handle


def block(entries: Mapping[bytes, bytes], restart: int) -> bytes:
    content, restarts, before = bytearray(), [0], b""
    for number, (key, value) in enumerate(entries.items()):
        if number and number % restart == 0:
            restarts.append(len(content))
        shared = 0
        while number % restart and shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    places = [*restarts, len(restarts)]
    return bytes(content) + b"".join(place.to_bytes(4, "little") for place in places)


def varint(number: int) -> bytes:
    content = bytearray()
    while number > 0x7F:
        content.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*content, number])


def message(field: int, value: int | bytes) -> bytes:
    """A field of a protocol buffer: a number, or an inner message."""
    if isinstance(value, int):
        return varint(field << 3) + varint(value)
    return varint(field << 3 | 2) + varint(len(value)) + value


def fixed32(field: int, value: int) -> bytes:
    return varint(field << 3 | 5) + value.to_bytes(4, "little")
