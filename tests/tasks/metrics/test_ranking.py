"""Equal to Microsoft's msmarco_eval.py and trec_eval, recorded from them, and to a slow reading of the definitions."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import InputError
from bertjobs.tasks.metrics.ranking import Judged, judged_counts, msmarco_line, ranked, ranking_scores, trec_line
from tests.tasks.metrics.official.record_ranking import FILE

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))
ROW = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 2))  # query, score, grade
ROWS = st.lists(ROW, min_size=1, max_size=40)


def judged_of(qrels: dict[str, dict[str, int]]) -> Judged:
    rows = [(int(query), grade) for query, grades in qrels.items() for grade in grades.values()]
    return Judged(*np.array(rows).T)


@pytest.mark.parametrize("file", RECORDED, ids=range(len(RECORDED)))
def test_scores_are_the_official_ones(file: dict[str, Any]) -> None:
    rows = [
        (int(query), score, file["qrels"][query].get(passage, 0))
        for query, scores in file["run"].items()
        for passage, score in scores.items()
    ]
    scores = ranking_scores(*np.array(rows).T, judged_of(file["qrels"]))
    assert {name: scores.values[name] for name in file["official"]} == pytest.approx(file["official"], abs=1e-9)
    assert (scores.values["queries"], scores.values["ranked"]) == (12, 10)
    mean = file["official"]["mrr@10"] * 12 / 10
    assert scores.notes[0] == (
        f"2 of 12 queries of the qrels have no candidates, counted as 0; over the others MRR@10 is {mean:.4f}"
    )


@pytest.mark.parametrize("file", RECORDED, ids=range(len(RECORDED)))
def test_equal_scores_in_a_run_file_stand_as_trec_eval_sorts_them(file: dict[str, Any]) -> None:
    qrels, run = file["qrels"], file["tied"]["run"]
    rows = [(query, passage, score) for query, scores in run.items() for passage, score in scores.items()]
    queries, passages, scores = (np.array(column) for column in zip(*rows, strict=True))
    best = dict.fromkeys(qrels, 0.0)
    for one in ranked(queries, passages, scores):
        if qrels[one.query].get(one.passage, 0) > 0:
            best[one.query] = max(best[one.query], 1 / one.rank)
    assert sum(best.values()) / len(qrels) == pytest.approx(file["tied"]["mrr"], abs=1e-9)
    grades = np.array([qrels[query].get(passage, 0) for query, passage, _ in rows])
    ours = ranking_scores(queries.astype(np.int64), scores, grades, judged_of(qrels)).values["mrr"]
    assert ours < file["tied"]["mrr"]  # the worst order of equal scores


def test_counts_are_judged_like_the_qrels_themselves() -> None:
    for file in RECORDED[:2]:  # grades of 0 and 1
        numbers = {query: number for number, query in enumerate(file["run"])}
        rows = [
            (numbers[query], score, file["qrels"][query].get(passage, 0))
            for query, scores in file["run"].items()
            for passage, score in scores.items()
        ]
        relevant = [sum(file["qrels"][query].values()) for query in file["run"]]
        assert 0 in relevant
        columns = np.array(rows).T
        values = ranking_scores(*columns, judged_counts(relevant, len(file["qrels"]))).values
        assert {name: values[name] for name in file["official"]} == pytest.approx(file["official"], abs=1e-9)


def slow(rows: list[tuple[int, int, int]]) -> dict[str, float]:
    """From the definitions, query by query; between equal scores the lower grade stands first."""
    sums = dict.fromkeys(("mrr@10", "mrr", "ndcg@10", "recall@2"), 0.0)
    queries = {query for query, _, _ in rows}
    for query in queries:
        ranked = [grade for _, grade in sorted((-score, grade) for name, score, grade in rows if name == query)]
        relevant = [place for place, grade in enumerate(ranked, start=1) if grade > 0]
        if relevant:
            sums["mrr"] += 1 / relevant[0]
            sums["mrr@10"] += 1 / relevant[0] if relevant[0] <= 10 else 0
            sums["recall@2"] += sum(place <= 2 for place in relevant) / len(relevant)
            gains, best = (
                sum(grade / math.log2(place + 1) for place, grade in enumerate(grades[:10], start=1))
                for grades in (ranked, sorted(ranked, reverse=True))
            )
            sums["ndcg@10"] += gains / best
    return {name: value / len(queries) for name, value in sums.items()}


@given(ROWS, st.randoms(use_true_random=False))
def test_scores_are_those_of_the_definitions_in_any_order(rows: list[tuple[int, int, int]], random: Any) -> None:
    expected = slow(rows)
    random.shuffle(rows)
    values = ranking_scores(*np.array(rows).T, recall_at=[2]).values
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    named = np.array([f"query-{query}" for query, _, _ in rows])
    assert ranking_scores(named, *np.array(rows).T[1:], recall_at=[2]).values == pytest.approx(values)


@given(ROWS)
def test_the_grades_themselves_are_a_perfect_ranking(rows: list[tuple[int, int, int]]) -> None:
    queries, _, grades = np.array(rows).T
    values = ranking_scores(queries, grades, grades).values
    with_relevant = len(set(queries[grades > 0])) / len(set(queries))
    assert [values[name] for name in ("mrr@10", "mrr", "ndcg@10")] == pytest.approx([with_relevant] * 3)


def test_a_constant_scorer_gets_the_worst_order() -> None:
    queries, grades = np.repeat([1, 2], 1000), np.zeros(2000, dtype=np.uint8)
    grades[[0, 1000]] = 1  # first in the file
    values = ranking_scores(queries, np.zeros(2000), grades).values
    assert values["mrr@10"] == values["ndcg@10"] == values["recall@100"] == 0
    assert values["mrr"] == pytest.approx(1 / 1000)


def test_ten_is_seen_and_eleven_is_not() -> None:
    scores = -np.arange(12.0)
    at_10, at_11 = (ranking_scores(np.ones(12), scores, np.arange(12) == place).values for place in (9, 10))
    assert (at_10["mrr@10"], at_11["mrr@10"]) == (0.1, 0)
    assert at_11["mrr"] == pytest.approx(1 / 11)


def test_relevant_passages_that_are_no_candidates_count() -> None:
    judged = Judged(np.array([1, 1, 1, 2]), np.array([1, 1, 0, 0]))
    scores = ranking_scores(np.array([1, 2, 3]), np.array([0.5, math.nan, 1.0]), np.array([1, 0, 0]), judged)
    assert scores.values["recall@10"] == 0.25
    assert scores.values["ndcg@10"] == pytest.approx(0.5 / (1 + 1 / math.log2(3)))
    assert scores.notes == (
        "1 of 2 queries have no relevant passage; counted as 0",
        "1 of 3 candidates are of queries that the qrels do not have; left out",
        "1 of 3 scores are not numbers; ranked last",
    )


def test_qrels_of_other_queries() -> None:
    scores = ranking_scores(np.array([1]), np.array([1.0]), np.array([0]), Judged(np.array([7]), np.array([1])))
    assert scores.values["mrr@10"] == scores.values["ranked"] == 0
    assert scores.notes[0] == "1 of 1 queries of the qrels have no candidates, counted as 0"


def test_what_cannot_be_scored() -> None:
    one = np.array([1])
    with pytest.raises(InputError, match="the numbers of predictions and of candidates differ: 2 and 1"):
        ranking_scores(one, np.array([1, 2]), one)
    with pytest.raises(InputError, match="there is no judged query"):
        ranking_scores(one, one, one, Judged(one[:0], one[:0]))
    with pytest.raises(InputError, match=r"1 query has more relevant candidates than the qrels name: 5"):
        ranking_scores(np.array([5, 5]), np.array([1, 2]), np.array([1, 1]), Judged(np.array([5]), one))


def test_lines_of_run_files() -> None:
    queries, passages = np.array([9, 3, 9, 9]), np.array(["D2", "D1", "D4", "D3"])
    rows = list(ranked(queries, passages, np.array([0.5, 1 / 3, 2.0, 0.5])))
    assert [trec_line(one, "bert") for one in rows] == [
        "3 Q0 D1 1 0.333333343 bert\n",
        "9 Q0 D4 1 2 bert\n",
        "9 Q0 D3 2 0.5 bert\n",
        "9 Q0 D2 3 0.5 bert\n",
    ]
    assert [msmarco_line(one) for one in rows] == ["3\tD1\t1\n", "9\tD4\t1\n", "9\tD3\t2\n", "9\tD2\t3\n"]


def test_the_order_of_a_run_file_does_not_depend_on_that_of_the_candidates() -> None:
    ids = np.array(["3", "20", "100", "D"])
    there, back = (list(ranked(np.ones(4), ids[order], np.zeros(4))) for order in ([0, 1, 2, 3], [3, 2, 1, 0]))
    assert there == back
    assert [one.passage for one in there] == ["D", "3", "20", "100"]


@given(st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=20))
def test_scores_differ_in_a_run_file_where_they_differ(scores: list[float]) -> None:
    rows = list(ranked(np.ones(len(scores)), np.arange(len(scores)), np.array(scores)))
    written = [np.float32(trec_line(one, "bert").split()[4]) for one in rows]
    assert [float(one) for one in written] == sorted(scores, reverse=True)


def test_ids_in_run_files_are_words() -> None:
    one = np.array([1])
    with pytest.raises(InputError, match="an id in a run file is one word, not 'D 1'"):
        list(ranked(one, np.array(["D 1"]), one))
