"""Several named arrays in one file that is memory-mapped when read.

The layout is safetensors' (8 bytes little-endian header length, JSON header, the arrays one after the other), so
``safetensors.numpy.load_file`` reads these files too. The header is padded and wide types come first: every array
is aligned to its type.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bertjobs.files.atomic import new_file

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
_LENGTH_BYTES = 8
_CHUNK = 1 << 20  # bytes copied at a time
_LONGEST_HEADER = 1 << 20  # bytes; ours have about a thousand


class ArraysWriter:
    """Writes arrays of one dimension whose sizes are not known beforehand, in bounded memory.

    Use it in ``with``: the file appears, whole, when the block ends without an error. Until then each array
    is in a nameless temporary file beside it.

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
        """Add values to an array; TypeError where the array's type cannot hold every value of theirs."""
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


def map_arrays(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a file, read-only and mapped (nothing is read or copied until it is used), and its metadata.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is truncated, has bytes left over, or is not of this format; says what was expected.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or not 2 <= length <= min(_LONGEST_HEADER, size - _LENGTH_BYTES):
            raise ValueError(f"not an arrays file: its {size} bytes do not begin with a header of {length} bytes")
        start = _LENGTH_BYTES + length
        shapes, metadata = _parse(file.read(length))
        places = dict(_places(shapes, start))
        end = max((place + _size(*shapes[name]) for name, place in places.items()), default=start)
        if size != end:
            raise ValueError(f"its header describes {end} bytes, but it has {size}")
    content = np.memmap(path, dtype=np.uint8, mode="r") if end > start else np.zeros(0, dtype=np.uint8)
    return {
        name: np.asarray(content[place : place + _size(*shapes[name])]).view(shapes[name][0]).reshape(shapes[name][1])
        for name, place in places.items()
    }, metadata


_Shapes = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]  # type and shape of each array


def _size(kind: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return kind.itemsize * math.prod(shape)


def _order(shapes: _Shapes) -> list[str]:
    """The widest types first, so that arrays without gaps between them are all aligned."""
    return sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name))


def _places(shapes: _Shapes, start: int) -> Iterator[tuple[str, int]]:
    for name, (kind, shape) in shapes.items():
        yield name, start
        start += _size(kind, shape)


def _header(shapes: _Shapes, metadata: Mapping[str, str]) -> bytes:
    content: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    ordered = {name: shapes[name] for name in _order(shapes)}
    for name, start in _places(ordered, 0):
        kind, shape = ordered[name]
        if kind not in _NAMES:
            raise ValueError(f"array {name!r} is {kind}, not one of {', '.join(map(str, _NAMES))}")
        content[name] = {"dtype": _NAMES[kind], "shape": shape, "data_offsets": [start, start + _size(kind, shape)]}
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _LENGTH_BYTES) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _parse(header: bytes) -> tuple[_Shapes, dict[str, str]]:
    try:
        content = json.loads(header)
        metadata = content.pop("__metadata__", {})
        ordered = sorted(content.items(), key=lambda item: item[1]["data_offsets"])
        shapes = {name: (_KINDS[entry["dtype"]], tuple(entry["shape"])) for name, entry in ordered}
        for name, place in _places(shapes, 0):
            if content[name]["data_offsets"] != [place, place + _size(*shapes[name])]:
                raise ValueError(f"array {name!r} is not where its shape says")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not an arrays file: its header is damaged ({error})") from error
    return shapes, metadata
