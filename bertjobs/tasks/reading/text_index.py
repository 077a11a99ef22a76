"""Texts by their ids, from files of ``id<TAB>text`` lines that are too large to be held, such as MS MARCO's
``collection.tsv``: 8.8 million passages, of which 16 bytes each are kept."""

from __future__ import annotations

import os
import shlex
import weakref
from array import array
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bertjobs.errors import InputError
from bertjobs.tasks.reading.lines import place, text_lines

_BLOCK = 1 << 24
_PIECE = 1 << 12  # longer than most lines


class TextIndex:
    """Where each line of a file begins, by its id.

    Raises:
        InputError: the file is missing, empty or not UTF-8, a line has no id or no tab, or an id occurs twice; names
            the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        next(text_lines(path))  # its errors
        hashes, starts = self._scan()
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._starts = hashes[order], starts[order]
        self._file = path.open("rb")  # not mapped: all pages that were read would count as this process's memory
        weakref.finalize(self, self._file.close)
        self._check_repeats()

    def get(self, identifier: str) -> str | None:
        """The text of an id; None if the file does not have it.

        Raises:
            InputError: its line is damaged.
        """
        key = np.int64(hash(identifier.encode()))
        for row in range(int(np.searchsorted(self._hashes, key)), len(self._hashes)):
            if self._hashes[row] != key:
                break
            line = self._line(int(self._starts[row]))
            if line.startswith(f"{identifier}\t".encode()):
                return self._text(line, int(self._starts[row]))
        return None

    def _scan(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The hash of each line's id, and where the line begins, in bytes."""
        hashes, starts, start = array("q"), array("q"), 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                end = line.find(b"\t")
                if end > 0:
                    bom = 3 if number == 1 and line.startswith(b"\xef\xbb\xbf") else 0
                    hashes.append(hash(line[bom:end]))
                    starts.append(start + bom)
                elif line.strip():
                    raise InputError("the line does not begin with an id and a tab", where=place(self.path, number),
                                     hint="each line is: id, text")  # fmt: skip
                start += len(line)
        return np.frombuffer(hashes, dtype=np.int64), np.frombuffer(starts, dtype=np.int64)

    def _check_repeats(self) -> None:
        for row in np.flatnonzero(self._hashes[1:] == self._hashes[:-1]):
            first, second = (self._line(int(start)).partition(b"\t")[0] for start in self._starts[row : row + 2])
            if first == second:  # and not only their hashes
                raise InputError(f"the id {first.decode(errors='replace')!r} occurs a second time",
                                 where=self._place(int(self._starts[row + 1])))  # fmt: skip

    def _line(self, start: int) -> bytes:
        size = _PIECE
        while True:
            piece = os.pread(self._file.fileno(), size, start)
            end = piece.find(b"\n")
            if end >= 0 or len(piece) < size:
                return (piece[:end] if end >= 0 else piece).removesuffix(b"\r")
            size *= 4

    def _text(self, line: bytes, start: int) -> str:
        try:
            _, *texts = line.decode("utf-8").split("\t")
        except UnicodeDecodeError as error:
            raise InputError(f"byte {error.start + 1:,} of the line is not UTF-8", where=self._place(start)) from None
        if len(texts) != 1 or not texts[0].strip() or "\0" in texts[0]:
            raise InputError("the line is not an id and a text, separated by a tab", where=self._place(start))
        return texts[0]

    def _place(self, start: int) -> str:
        """The line that begins at a byte."""
        parts = range(0, start, _BLOCK)
        blocks = (os.pread(self._file.fileno(), min(_BLOCK, start - first), first) for first in parts)
        return place(self.path, 1 + sum(block.count(b"\n") for block in blocks))


class Texts:
    """The queries and passages of a folder, of which other files have the ids: those of ``collection.tsv`` and of all
    ``queries*.tsv``. The files are first read when a text is asked for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @staticmethod
    def files(folder: Path) -> list[Path]:
        """The files that it reads, those that there are."""
        return [path for path in (*sorted(folder.glob("queries*.tsv")), folder / "collection.tsv") if path.is_file()]

    def query(self, identifier: str, where: str) -> str:
        """The text of a query.

        Args:
            where: the place of the id, for errors.

        Raises:
            InputError: there is none, or a file is missing or damaged.
        """
        return self._of(self._queries, "query", identifier, where)

    def passage(self, identifier: str, where: str) -> str:
        """The text of a passage, as `query`."""
        return self._of(self._passages, "passage", identifier, where)

    @cached_property
    def _queries(self) -> list[TextIndex]:
        return self._indexed("queries")

    @cached_property
    def _passages(self) -> list[TextIndex]:
        return self._indexed("collection")

    def _indexed(self, stem: str) -> list[TextIndex]:
        paths = [path for path in self.files(self._folder) if path.name.startswith(stem)]
        if not paths:
            raise InputError(
                f"ids are given, and there is no {stem}.tsv with their texts", where=str(self._folder),
                hint=f"data/msmarco.sh --what queries,collection {shlex.quote(str(self._folder))}",
            )  # fmt: skip
        return [TextIndex(path) for path in paths]

    def _of(self, indexes: list[TextIndex], what: str, identifier: str, where: str) -> str:
        for index in indexes:
            if (text := index.get(identifier)) is not None:
                return text
        names = ", ".join(index.path.name for index in indexes)
        raise InputError(f"{what} {identifier} is not in {names}", where=where)
