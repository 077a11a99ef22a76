"""Passages for queries: encoding, order, measures."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjobs.errors import InputError
from bertjobs.tasks.example import Candidate
from bertjobs.tasks.prepare import prepare_task, prepared_name
from bertjobs.tasks.ranking import QRELS, RankingTask
from bertjobs.tasks.task import Fitted
from tests.tasks.encoders import encoder_in
from tests.tasks.metrics.official.record_ranking import FILE

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))
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
    trec, msmarco = task.write_submission(predictions, "dev", data)
    assert (trec.name, msmarco.name) == ("dev.trec", "dev.tsv")
    assert trec.read_text().splitlines()[0] == "1 Q0 p11 1 5 bertjobs"
    lines = [line.split("\t") for line in msmarco.read_text().splitlines()]
    assert lines[:2] == [["1", "p11", "1"], ["1", "p9", "2"]]  # equal scores by falling id, as trec_eval has them
    assert len(lines) == 24


def test_probabilities_of_all_but_1_keep_their_order(data: Path) -> None:
    task = RankingTask()
    examples = [Candidate("1", name, "what food", "apples", int(name == "a")) for name in "ab"]
    outputs = [[np.array([[-20.0, sure]], dtype=np.float32)] for sure in (20.5, 20.0)]
    predictions = task.predict(examples, outputs, encoder_in(data / "model", 32), FITTED)
    assert predictions[0]["score"] == predictions[1]["score"] == 1
    assert task.score(zip(examples, predictions, strict=True), FITTED).values["mrr@10"] == 1
    trec, _ = task.write_submission(predictions, "dev", data)
    assert [line.split()[2:5] for line in trec.read_text().splitlines()] == [["a", "1", "40.5"], ["b", "2", "40"]]


@pytest.mark.parametrize("file", RECORDED, ids=range(len(RECORDED)))
def test_the_measures_of_a_file_are_the_official_ones(tmp_path: Path, file: dict[str, Any]) -> None:
    """With judged queries that have no candidates or nothing relevant, and lines of grade 0."""
    judged = [f"{query}\t0\t{p}\t{grade}\n" for query, grades in file["qrels"].items() for p, grade in grades.items()]
    candidates = [f"{query}\t{p}\tQ\tA\n" for query, scores in file["run"].items() for p in scores]
    (tmp_path / "qrels.dev.small.tsv").write_text("".join(judged))
    (tmp_path / "top1000.dev").write_text("".join(candidates) + "1\t1\tof no query that is judged\tA\n")
    task = RankingTask()
    scored = [
        (one, {"log_odds": float(file["run"][one.query_id][one.passage_id])})
        for one in task.read(tmp_path / "top1000.dev", "dev")
    ]
    values = task.score(scored, FITTED).values
    graded = max(grade for grades in file["qrels"].values() for grade in grades.values()) > 1
    official = {name: value for name, value in file["official"].items() if not (graded and name == "ndcg@10")}
    assert {name: values[name] for name in official} == pytest.approx(official, abs=1e-9)
    assert (values["queries"], values["ranked"]) == (12, 10)


def test_files_of_ids_are_prepared_like_files_of_texts(tmp_path: Path, data: Path) -> None:
    ids = tmp_path / "ids"
    ids.mkdir()
    shutil.copy(data / "qrels.dev.small.tsv", ids)
    (ids / "qidpidtriples.train.full.2.tsv.gz").write_bytes(gzip.compress(b"5\t100\t101\n6\t102\t103\n"))
    (ids / "queries.train.tsv").write_text("5\twhat food\n6\twhat name\n")
    (ids / "queries.dev.tsv").write_text("1\twhat food\n2\twhat food\n")
    texts = [f"p{number}\tapples {number}" for number in range(12)]
    texts += ["100\tapples", "101\tcanada", "102\tharry", "103\tred"]
    (ids / "collection.tsv").write_text("\n".join(texts) + "\n")
    run = [f"{query} Q0 p{number} {number + 1} {-number} bm25\n" for query in "12" for number in range(12)]
    (ids / "run.dev.trec").write_text("".join(run))
    made = {}
    for folder in (data, ids):
        task = RankingTask()
        encoder = encoder_in(tmp_path / "model", 32)
        prepared = prepare_task(task, "ranking", task.find(folder), encoder, tmp_path / f"prepared-{folder.name}")
        assert prepared.splits["dev"].facts.labelled
        made[folder] = {name: (prepared.folder / name).read_bytes() for name in prepared.files if name.endswith(".bin")}
    assert made[data] == made[ids]
    assert len(made[ids]["train/lengths.bin"]) == 4 * 4


def test_training_data_are_read_once(data: Path, tmp_path: Path) -> None:
    read = []

    class Counting(RankingTask):
        def read(self, path: Path, split: str) -> Iterator[Candidate]:
            for one in super().read(path, split):
                read.append(one.id)
                yield one

    prepare_task(
        Counting(), "ranking", Counting().find(data), encoder_in(tmp_path / "model", 32), tmp_path / "prepared"
    )
    assert len(read) == 4 + 24


def test_other_judgements_or_texts_are_other_data(data: Path) -> None:
    (data / "top1000.dev").unlink()
    (data / "run.dev.tsv").write_text("1\tp1\t1\n")
    task, encoder = RankingTask(), encoder_in(data / "model", 32)
    names = {prepared_name(task, "ranking", task.find(data), encoder)}
    for file in ("qrels.dev.small.tsv", "collection.tsv", "queries.dev.tsv"):
        with (data / file).open("a") as opened:
            opened.write("9\t9\t9\t9\n")
        names.add(prepared_name(task, "ranking", task.find(data), encoder))
    assert len(names) == 4


def test_dev_data_without_judgements_are_said_to_measure_nothing(data: Path) -> None:
    (data / "qrels.dev.small.tsv").unlink()
    task = RankingTask()
    assert [one.relevant for one in task.read(data / "top1000.dev", "dev")] == [None] * 24
    assert task.notes.lines() == [
        "1 files of candidates without qrels beside them: nothing can be measured (first: top1000.dev)"
    ]


def test_what_the_script_downloads_is_what_is_read() -> None:
    table = (Path(__file__).parents[2] / "data" / "task_files.txt").read_text().splitlines()
    rows = [line.split() for line in table if line.startswith("msmarco ")]
    brought = {name for row in rows for name in row[-1].split(",")}
    known = {name for names in RankingTask.files.values() for name in names} | set(QRELS)
    assert brought - known == {
        "collection.tsv", "queries.train.tsv", "queries.dev.tsv", "queries.eval.tsv"  # found by `Texts`
    }  # fmt: skip
    for wanted in (RankingTask.files["train"], RankingTask.files["dev"], QRELS):
        assert brought & set(wanted)


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
    good = {"query_id": "1", "passage_id": "p", "score": 0.5, "log_odds": 0.0}
    with pytest.raises(InputError, match="one word"):
        RankingTask().write_submission([good, {**good, "passage_id": "a q"}], "dev", tmp_path)
    assert not list(tmp_path.iterdir())
