"""MS MARCO's files, and the mistake of taking the wrong qrels."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from bertjobs.tasks.example import Candidate
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading.msmarco import read_candidates, read_qrels, read_texts, read_triples
from tests.tasks.reading.files import refused, write


def test_a_triple_is_two_candidates(tmp_path: Path) -> None:
    path = write(tmp_path / "triples.tsv", 'is "it"\tyes\tno', "q\tp\tn")
    assert list(islice(read_triples(path, Notes()), 2)) == [
        Candidate("1", "positive", 'is "it"', "yes", 1, 0, "triples.tsv, line 1"),
        Candidate("1", "negative", 'is "it"', "no", 0, 0, "triples.tsv, line 1"),
    ]
    assert len(list(read_triples(path, Notes()))) == 4


def test_triples_are_read_one_by_one(tmp_path: Path) -> None:
    path = write(tmp_path / "triples.tsv", "q\tp\tn", "damaged")
    assert next(read_triples(path, Notes())).relevant == 1  # the damage behind is not seen yet
    assert "triples.tsv, line 2" in refused(read_triples(path, Notes()))


def test_candidates_are_judged_and_ranked_in_the_files_order(tmp_path: Path) -> None:
    qrels = read_qrels(write(tmp_path / "qrels.tsv", "7 0 70 1", "8\t0\t81\t1", "8\t0\t80\t0"), Notes())
    assert qrels == {"7": {"70"}, "8": {"81"}}
    path = write(tmp_path / "top1000.dev", "7\t71\tQ\tA", "8\t81\tR\tB", "7\t70\tQ\tC", "9\t81\tS\tB")
    notes = Notes()
    read = [(one.id, one.relevant, one.rank) for one in read_candidates(path, qrels, notes)]
    assert read == [("7 71", 0, 1), ("8 81", 1, 1), ("7 70", 1, 2), ("9 81", 0, 1)]
    assert notes.lines() == [
        "1 candidates of queries that the qrels do not judge count as not relevant (first: top1000.dev, line 4)"
    ]
    assert [one.relevant for one in read_candidates(path, None, notes)] == [None] * 4


def test_qrels_of_other_queries_are_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "top1000.dev", "0\t1\tQ\tA", "1\t1\tR\tA")
    few = read_qrels(write(tmp_path / "qrels.dev.small.tsv", *[f"{number} 0 1 1" for number in range(4)]), Notes())
    notes = Notes()
    list(read_candidates(path, few, notes))
    assert notes.lines() == []
    many = read_qrels(write(tmp_path / "qrels.dev.tsv", *[f"{number} 0 1 1" for number in range(5)]), Notes())
    list(read_candidates(path, many, notes))
    (line,) = notes.lines()
    assert line.startswith("3 of 5 queries of the qrels have no candidates: is it qrels.dev.tsv in place of qrels.dev")
    assert line.endswith("(first: query 2)")


def test_queries_and_collection_are_ids_and_texts(tmp_path: Path) -> None:
    path, notes = write(tmp_path / "queries.tsv", "0\twhat is it", "", "1\tWhy?"), Notes()
    assert list(read_texts(path, notes)) == [("0", "what is it"), ("1", "Why?")]
    assert notes.lines() == ["1 blank lines in queries.tsv (first: queries.tsv, line 2)"]


@pytest.mark.parametrize(
    ("kind", "rows", "says"),
    [
        ("triples", ["q\tp\tn", "q\tp"], ["2 fields, not 3", "f.tsv, line 2", "query, positive, negative"]),
        ("triples", ["q\t\tn"], ["the positive is empty", "f.tsv, line 1"]),
        ("triples", [""], ["f.tsv has no lines"]),
        ("qrels", ["7 0 70 1", "7 0 70"], ["3 fields, not 4", "f.tsv, line 2"]),
        ("qrels", ["7 0 70 yes"], ["the relevance 'yes' is not a whole number", "f.tsv, line 1"]),
        ("qrels", ["7 0 70 1", "7 0 70 1"], ["the id '7 70' occurs a second time", "f.tsv, line 2"]),
        ("candidates", ["7\t70\tQ\tA"] * 2, ["the id '7 70' occurs a second time", "f.tsv, line 2"]),
        ("candidates", ["7\t70\tQ"], ["3 fields, not 4", "query-id, passage-id, query, passage"]),
        ("texts", ["7\tQ", "7\tR"], ["the id '7' occurs a second time", "f.tsv, line 2"]),
        ("texts", ["7"], ["1 field, not 2", "f.tsv, line 1"]),
    ],
)
def test_a_damaged_line_is_refused(tmp_path: Path, kind: str, rows: list[str], says: list[str]) -> None:
    path, notes = write(tmp_path / "f.tsv", *rows), Notes()
    if kind == "candidates":
        message = refused(read_candidates(path, None, notes))
    elif kind == "qrels":
        message = refused(iter(lambda: read_qrels(path, notes), None))
    else:
        message = refused({"triples": read_triples, "texts": read_texts}[kind](path, notes))
    assert all(part in message for part in says), message
