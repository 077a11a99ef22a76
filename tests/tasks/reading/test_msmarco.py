"""MS MARCO's files, and the mistake of taking the wrong qrels."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from bertjobs.tasks.example import Candidate
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading.msmarco import has_ids_only, read_candidates, read_qrels, read_triples
from bertjobs.tasks.reading.text_index import Texts
from tests.tasks.reading.files import refused, write


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    """Queries 7 to 9 in two files, and passages 70 to 81."""
    write(tmp_path / "queries.dev.tsv", "7\twhat is it", "8\tWhy?")
    write(tmp_path / "queries.train.tsv", "9\twho")
    write(tmp_path / "collection.tsv", *(f"{number}\tpassage {number}" for number in range(70, 82)))
    return Texts(tmp_path)


def test_a_triple_is_two_candidates(tmp_path: Path) -> None:
    path = write(tmp_path / "triples.tsv", 'is "it"\tyes\tno', "q\tp\tn")
    assert list(islice(read_triples(path, Notes(), Texts(tmp_path)), 2)) == [
        Candidate("1", "positive", 'is "it"', "yes", 1, 0, "triples.tsv, line 1"),
        Candidate("1", "negative", 'is "it"', "no", 0, 0, "triples.tsv, line 1"),
    ]
    assert len(list(read_triples(path, Notes(), Texts(tmp_path)))) == 4


def test_triples_are_read_one_by_one(tmp_path: Path) -> None:
    path = write(tmp_path / "triples.tsv", "q\tp\tn", "damaged")
    assert next(read_triples(path, Notes(), Texts(tmp_path))).relevant == 1  # the damage behind is not seen yet
    assert "triples.tsv, line 2" in refused(read_triples(path, Notes(), Texts(tmp_path)))


def test_candidates_are_judged_and_ranked_in_the_files_order(tmp_path: Path) -> None:
    qrels = read_qrels(write(tmp_path / "qrels.tsv", "7 0 70 1", "8\t0\t81\t1", "8\t0\t80\t0"), Notes())
    assert qrels == {"7": {"70"}, "8": {"81"}}
    path = write(tmp_path / "top1000.dev", "7\t71\tQ\tA", "8\t81\tR\tB", "7\t70\tQ\tC", "9\t81\tS\tB")
    notes = Notes()
    read = [(one.id, one.relevant, one.rank) for one in read_candidates(path, qrels, notes, Texts(tmp_path))]
    assert read == [("7 71", 0, 1), ("8 81", 1, 1), ("7 70", 1, 2)]
    assert notes.lines() == [
        "1 candidates of queries that the qrels do not judge were left out (first: top1000.dev, line 4)"
    ]
    assert [one.relevant for one in read_candidates(path, None, notes, Texts(tmp_path))] == [None] * 4


def test_qrels_of_other_queries_are_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "top1000.dev", "0\t1\tQ\tA", "1\t1\tR\tA")
    few = read_qrels(write(tmp_path / "qrels.dev.small.tsv", *[f"{number} 0 1 1" for number in range(4)]), Notes())
    notes = Notes()
    list(read_candidates(path, few, notes, Texts(tmp_path)))
    assert notes.lines() == []
    many = read_qrels(write(tmp_path / "qrels.dev.tsv", *[f"{number} 0 1 1" for number in range(5)]), Notes())
    list(read_candidates(path, many, notes, Texts(tmp_path)))
    (line,) = notes.lines()
    assert line.startswith("3 of 5 queries of the qrels have no candidates: is it qrels.dev.tsv in place of qrels.dev")
    assert line.endswith("(first: query 2)")


def test_a_candidate_knows_how_much_the_qrels_judge(tmp_path: Path) -> None:
    qrels = read_qrels(
        write(tmp_path / "qrels.tsv", "7 0 70 1", "7 0 71 2", "7 0 72 0", "8 0 81 0", "9 0 1 1"), Notes()
    )
    path = write(tmp_path / "top1000.dev", "7\t72\tQ\tA", "8\t81\tR\tB")
    read = list(read_candidates(path, qrels, Notes(), Texts(tmp_path)))
    assert [(one.relevant, one.query_relevant, one.judged_queries) for one in read] == [(0, 2, 3), (0, 0, 3)]


@pytest.mark.parametrize(
    ("rows", "ranks"),
    [
        (["7\t71\t2", "9\t80\t1", "7\t70\t1"], [2, 1, 1]),
        (["7\t71\t2\t1.5", "9\t80\t1\t2", "7\t70\t1\t-3e1"], [2, 1, 1]),
        (["7 71 2 1.5", "9 80 1 2", "7 70 1 3"], [2, 1, 1]),
        (["7 0 71 0 3.5 bm25", "9 0 80 0 2 bm25", "7 0 70 1 1.5 bm25"], [1, 1, 2]),
        (["7 Q0 71 0 3.5 bm25", "9 Q0 80 0 2 bm25", "7 Q0 70 1 1.5 bm25"], [1, 1, 2]),
        (["7\tQ0\t71\t1\t3.5\tbm25", "9\tQ0\t80\t1\t2\tbm25", "7\tQ0\t70\t2\t1.5\tbm25"], [1, 1, 2]),
    ],
    ids=["msmarco", "scored", "scored with blanks", "trec with 0", "trec", "trec with tabs"],
)
def test_the_texts_of_a_run_file_are_looked_up(tmp_path: Path, texts: Texts, rows: list[str], ranks: list[int]) -> None:
    path = write(tmp_path / "run.dev", *rows)
    assert has_ids_only(path)
    read = list(read_candidates(path, None, Notes(), texts))
    assert [(one.id, one.query, one.passage) for one in read] == [
        ("7 71", "what is it", "passage 71"), ("9 80", "who", "passage 80"), ("7 70", "what is it", "passage 70")
    ]  # fmt: skip
    assert [one.rank for one in read] == ranks
    assert read[2].where == "run.dev, line 3"


def test_the_texts_of_triples_of_ids_are_looked_up(tmp_path: Path, texts: Texts) -> None:
    path = write(tmp_path / "qidpidtriples.tsv", "7\t70\t71", "9\t80\t81")
    assert has_ids_only(path)
    read = list(read_triples(path, Notes(), texts))
    assert read[:2] == [
        Candidate("7", "70", "what is it", "passage 70", 1, 0, "qidpidtriples.tsv, line 1"),
        Candidate("7", "71", "what is it", "passage 71", 0, 0, "qidpidtriples.tsv, line 1"),
    ]
    assert [(one.id, one.passage) for one in read[2:]] == [("9 80", "passage 80"), ("9 81", "passage 81")]
    assert not has_ids_only(write(tmp_path / "triples.tsv", "7\t70\tno id"))
    for texts_of_line in ("7\t70\t71\ta word", "7\t70\twhat is 71\t72"):
        assert not has_ids_only(write(tmp_path / "top1000.dev", texts_of_line))


def test_an_id_without_a_text_is_refused(tmp_path: Path, texts: Texts) -> None:
    message = refused(read_triples(write(tmp_path / "ids.tsv", "7\t70\t71", "7\t70\t99"), Notes(), texts))
    assert "passage 99 is not in collection.tsv" in message
    assert "ids.tsv, line 2" in message
    message = refused(read_candidates(write(tmp_path / "run.tsv", "6\t70\t1"), None, Notes(), texts))
    assert "query 6 is not in queries.dev.tsv, queries.train.tsv" in message
    (tmp_path / "collection.tsv").unlink()
    message = refused(read_candidates(write(tmp_path / "run.tsv", "7\t70\t1"), None, Notes(), Texts(tmp_path)))
    assert "ids are given, and there is no collection.tsv with their texts" in message
    assert f"data/msmarco.sh --what queries,collection {tmp_path}" in message
    (tmp_path / "two words").mkdir()
    message = refused(read_candidates(tmp_path / "run.tsv", None, Notes(), Texts(tmp_path / "two words")))
    assert f"--what queries,collection '{tmp_path}/two words'" in message


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
        ("candidates", ["7\t70\t1\t0.5", "7\t71\t0\t0.4"], ["the rank '0' is not a whole number", "f.tsv, line 2"]),
        ("candidates", ["7\t70\tQ"], ["3 fields, not 4", "query-id, passage-id, query, passage"]),
        ("candidates", ["7\t70\t1", "7\t71\t0"], ["the rank '0' is not a whole number above 0", "f.tsv, line 2"]),
        ("candidates", ["7 Q0 70 1 0.5 x", "7 Q0 71 2 0.4"], ["5 fields, not 6", "f.tsv, line 2"]),
        ("judged", ["6\t70\tQ\tA"], ["no candidate is of a query that the qrels judge", "qrels of another split"]),
    ],
)
def test_a_damaged_line_is_refused(tmp_path: Path, texts: Texts, kind: str, rows: list[str], says: list[str]) -> None:
    path, notes = write(tmp_path / "f.tsv", *rows), Notes()
    if kind in ("candidates", "judged"):
        message = refused(read_candidates(path, {"7": frozenset()} if kind == "judged" else None, notes, texts))
    elif kind == "qrels":
        message = refused(iter(lambda: read_qrels(path, notes), None))
    else:
        message = refused(read_triples(path, notes, texts))
    assert all(part in message for part in says), message
