"""Several named arrays in one file that is memory-mapped when read.

The layout is that of safetensors, so ``safetensors.numpy.load_file`` reads these files too. The header is padded and
wide types come first: every array is aligned to its type.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bertjobs.files.atomic import new_file
from bertjobs.files.safetensors_header import TensorEntry, header_bytes, read_header

Array = NDArray[Any]

_NAMES = {
    np.dtype(kind): name
    for name, kind in {
        "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
        "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
    }.items()
}  # fmt: skip
_KINDS = {name: kind for kind, name in _NAMES.items()}
_ALIGNMENT = 64  # bytes: where the first array begins
_CHUNK = 1 << 20  # bytes copied at a time


class ArraysWriter:
    """Writes arrays of one dimension whose sizes are not known beforehand, in bounded memory.

    Use it in ``with``: the file appears, whole, when the block ends without an error. Until then each array
    is in a nameless temporary file next to it.

    Args:
        path: the file to make or to replace.
        kinds: the type of each array, by name.
        metadata: text to keep with the arrays.

    Attributes:
        sha256, bytes: of the whole file, once the block has ended.
    """

    def __init__(self, path: Path, kinds: Mapping[str, DTypeLike], metadata: Mapping[str, str]) -> None:
        self.sha256, self.bytes = "", 0
        self._path, self._metadata = path, metadata
        self._kinds = {name: np.dtype(kind) for name, kind in kinds.items()}
        self._items = dict.fromkeys(kinds, 0)
        self._parts: dict[str, IO[bytes]] = {}
        self._open = ExitStack()

    def append(self, name: str, values: Array) -> None:
        """Add values to an array; TypeError if the array's type cannot hold every value of theirs."""
        values = np.ascontiguousarray(values.astype(self._kinds[name], casting="safe", copy=False))
        self._parts[name].write(values.data)
        self._items[name] += values.size

    def __enter__(self) -> ArraysWriter:
        for name in self._kinds:
            self._parts[name] = self._open.enter_context(tempfile.TemporaryFile(dir=self._path.parent))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if error is None:
                self._assemble()

    def _assemble(self) -> None:
        shapes: _Shapes = {name: (kind, (self._items[name],)) for name, kind in self._kinds.items()}
        digest = hashlib.sha256()
        with new_file(self._path) as file:
            for block in self._blocks(shapes):
                digest.update(block)
                file.write(block)
            self.bytes = file.tell()
        self.sha256 = digest.hexdigest()

    def _blocks(self, shapes: _Shapes) -> Iterator[bytes]:
        yield _header(shapes, self._metadata)
        for name in _order(shapes):
            part = self._parts[name]
            part.seek(0)
            while block := part.read(_CHUNK):
                yield block


def write_arrays(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays that are in memory, atomically.

    Raises:
        OSError: a full disk, or a folder that cannot be written.
        ValueError: a type that the format does not have.
    """
    shapes: _Shapes = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    with new_file(path) as file:
        file.write(_header(shapes, metadata))
        for name in _order(shapes):
            file.write(np.ascontiguousarray(arrays[name]).data)


def map_new(file: IO[bytes], kind: DTypeLike, shape: tuple[int, int]) -> Array:
    """An array of zeros in an empty file, mapped: what does not fit into memory may be written anywhere in it.

    The disk's bytes are taken at once: where it is full, writing through a map would end the process by a signal.

    Raises:
        OSError: the disk is full.
    """
    if not all(shape):  # nothing to map
        return np.zeros(shape, dtype=kind)
    size = _size(np.dtype(kind), shape)
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        file.truncate(size)  # a file system that cannot
    return np.memmap(file, dtype=kind, mode="r+", shape=shape)


def map_arrays(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a file, read-only and mapped (nothing is read or copied until it is used), and its metadata.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is truncated, has bytes left over, or is not of this format; says what was expected.
    """
    try:
        header = read_header(path)
        shapes = {name: _shape(name, entry) for name, entry in header.tensors.items()}
    except ValueError as error:
        raise ValueError(f"not an arrays file: {error}") from error
    if (size := path.stat().st_size) != header.file_size:
        raise ValueError(f"its header describes {header.file_size} bytes, but it has {size}")
    content = np.memmap(path, dtype=np.uint8, mode="r") if size > header.start else np.zeros(0, dtype=np.uint8)
    return {
        name: np.asarray(content[place : place + _size(*shapes[name])]).view(shapes[name][0]).reshape(shapes[name][1])
        for name, place in header.places().items()
    }, dict(header.metadata)


_Shapes = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]  # type and shape of each array


def _size(kind: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return kind.itemsize * math.prod(shape)


def _order(shapes: _Shapes) -> list[str]:
    """The widest types first, so that arrays without gaps between them are all aligned."""
    return sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name))


def _header(shapes: _Shapes, metadata: Mapping[str, str]) -> bytes:
    entries = {name: _entry(name, *shapes[name]) for name in _order(shapes)}
    return header_bytes(entries, dict(sorted(metadata.items())), alignment=_ALIGNMENT)


def _entry(name: str, kind: np.dtype[Any], shape: tuple[int, ...]) -> TensorEntry:
    if kind not in _NAMES:
        raise ValueError(f"array {name!r} is {kind}, not one of {', '.join(map(str, _NAMES))}")
    return TensorEntry(_NAMES[kind], shape, _size(kind, shape))


def _shape(name: str, entry: TensorEntry) -> tuple[np.dtype[Any], tuple[int, ...]]:
    kind = _KINDS.get(entry.kind)
    if kind is None or entry.size != _size(kind, entry.shape):
        raise ValueError(
            f"its header is damaged ({name!r} is {entry.size} bytes of {entry.kind} in shape {list(entry.shape)})"
        )
    return kind, entry.shape
