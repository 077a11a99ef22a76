"""A text's characters as an array of numbers, and its parts by their places."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.data.ragged import offsets_of

Int64s = NDArray[np.int64]

LINE_BREAK = ord("\n")


def codes_of(text: str) -> NDArray[Any]:
    """The characters by their numbers, of the smallest type that holds them, and two line breaks after them:
    ``[len(text) + 2]``."""
    if text.isascii():
        codes: NDArray[Any] = np.frombuffer(text.encode(), dtype=np.uint8)
    else:
        codes = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype="<u2")
        if len(codes) > len(text):  # a character needs two units
            codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return np.concatenate([codes, np.full(2, LINE_BREAK, dtype=codes.dtype)])


def ends_of(parts: Sequence[str]) -> Int64s:
    """Where each part ends in the text that joins them by a line break: ``[parts]``."""
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    return np.cumsum(lengths + 1) - 1


def cut_at(text: str, starts: Int64s, ends: Int64s) -> list[str]:
    """The slices of a text."""
    return [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def shared_out(sentences: list[str], parts_of_texts: Sequence[Sequence[str]], counts: Int64s) -> list[list[str]]:
    """The sentences of each text.

    Args:
        sentences: of all texts, in order.
        parts_of_texts: the paragraphs or lines of each text.
        counts: how many sentences each of these has, ``[parts]``.
    """
    parts = offsets_of(np.array([len(parts) for parts in parts_of_texts], dtype=np.int64))
    return [sentences[first:last] for first, last in pairwise(offsets_of(counts)[parts].tolist())]
