"""What is kept of each document beside its tokens: name, fingerprints, where it is. One file per piece of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.check.fingerprints import PLACES, signatures, text_hash
from bertjobs.files.arrays import map_arrays, write_arrays

Int64s = NDArray[np.int64]
UInt32s = NDArray[np.uint32]
UInt64s = NDArray[np.uint64]

_EXCERPT = 500  # characters


@dataclass(frozen=True)
class DocumentTable:
    """The documents of a piece, in its order.

    Attributes:
        hashes: ``[documents, 2]``, of the texts.
        runs: word runs that a signature is of, ``[documents]``; empty where no signatures were asked for.
        signatures: ``[documents, PLACES]``, or ``[0, PLACES]``.
        keys: of the draws about each document, ``[documents]``; empty where they were not tokenised.
        chunks, places: the chunk of the piece that a document is in, and where in it; or empty.
        names: their ids in UTF-8, one after the other; ``name_ends``: where each ends.
        excerpts: stretches from the middle of some documents, in the same form; ``excerpt_ends``.
    """

    hashes: UInt64s
    runs: Int64s
    signatures: UInt32s
    keys: UInt64s
    chunks: Int64s
    places: Int64s
    names: NDArray[np.uint8]
    name_ends: Int64s
    excerpts: NDArray[np.uint8]
    excerpt_ends: Int64s

    def __len__(self) -> int:
        return len(self.hashes)

    def name(self, row: int) -> str:
        """A document's id."""
        return _text(self.names, self.name_ends, row)

    def all_excerpts(self) -> list[str]:
        """The stretches of text that were kept, of documents drawn by their hashes."""
        return [_text(self.excerpts, self.excerpt_ends, number) for number in range(len(self.excerpt_ends))]

    @classmethod
    def read(cls, path: Path) -> DocumentTable:
        """The table that ``write`` made, mapped; OSError or ValueError where there is none."""
        arrays, _ = map_arrays(path)
        shapes = {"hashes": (-1, 2), "signatures": (-1, PLACES)}
        return cls(**{name: array.reshape(shapes.get(name, (-1,))) for name, array in arrays.items()})

    def write(self, path: Path) -> None:
        """Write the table; OSError as ``write_arrays``."""
        write_arrays(path, {one.name: getattr(self, one.name) for one in fields(self)}, {})


@dataclass
class DocumentTableWriter:
    """Collects the documents of a piece.

    Args:
        words: in a run of the signatures; 0: no signatures.
        excerpts: how many documents an excerpt is kept of.
    """

    words: int = 0
    excerpts: int = 0
    _sample: list[tuple[bytes, str]] = field(default_factory=list)
    _names: list[bytes] = field(default_factory=list)
    _hashes: list[bytes] = field(default_factory=list)
    _runs: list[Int64s] = field(default_factory=list)
    _signatures: list[UInt32s] = field(default_factory=list)
    _placed: dict[str, list[NDArray[Any]]] = field(default_factory=dict)

    def add(self, names: Sequence[str], texts: Sequence[str]) -> None:
        """Add documents."""
        self._names += [name.encode("utf-8", "surrogatepass") for name in names]
        hashes = [text_hash(text) for text in texts]
        self._hashes += hashes
        if self.excerpts:
            lowest = sorted(zip(hashes, range(len(texts)), strict=True))[: self.excerpts]
            sample = [*self._sample, *((key, _middle(texts[place])) for key, place in lowest)]
            self._sample = sorted(sample)[: self.excerpts]
        if self.words:
            rows, runs = signatures(texts, self.words)
            self._signatures.append(rows)
            self._runs.append(runs)

    def place(self, **columns: NDArray[Any]) -> None:
        """Add the keys, chunks and places of the documents that were added since."""
        for name, values in columns.items():
            self._placed.setdefault(name, []).append(values)

    def finish(self) -> DocumentTable:
        """The table."""
        empty = np.zeros(0, dtype=np.int64)
        names, name_ends = _joined(self._names)
        excerpts, excerpt_ends = _joined([text.encode("utf-8", "surrogatepass") for _, text in self._sample])
        placed = {name: np.concatenate(self._placed.get(name, [empty])) for name in ("chunks", "places")}
        return DocumentTable(
            hashes=np.frombuffer(b"".join(self._hashes), dtype="<u8").reshape(-1, 2),
            runs=np.concatenate(self._runs or [empty]),
            signatures=np.concatenate(self._signatures or [np.zeros((0, PLACES), dtype=np.uint32)]),
            keys=np.concatenate(self._placed.get("keys", [empty.astype(np.uint64)])),
            names=names,
            name_ends=name_ends,
            excerpts=excerpts,
            excerpt_ends=excerpt_ends,
            **placed,
        )


def _middle(text: str) -> str:
    start = max(0, (len(text) - _EXCERPT) // 2)
    return text[start : start + _EXCERPT]


def _joined(texts: list[bytes]) -> tuple[NDArray[np.uint8], Int64s]:
    return np.frombuffer(b"".join(texts), dtype=np.uint8), np.cumsum([len(text) for text in texts], dtype=np.int64)


def _text(joined: NDArray[np.uint8], ends: Int64s, number: int) -> str:
    start = ends[number - 1] if number else 0
    return joined[start : ends[number]].tobytes().decode("utf-8", "surrogatepass")
