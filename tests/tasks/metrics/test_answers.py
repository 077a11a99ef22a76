"""Equal to the functions of SQuAD's official scripts, recorded from them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import InputError
from bertjobs.tasks.metrics.answers import answer_f1, exact_match, normalised, squad1_scores, squad2_scores
from tests.tasks.metrics.official.record_squad import FILE

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))
TEXT = st.text("a the.X ", max_size=8)
# What is articles alone equals "no answer" in the official scores, but the official search for thresholds takes it for
# an answer: there a threshold can score more than the best.
PREDICTION = TEXT.filter(lambda text: bool(normalised(text)) or not text)
ROWS = st.lists(st.tuples(PREDICTION, st.lists(TEXT, max_size=2), st.integers(-20, 20)), min_size=1, max_size=12)


def test_answers_match_as_the_official_functions_say() -> None:
    for (predicted, gold), measured in zip(RECORDED["pairs"], RECORDED["measured"], strict=True):
        assert normalised(predicted) == measured["normalised"]
        assert exact_match(predicted, gold) == measured["exact"]
        assert answer_f1(predicted, gold) == pytest.approx(measured["f1"], abs=1e-12)


@pytest.mark.parametrize("file", RECORDED["files"], ids=range(len(RECORDED["files"])))
def test_scores_and_thresholds_are_the_official_ones(file: dict[str, Any]) -> None:
    values = squad2_scores(file["golds"], file["predictions"], file["null_odds"], file["threshold"]).values
    assert {name: values[name] for name in file["official"]} == pytest.approx(file["official"], abs=1e-12)


def test_parts_with_and_without_an_answer() -> None:
    golds = {"q1": ["sushi"], "q2": ["raw fish", "fish"], "q3": []}
    values = squad2_scores(golds, {"q1": "the Sushi.", "q2": "raw meat", "q3": "pie"}).values
    assert values == {
        **{"exact": 1 / 3, "f1": 0.5, "total": 3},
        **{"HasAns_exact": 0.5, "HasAns_f1": 0.75, "HasAns_total": 2},
        **{"NoAns_exact": 0, "NoAns_f1": 0, "NoAns_total": 1},
    }


def test_a_part_without_questions_is_0_and_said() -> None:
    scores = squad2_scores({"q": ["x"]}, {"q": "x"})
    assert scores.values["NoAns_exact"] == 0
    assert scores.notes == ("NoAns_exact and NoAns_f1 are undefined: there is no such question; counted as 0",)


def test_squad_1_counts_a_question_without_prediction_as_0() -> None:
    scores = squad1_scores({"q1": ["Éa", "x"], "q2": ["y z"], "q3": ["the"]}, {"q1": "éa!", "q3": "a"})
    assert scores.values == {"exact": pytest.approx(2 / 3), "f1": pytest.approx(1 / 3), "total": 3}
    assert scores.notes == ("no prediction for 1 of 3 questions: q2; counted as 0",)


def test_what_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="there is no question to score"):
        squad2_scores({}, {})
    with pytest.raises(InputError, match="1 of 2 questions have no answer: q2"):
        squad1_scores({"q1": ["x"], "q2": []}, {})
    with pytest.raises(InputError, match="no prediction for 1 of 1 questions: q"):
        squad2_scores({"q": ["x"]}, {})
    with pytest.raises(InputError, match="no null odds for 1 of 1 questions: q"):
        squad2_scores({"q": ["x"]}, {"q": "x"}, {})
    with pytest.raises(InputError, match="null odds that are not finite numbers: of q"):
        squad2_scores({"q": ["x"]}, {"q": "x"}, {"q": float("nan")})


def test_a_threshold_of_differences_of_logits_is_in_their_unit() -> None:
    golds: dict[str, list[str]] = {"q1": ["x"], "q2": [], "q3": []}
    predictions = {"q1": "x", "q2": "y", "q3": "y"}
    values = squad2_scores(golds, predictions, {"q1": -7.5, "q2": -3.0, "q3": 4.0}).values
    assert (values["best_f1"], values["best_f1_thresh"]) == (1, -7.5)
    values = squad2_scores(golds, predictions | {"q1": "z"}, {"q1": -7.5, "q2": -3.0, "q3": 4.0}).values
    assert values["best_f1"] == pytest.approx(2 / 3)
    assert values["best_f1_thresh"] < -7.5  # 0, the script's own, would give wrong answers to q1 and q2


def test_a_best_score_that_no_threshold_reaches_is_said() -> None:
    scores = squad2_scores({"q1": ["x"], "q2": []}, {"q1": "x", "q2": "y"}, {"q1": 0.5, "q2": 0.5})
    assert scores.values["best_exact"] == 1
    assert scores.notes[0] == (
        "best exact orders questions with the same null odds as they come: a threshold of 0.5 itself scores 0.5000"
    )


@given(ROWS)
def test_no_threshold_is_better_than_the_best(rows: list[tuple[str, list[str], int]]) -> None:
    golds = {str(number): row[1] for number, row in enumerate(rows)}
    predictions = {str(number): row[0] for number, row in enumerate(rows)}
    odds = {str(number): row[2] for number, row in enumerate(rows)}
    best = squad2_scores(golds, predictions, odds, threshold=100)
    assert all(0 <= best.values[name] <= 1 for name in ("exact", "f1", "best_exact", "best_f1"))
    reached = [squad2_scores(golds, predictions, odds, threshold).values["f1"] for threshold in range(-21, 22)]
    assert max(reached) <= best.values["best_f1"] + 1e-12
    at_best = squad2_scores(golds, predictions, odds, best.values["best_f1_thresh"]).values["f1"]
    assert at_best == pytest.approx(best.values["best_f1"]) or any("best f1" in note for note in best.notes)


@given(st.lists(TEXT, min_size=1))
def test_the_answers_themselves_are_perfect(texts: list[str]) -> None:
    golds = {str(number): [text] for number, text in enumerate(texts)}
    values = squad2_scores(golds, {question: answers[0] for question, answers in golds.items()}).values
    assert values["exact"] == values["f1"] == 1
