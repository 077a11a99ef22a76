"""The header of a safetensors file, read and written without its tensors.

The format: the header's length as 8 bytes, little-endian; the header, JSON with the type, the shape and the place of
each tensor, and text under ``__metadata__``; the tensors' bytes, one after the other without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from bertjobs.files.reading import parse_json

LENGTH_BYTES = 8
LONGEST = 100_000_000
"""Bytes of a header: the limit of the safetensors package."""
METADATA = "__metadata__"


@dataclass(frozen=True)
class TensorEntry:
    """What a header says of one tensor: its type by the format's name (``F32``), its shape, its size in bytes."""

    kind: str
    shape: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Header:
    """What a file's header says.

    Attributes:
        tensors: by name, in their order in the file.
        metadata: the text that is kept with them.
        start: where the first tensor begins, in bytes from the file's first.
    """

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    start: int

    def places(self) -> dict[str, int]:
        """Where each tensor begins, in bytes from the file's first."""
        sizes = [entry.size for entry in self.tensors.values()]
        return dict(zip(self.tensors, accumulate(sizes, initial=self.start), strict=False))

    @property
    def file_size(self) -> int:
        """The bytes of a whole file with this header."""
        return self.start + sum(entry.size for entry in self.tensors.values())


def read_header(path: Path) -> Header:
    """Read a file's header; whether the file's size is ``file_size`` is for the caller to compare.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it does not begin with such a header; says why.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or not 2 <= length <= min(LONGEST, size - LENGTH_BYTES):
            raise ValueError(f"its {size} bytes do not begin with a header of {length} bytes")
        text = file.read(length)
    try:
        content = parse_json(text)
        metadata = dict(content.pop(METADATA, {}))
        tensors = _entries(content)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"its header is damaged ({error})") from error
    return Header(tensors, metadata, LENGTH_BYTES + length)


def _entries(content: Mapping[str, Mapping[str, Any]]) -> dict[str, TensorEntry]:
    entries: dict[str, TensorEntry] = {}
    at = 0
    for name, stored in sorted(content.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = stored["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*stored["shape"], start, end)):
            raise ValueError(f"{name!r} has a shape or a place that is not made of whole numbers from 0 on")
        if start != at or end < start:
            raise ValueError(f"{name!r} does not begin where the one before it ends")
        entries[name] = TensorEntry(str(stored["dtype"]), tuple(stored["shape"]), end - start)
        at = end
    return entries


def header_bytes(tensors: Mapping[str, TensorEntry], metadata: Mapping[str, str] | None, *, alignment: int) -> bytes:
    """A file's bytes before its first tensor, padded so that this one begins at a multiple of ``alignment``.

    Args:
        tensors: by name, in their order in the file.
        metadata: text to keep with them; None leaves even the place for it out.
        alignment: in bytes.
    """
    content: dict[str, object] = {} if metadata is None else {METADATA: dict(metadata)}
    for name, start in Header(tensors, {}, 0).places().items():
        entry = tensors[name]
        place = [start, start + entry.size]
        content[name] = {"dtype": entry.kind, "shape": list(entry.shape), "data_offsets": place}
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % alignment)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
