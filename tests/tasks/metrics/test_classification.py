"""Values are scikit-learn's and scipy's on the examples themselves; what is undefined is 0, and said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from bertjobs.errors import InputError
from bertjobs.tasks.metrics.classification import class_scores, confusion, correlations, label_scores
from bertjobs.tasks.metrics.scores import Scores

NAMES = ("sun", "rain", "snow")
PAIRS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)
NUMBERS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=60)
ROWS = st.lists(st.tuples(*[st.booleans()] * 6), min_size=1, max_size=40)


def scored(gold: list[int], predicted: list[int], positive: tuple[int, ...] = ()) -> Scores:
    return class_scores(confusion(np.array(gold), np.array(predicted), len(NAMES)), NAMES, positive)


@pytest.mark.filterwarnings("ignore:A single label was found")  # of scikit-learn, called here without classes
@given(PAIRS)
def test_scores_of_classes_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = map(list, zip(*pairs, strict=True))
    values = scored(gold, predicted, positive=(1,)).values
    each = metrics.precision_recall_fscore_support(gold, predicted, labels=[0, 1, 2], zero_division=0)
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    assert values["matthews"] == pytest.approx(metrics.matthews_corrcoef(gold, predicted))
    assert values["macro_f1"] == pytest.approx(metrics.f1_score(gold, predicted, average="macro", zero_division=0))
    assert [values[f"f1/{name}"] for name in NAMES] == pytest.approx(each[2])
    assert [values[f"recall/{name}"] for name in NAMES] == pytest.approx(each[1])
    assert [values[name] for name in ("precision", "recall", "f1")] == pytest.approx([part[1] for part in each[:3]])


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_examples_and_how_they_are_cut_change_nothing(
    pairs: list[tuple[int, int]], random: object
) -> None:
    whole = confusion(*np.array(pairs).T, 3)
    shuffled = pairs.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    parts = [confusion(*np.array(part).T, 3) for part in (shuffled[:10], shuffled[10:]) if part]
    assert (sum(parts) == whole).all()


@given(PAIRS)
def test_bounds(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = map(list, zip(*pairs, strict=True))
    assert all(
        (-1 if name == "matthews" else 0) <= value <= 1 for name, value in scored(gold, predicted).values.items()
    )


def test_perfect_predictions() -> None:
    assert set(scored([0, 1, 2, 1], [0, 1, 2, 1], positive=(1, 2)).values.values()) == {1.0}
    assert not scored([0, 1, 2, 1], [0, 1, 2, 1]).notes


def test_several_positive_classes_count_together() -> None:
    values = scored([0, 1, 2, 2, 0], [1, 1, 2, 0, 0], positive=(1, 2)).values
    assert (values["precision"], values["recall"]) == (2 / 3, 2 / 3)


def test_counts_of_millions_of_examples_are_exact() -> None:
    counts = np.array([[3_000_000, 1], [2, 4_000_000_000]])
    values = class_scores(counts, ("no", "yes"), (1,)).values
    assert values["precision"] == 4_000_000_000 / 4_000_000_001
    assert values["matthews"] == pytest.approx(
        (3e6 * 4e9 - 2) / math.sqrt((4e9 + 1) * (4e9 + 2) * (3e6 + 1) * (3e6 + 2)), rel=1e-12
    )


def test_constant_predictions() -> None:
    scores = scored([0, 1, 1], [0, 0, 0], positive=(1,))
    assert (scores.values["matthews"], scores.values["f1"], scores.values["precision"]) == (0, 0, 0)
    assert scores.values["macro_f1"] == pytest.approx(0.25)  # of sun and rain: 0.5 and 0
    assert scores.notes == (
        "Matthews correlation is undefined: all predictions are one class; counted as 0",
        "precision is undefined: no prediction is rain; counted as 0",
        "F1 is undefined for classes without an example and a prediction; macro F1 leaves them out: snow",
        "precision is undefined for the class without prediction, counted as 0: rain",
    )


def test_no_positive_example() -> None:
    scores = scored([0, 0, 2], [0, 1, 2], positive=(1,))
    assert scores.values["recall"] == 0
    assert scores.notes == (
        "recall is undefined: no example is rain; counted as 0",
        "recall is undefined for the class without example, counted as 0: rain",
    )


def test_one_class_only() -> None:
    scores = scored([2, 2], [2, 2])
    assert (scores.values["accuracy"], scores.values["macro_f1"], scores.values["matthews"]) == (1, 1, 0)
    assert scores.notes[0] == "Matthews correlation is undefined: all examples have one class; counted as 0"
    assert scores.notes[1].endswith("macro F1 leaves them out: sun, rain")


def test_nothing_to_score() -> None:
    with pytest.raises(InputError, match="there is no example to score"):
        scored([], [])
    with pytest.raises(InputError, match="there is no example to score"):
        class_scores(np.zeros((3, 3), dtype=np.int64), NAMES)


@pytest.mark.parametrize("strange", [-1, 3])
def test_a_class_out_of_range_is_not_left_out(strange: int) -> None:
    with pytest.raises(InputError, match=r"a class is not one of 0 to 2"):
        scored([0, 1], [0, strange])
    with pytest.raises(InputError, match=r"a class is not one of 0 to 2"):
        scored([0, strange], [0, 1])


@given(ROWS)
def test_scores_of_labels_are_scikit_learns(rows: list[tuple[bool, ...]]) -> None:
    gold, predicted = np.array(rows)[:, :3], np.array(rows)[:, 3:]
    values = label_scores(gold, predicted, NAMES).values
    for average in ("micro", "macro"):
        theirs = metrics.f1_score(gold, predicted, average=average, zero_division=0)
        assert values[f"{average}_f1"] == pytest.approx(theirs)
    assert values["subset_accuracy"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    theirs = metrics.precision_score(gold, predicted, average=None, zero_division=0)
    assert [values[f"precision/{name}"] for name in NAMES] == pytest.approx(theirs)


def test_labels_that_do_not_occur() -> None:
    gold = np.array([[True, False, False], [True, True, False]])
    predicted = np.array([[True, False, False], [True, False, False]])
    scores = label_scores(gold, predicted, NAMES)
    assert scores.values["macro_f1"] == pytest.approx(1 / 3)
    assert scores.values["subset_accuracy"] == 0.5
    assert scores.notes == (
        "F1 is undefined for labels without an example and a prediction, counted as 0: snow",
        "precision is undefined for the label without prediction, counted as 0: rain",
    )
    nothing = label_scores(gold & False, gold & False, NAMES)
    assert (nothing.values["micro_f1"], nothing.values["subset_accuracy"]) == (0, 1)
    assert nothing.notes[0] == "micro F1 is undefined: no example has a label, and none was predicted; counted as 0"


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """From the definition."""
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))


def _ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the definition: equal values share the mean of their places."""
    return np.array([(x < value).sum() + ((x == value).sum() + 1) / 2 for value in x])


