"""Token ids of clients: taken without their padding, or refused in words."""

from __future__ import annotations

import numpy as np
import pytest

from bertjobs.serve.refusal import Refusal
from bertjobs.serve.token_rows import TokenRules, numbers_of, row_of
from bertjobs.tasks.rows import Head

RULES = TokenRules(vocabulary=20, longest=6, kinds=2, head=Head("token", 3))


def array(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def test_padding_is_left_out() -> None:
    row = row_of(array(2, 7, 3, 8, 3, 0), array(1, 1, 1, 1, 1, 0), array(0, 0, 0, 1, 1, 0), RULES, "")
    assert (row.ids, row.second, list(row.read)) == ([2, 7, 3, 8, 3], 3, [0, 1, 2, 3, 4])
    row = row_of(array(2, 7, 3), None, None, RULES, "")
    assert (row.ids, row.second) == ([2, 7, 3], 3)


def test_what_stands_at_padding_is_not_looked_at() -> None:
    row = row_of(array(2, 3, 99), array(1, 1, 0), array(0, 0, 5), RULES, "")
    assert (row.ids, row.second) == ([2, 3], 2)


@pytest.mark.parametrize(
    ("ids", "mask", "types", "words"),
    [
        (array(2, 20, 3), None, None, "the id at place 1 is 20: from 0 to 19 are known"),
        (array(2, -1, 3), None, None, "the id at place 1 is -1"),
        (array(*[2] * 7), None, None, "the sequence has 7 tokens, and the model reads 1 to 6"),
        (array(*[2] * 7), array(1, *[0] * 6), None, "the sequence has 7 tokens with its padding, and the model reads"),
        (array(2, 3), array(0, 0), None, "the sequence has 0 tokens"),
        (array(2, 3), array(0, 1), None, "the mask is 0 at place 0 and 1 behind it"),
        (array(2, 3), array(1, 2), None, "the mask at place 1 is 2: from 0 to 1 are known"),
        (array(2, 3), array(1), None, "there are 2 ids, and the mask has 1 numbers"),
        (array(2, 3), None, array(1, 0), "the token types do not go from 0 to 1 once"),
        (array(2, 3), None, array(0, 2), "the token type at place 1 is 2: from 0 to 1 are known"),
    ],
)
def test_what_the_model_cannot_read(
    ids: np.ndarray, mask: np.ndarray | None, types: np.ndarray | None, words: str
) -> None:
    with pytest.raises(Refusal) as caught:
        row_of(ids, mask, types, RULES, "sequence 1")
    assert words in caught.value.what
    assert caught.value.where == "sequence 1"


@pytest.mark.parametrize("value", [5, "12", [1, "2"], [True], [1.5], [1 << 70], [[1]], None])
def test_what_is_not_a_list_of_whole_numbers(value: object) -> None:
    with pytest.raises(Refusal, match="not a list of whole numbers"):
        numbers_of(value, "input_ids")
    assert numbers_of([1, 2], "").tolist() == [1, 2]
