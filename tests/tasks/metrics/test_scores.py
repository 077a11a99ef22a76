from __future__ import annotations

import pytest

from bertjobs.errors import InputError
from bertjobs.tasks.metrics.scores import check_lengths, f1_of, listed, share


def test_a_share_of_nothing_is_0() -> None:
    assert share(3, 4) == 0.75
    assert share(0, 0) == 0


def test_f1_is_the_harmonic_mean() -> None:
    assert f1_of(0.5, 1) == pytest.approx(2 / 3)
    assert f1_of(0, 0) == 0


def test_long_lists_are_cut() -> None:
    assert listed("abcde") == "a, b, c, d, e"
    assert listed("abcdefgh") == "a, b, c, d, e and 3 more"


def test_one_prediction_per_example() -> None:
    check_lengths([1], [2])
    with pytest.raises(InputError, match="the numbers of predictions and of examples differ: 1 and 2"):
        check_lengths([1, 2], [1])
    with pytest.raises(InputError, match="there is no question to score"):
        check_lengths([], [], "question")