@given(NUMBERS)
def test_correlations_are_those_of_the_definition(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = np.array(pairs, dtype=float).T
    scores = correlations(gold, predicted)
    if len(set(gold)) == 1 or len(set(predicted)) == 1:
        assert scores.values == {"pearson": 0, "spearman": 0}
        assert len(scores.notes) == 1
        return
    assert scores.values["pearson"] == pytest.approx(_pearson(gold, predicted), abs=1e-9)
    assert scores.values["spearman"] == pytest.approx(_pearson(_ranks(gold), _ranks(predicted)), abs=1e-9)
    assert not scores.notes


@pytest.mark.parametrize(
    ("gold", "predicted", "why"),
    [
        ([1, 2, 3], [4, 4, 4], "all predictions are equal"),
        ([2, 2, 2], [1, 2, 3], "all true values are equal"),
        ([1, 2, 3], [1, math.nan, 3], "1 of 3 predictions are not finite numbers"),
        ([1], [1], "there is one example"),
    ],
)
def test_undefined_correlations(gold: list[float], predicted: list[float], why: str) -> None:
    scores = correlations(np.array(gold), np.array(predicted))
    assert scores.values == {"pearson": 0, "spearman": 0}
    assert scores.notes == (f"Pearson and Spearman correlation are undefined: {why}; counted as 0",)


def test_values_almost_equal_never_end_as_nan() -> None:
    scores = correlations(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1e-320, 2e-320]))
    assert all(math.isfinite(value) for value in scores.values.values())
    assert scores.values["spearman"] == pytest.approx(1)
