"""Re-ranking, trained and measured: over all queries that are judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.finetune.trained import prepared, validated


def test_it_learns_and_is_measured_over_all_judged_queries(tmp_path: Path) -> None:
    lines = [f"{number}\t{number % 5}\t{5 + number % 5}\n" for number in range(24)]
    (tmp_path / "qidpidtriples.train.small.tsv").write_text("".join(lines))
    (tmp_path / "queries.train.tsv").write_text("".join(f"{number}\twhich one\n" for number in range(24)))
    (tmp_path / "queries.dev.tsv").write_text("100\twhich one\n101\twhich one\n")
    passages = [f"{number}\t{'red' if number < 5 else 'blue'} apples\n" for number in range(10)]
    (tmp_path / "collection.tsv").write_text("".join(passages))
    run = [f"{query} Q0 {number} {rank} 0 x\n" for query in (100, 101) for rank, number in enumerate((5, 6, 1, 8), 1)]
    (tmp_path / "run.dev.trec").write_text("".join(run))
    (tmp_path / "qrels.dev.small.tsv").write_text("100\t0\t1\t1\n101\t0\t1\t1\n101\t0\t5\t0\n102\t0\t1\t1\n")
    files = {"train": tmp_path / "qidpidtriples.train.small.tsv", "dev": tmp_path / "run.dev.trec"}
    line, words = validated(prepared(tmp_path, "ranking", files, "which one red blue apples"))
    assert line["mrr@10"] == line["recall@10"] == pytest.approx(2 / 3)  # query 102 has no candidates
    assert (line["queries"], line["ranked"]) == (3, 2)
    assert "1 of 3 queries of the qrels have no candidates, counted as 0; over the others MRR@10 is 1.0000" in words
