"""Token ids that a client has made itself, as rows for the model: checked, and without their padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.serve.refusal import Refusal
from bertjobs.tasks.rows import Head, Row
from bertjobs.wording import shown

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class TokenRules:
    """What a model can read.

    Attributes:
        vocabulary: ids are below it.
        longest: tokens of a sequence at most.
        kinds: of segments: token type ids are below it.
        head: decides which places are read.
    """

    vocabulary: int
    longest: int
    kinds: int
    head: Head


def row_of(ids: Ids, mask: Ids | None, types: Ids | None, rules: TokenRules, where: str) -> Row:
    """One sequence.

    Args:
        ids, mask, types: ``[length]``; the mask is 1 for tokens, then 0 for padding; types are 0, then 1. None: 1 and 0
            everywhere.

    Raises:
        Refusal: they are of different lengths, have holes, or ids that the model does not have.
    """
    for name, other in (("the mask", mask), ("the token types", types)):
        if other is not None and len(other) != len(ids):
            raise Refusal(f"there are {len(ids):,} ids, and {name} has {len(other):,} numbers", where=where)
    if len(ids) > rules.longest:  # padding too: it is a part of some answers
        what = "tokens" if mask is None else "tokens with its padding"
        raise Refusal(f"the sequence has {len(ids):,} {what}, and the model reads 1 to {rules.longest:,}", where=where)
    length = len(ids) if mask is None else _length(mask, where)
    ids = ids[:length]
    if not length:
        raise Refusal(f"the sequence has 0 tokens, and the model reads 1 to {rules.longest:,}", where=where)
    _check_range(ids, rules.vocabulary, "id", where)
    second = length if types is None else _second(types[:length], rules.kinds, where)
    read = range(length) if rules.head.kind == "token" else ()
    return Row(ids.tolist(), second, (), read)


def numbers_of(value: Any, where: str) -> Ids:
    """A list of whole numbers as an array.

    Raises:
        Refusal: it is not one.
    """
    if not isinstance(value, list):
        raise Refusal(f"this is not a list of whole numbers: {shown(value)}", where=where)
    for place, number in enumerate(value):
        if type(number) is not int or not -(1 << 62) < number < 1 << 62:
            raise Refusal(f"this is not a list of whole numbers: number {place + 1:,} is {shown(number)}", where=where)
    return np.array(value, dtype=np.int64)


def _length(mask: Ids, where: str) -> int:
    """Tokens before the padding."""
    _check_range(mask, 2, "mask", where)
    length = int(mask.sum())
    if mask[:length].all():
        return length
    place = int(mask.argmin())
    raise Refusal(
        f"the mask is 0 at place {place:,} and 1 behind it", where=where, hint="padding stands behind all tokens"
    )


def _second(types: Ids, kinds: int, where: str) -> int:
    """Where the second segment begins."""
    _check_range(types, min(kinds, 2), "token type", where)
    second = len(types) - int(types.sum())
    if types[:second].any():
        raise Refusal("the token types do not go from 0 to 1 once", where=where,
                      hint="0 for the first segment, 1 for the second, which stands behind it")  # fmt: skip
    return second


def _check_range(numbers: Ids, end: int, name: str, where: str) -> None:
    wrong = (numbers < 0) | (numbers >= end)
    if wrong.any():
        place = int(wrong.argmax())
        raise Refusal(f"the {name} at place {place:,} is {int(numbers[place])}: from 0 to {end - 1:,} are known",
                      where=where)  # fmt: skip
