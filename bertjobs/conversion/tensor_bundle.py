"""TensorFlow's checkpoints, read without TensorFlow.

A checkpoint PREFIX is a tensor bundle: PREFIX.index, a table of sorted keys in LevelDB's format, and the shards
PREFIX.data-00000-of-00001, which hold the tensors' bytes. The table's values are protocol buffers: under the empty key
a BundleHeaderProto, under each tensor's name a BundleEntryProto (tensorflow/core/protobuf/tensor_bundle.proto).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bertjobs.errors import InputError

MAGIC = 0xDB4775248B80FB57
"""The last eight bytes of a table."""

FOOTER = 48
"""Bytes of a table's end: the places of two blocks, padding, `MAGIC`."""

TRAILER = 5
"""Bytes after each block: how it is compressed, and its masked checksum."""

BFLOAT16 = 14
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2", BFLOAT16: "<u2"}
"""TensorFlow's numbers of types -> NumPy's names of what is stored."""

_DAMAGED = "truncated or damaged? copy it again"


@dataclass(frozen=True)
class Entry:
    """Where a tensor is: bytes ``offset`` to ``offset + size`` of a shard, which have this masked checksum. One that is
    ``sliced`` lies in parts under other keys."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    sliced: bool


@dataclass(frozen=True)
class TensorBundle:
    """A checkpoint's table of contents; tensors are read one by one.

    Attributes:
        prefix: the checkpoint's path, to which ``.index`` is added.
        shards: number of files with the tensors' bytes.
        entries: by name.
    """

    prefix: Path
    shards: int
    entries: Mapping[str, Entry]

    @classmethod
    def open(cls, prefix: Path) -> TensorBundle:
        """Read the table of contents.

        Raises:
            InputError: it is missing, damaged, or of a machine with the other order of bytes.
        """
        index = index_of(prefix)
        try:
            table = dict(_table(index.read_bytes()))
            header = {number: value for number, value in _fields(table.pop(b"")) if isinstance(value, int)}
            entries = {name.decode(): _entry(message) for name, message in table.items()}
        except OSError as error:
            raise InputError(f"the checkpoint cannot be read: {error.strerror}", where=str(index)) from error
        except (ValueError, IndexError, KeyError) as error:
            what = f"this is not the index of a TensorFlow checkpoint: {error}"
            raise InputError(what, where=str(index), hint=_DAMAGED) from error
        if header.get(2, 0):
            raise InputError("the checkpoint's numbers are big-endian, which is not read", where=str(index))
        return cls(prefix, header.get(1, 1), entries)

    def read(self, name: str) -> NDArray[np.generic]:
        """A tensor; those stored as bfloat16 as float32.

        Raises:
            InputError: of another type than numbers, stored in parts, or its file is missing or too short.
        """
        entry = self.entries[name]
        if entry.sliced or entry.dtype not in TYPES:
            why = "stored in parts" if entry.sliced else f"of TensorFlow's type {entry.dtype}"
            raise InputError(f"{name} is {why}, which is not read", where=str(index_of(self.prefix)))
        kind = np.dtype(TYPES[entry.dtype])
        shard = self.prefix.with_name(f"{self.prefix.name}.data-{entry.shard:05d}-of-{self.shards:05d}")
        try:
            content = np.memmap(shard, np.uint8, "r")[entry.offset : entry.offset + entry.size]
        except (OSError, ValueError) as error:
            raise InputError(f"the checkpoint's tensors cannot be read: {error}", where=str(shard)) from error
        if not len(content) == entry.size == math.prod(entry.shape) * kind.itemsize:
            what = f"{name} should have {entry.size} bytes, but {len(content)} are there"
            raise InputError(what, where=str(shard), hint=_DAMAGED)
        stored = np.array(content).view(kind).reshape(entry.shape)
        return (stored.astype("<u4") << 16).view("<f4") if entry.dtype == BFLOAT16 else stored


def index_of(prefix: Path) -> Path:
    """The file with a checkpoint's table of contents."""
    return prefix.with_name(prefix.name + ".index")


def checksum(content: bytes) -> int:
    """CRC-32C (Castagnoli), masked as LevelDB does, since a checksum of checksums would be weak."""
    register = 0xFFFFFFFF
    for byte in content:
        register = _CRC_TABLE[(register ^ byte) & 0xFF] ^ (register >> 8)
    register ^= 0xFFFFFFFF
    return ((register >> 15 | register << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table; ValueError or IndexError if it is damaged."""
    if len(content) < FOOTER or int.from_bytes(content[-8:], "little") != MAGIC:
        raise ValueError("its last bytes are not those of a table")
    place = len(content) - FOOTER
    for _ in range(2):
        _, place = _varint(content, place)  # the block of metadata, which TensorFlow leaves empty
    for _, handle in _block(content, *_handle(content, place)):
        yield from _block(content, *_handle(handle, 0))


def _handle(content: bytes, place: int) -> tuple[int, int]:
    """Offset and size of a block."""
    offset, place = _varint(content, place)
    return offset, _varint(content, place)[0]


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block; each key leaves out what it has in common with the one before."""
    end = offset + size
    if end + TRAILER > len(content):
        raise ValueError("it ends too early")
    if content[end]:
        raise ValueError("it is compressed")
    if int.from_bytes(content[end + 1 : end + TRAILER], "little") != checksum(content[offset : end + 1]):
        raise ValueError("a checksum does not match")
    restarts = int.from_bytes(content[end - 4 : end], "little")
    place, end, key = offset, end - 4 * (restarts + 1), b""
    while place < end:
        shared, place = _varint(content, place)
        more, place = _varint(content, place)
        length, place = _varint(content, place)
        key = key[:shared] + content[place : place + more]
        yield key, content[place + more : place + more + length]
        place += more + length


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A whole number of seven bits per byte, and the place after it."""
    value = shift = 0
    while content[place] & 0x80:
        value |= (content[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
    return value | content[place] << shift, place + 1


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer by number: numbers, or the bytes of texts and inner messages."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind, size = tag & 7, {1: 8, 5: 4}.get(tag & 7)
        value: int | bytes
        if kind == 0:
            value, place = _varint(message, place)
        elif kind == 2:
            length, place = _varint(message, place)
            value, place = message[place : place + length], place + length
        elif size:
            value, place = int.from_bytes(message[place : place + size], "little"), place + size
        else:
            raise ValueError(f"a field is of the unknown kind {kind}")
        yield tag >> 3, value


def _entry(message: bytes) -> Entry:
    """A BundleEntryProto: 1 type, 2 shape, 3 shard, 4 offset, 5 size, 6 checksum, 7 slices; what is 0 is left out."""
    numbers, inner = dict.fromkeys(range(1, 8), 0), dict.fromkeys(range(1, 8), b"")
    for number, value in _fields(message):
        if isinstance(value, int):
            numbers[number] = value
        else:
            inner[number] += value
    places = {"shard": numbers[3], "offset": numbers[4], "size": numbers[5], "checksum": numbers[6]}
    return Entry(dtype=numbers[1], shape=_shape(inner[2]), sliced=bool(inner[7]), **places)


def _shape(message: bytes) -> tuple[int, ...]:
    """A TensorShapeProto: 2 a dimension, whose 1 is its size."""
    dimensions = [value for number, value in _fields(message) if number == 2 and isinstance(value, bytes)]
    sizes = [dict(_fields(one)).get(1, 0) for one in dimensions]
    return tuple(size for size in sizes if isinstance(size, int))
