"""Passages for queries: encoding, order, measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bertjobs.errors import InputError
from bertjobs.tasks.example import Candidate
from bertjobs.tasks.ranking import RankingTask
from bertjobs.tasks.task import Fitted
from tests.tasks.encoders import encoder_in

FITTED = Fitted(("not relevant", "relevant"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "triples.train.small.tsv").write_text("what food\tapples\tcanada\nwhat name\tharry\tred\n")
    lines = [f"{query}\tp{number}\twhat food\tapples {number}\n" for query in "12" for number in range(12)]
    (tmp_path / "top1000.dev").write_text("".join(lines))
    (tmp_path / "qrels.dev.small.tsv").write_text("1\t0\tp11\t1\n2\t0\tp3\t1\n")
    return tmp_path


def test_each_triple_is_a_relevant_and_an_irrelevant_pair(data: Path) -> None:
    task = RankingTask()
    files = task.find(data)
    assert set(files) == {"train", "dev"}
    examples = list(task.read(files["train"], "train"))
    rows = task.rows(examples, encoder_in(data / "model", 32), FITTED)
    assert [row.target for (row,) in rows] == [(1,), (0,), (1,), (0,)]
    assert [row.second for (row,) in rows] == [4, 4, 4, 4]
    assert len(list(RankingTask({"triples": "1"}).read(files["train"], "train"))) == 2


def test_the_passage_is_cut_and_not_the_query(data: Path) -> None:
    encoder = encoder_in(data / "model", 16)
    ((row,),) = RankingTask().rows([Candidate("1", "p", "what food", "a " * 50, 1)], encoder, FITTED)
    assert (len(row.ids), row.second, encoder.truncated) == (16, 4, 1)
    ((row,),) = RankingTask({"max_query": "1"}).rows([Candidate("1", "p", "what food", "a", 1)], encoder, FITTED)
    assert row.second == 3


def test_scores_order_the_candidates(data: Path) -> None:
    task = RankingTask()
    examples = list(task.read(data / "top1000.dev", "dev"))
    assert sum(one.relevant or 0 for one in examples) == 2
    outputs = [[np.array([[0.0, 5.0 if one.relevant else 0.0]], dtype=np.float32)] for one in examples]
    encoder = encoder_in(data / "model", 32)
    predictions = task.predict(examples, outputs, encoder, FITTED)
    assert task.score(zip(examples, predictions, strict=True), FITTED).values["mrr@10"] == 1.0
    (file,) = task.write_submission(predictions, "dev", data)
    first = file.read_text().splitlines()[0].split()
    assert first[:4] == ["1", "Q0", "p11", "1"]


def test_a_model_that_scores_all_alike_gets_the_worst_order(data: Path) -> None:
    task = RankingTask()
    examples = list(task.read(data / "top1000.dev", "dev"))
    outputs = [[np.zeros((1, 2), dtype=np.float32)] for _ in examples]
    predictions = task.predict(examples, outputs, encoder_in(data / "model", 32), FITTED)
    assert task.score(zip(examples, predictions, strict=True), FITTED).values["mrr@10"] == 0.0


def test_fewer_candidates_are_those_of_the_best_rank(data: Path) -> None:
    few = list(RankingTask({"candidates": "3"}).read(data / "top1000.dev", "dev"))
    assert [one.passage_id for one in few] == ["p0", "p1", "p2"] * 2


def test_a_pair_is_asked_in_text() -> None:
    (one,) = RankingTask().from_text([{"query": "what food", "passage": "apples", "id": "7"}])
    assert (one.query_id, one.query, one.passage, one.relevant) == ("7", "what food", "apples", None)
    with pytest.raises(InputError, match="there is no 'passage'"):
        RankingTask().from_text([{"query": "what food"}])
    with pytest.raises(InputError, match="the task takes no 'pasage'") as refused:
        RankingTask().from_text([{"query": "what food", "pasage": "apples"}])
    assert "passage" in str(refused.value.hint)


def test_a_run_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no candidate"):
        RankingTask().write_submission([], "dev", tmp_path)
    good = {"query_id": "1", "passage_id": "p", "score": 0.5}
    with pytest.raises(InputError, match="one word"):
        RankingTask().write_submission([good, {**good, "passage_id": "p q"}], "dev", tmp_path)
    assert not list(tmp_path.iterdir())
