"""Queries whose relevant passage was put behind another one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from bertjobs.report.ranked import beaten
from bertjobs.report.task_summary import _judge
from bertjobs.run.directory import RunDirectory
from bertjobs.tasks.example import Candidate
from bertjobs.tasks.prepare import prepare_task
from bertjobs.tasks.prepared import PreparedTask
from bertjobs.tasks.ranking import RankingTask
from tests.tasks.encoders import encoder_in

# Query, passage, whether it is relevant, log-odds.
ROWS = [
    ("clear", "away", 0, 3.0),
    ("narrow", "near", 0, 1.5),
    ("clear", "right", 1, -2.0),
    ("clear", "other", 0, -1.0),
    ("clear", "also right", 1, -4.0),
    ("narrow", "right", 1, 1.0),
    ("good", "right", 1, 2.0),
    ("good", "away", 0, 1.0),
    ("even", "right", 1, 0.5),
    ("even", "same", 0, 0.5),
    ("none", "away", 0, 9.0),
    *(("far", f"away {number}", 0, 0.1) for number in range(10)),
    ("far", "right", 1, 0.0),
]


def test_the_relevant_passage_is_shown_with_the_one_that_beat_it() -> None:
    kinds: Counter[str] = Counter()
    scored = [
        (
            Candidate(query, f"{query} {passage}", f"what is {query}", passage, relevant),
            {"score": 0.5, "log_odds": odds},
        )
        for query, passage, relevant, odds in ROWS
    ]
    lost = beaten(iter(scored), 3, kinds)
    assert [(one.query_id, one.relevant.text, one.rank, one.first.text) for one in lost] == [
        ("clear", "right", 3, "away"),
        ("narrow", "right", 2, "near"),
        ("far", "right", 11, "away 0"),
    ]
    assert lost[0].query == "what is clear"
    assert kinds == {
        "the relevant passage at ranks 2 to 10": 3,  # equal scores count against the model
        "the relevant passage beyond rank 10": 1,
        "no relevant passage among the candidates": 1,
    }
    assert beaten(iter([]), 3, kinds) == []


def ranking(folder: Path) -> PreparedTask:
    """A query with three candidates, prepared."""
    (folder / "triples.tsv").write_text("what food\tapples\tcanada\n")
    (folder / "top1000.dev").write_text("7\t70\twhat food\tapples\n7\t71\twhat food\tcanada\n7\t72\twhat food\tred\n")
    (folder / "qrels.dev.small.tsv").write_text("7\t0\t70\t1\n")
    task = RankingTask()
    return prepare_task(task, "ranking", task.find(folder), encoder_in(folder / "model", 32), folder / "prepared")


def test_a_mistake_names_ranks_scores_and_both_passages(tmp_path: Path) -> None:
    phase = RunDirectory(tmp_path / "run").phase(1)
    phase.predictions.parent.mkdir(parents=True)
    odds = {"70": (0.25, -1.1), "71": (0.75, 1.1), "72": (0.9, 2.2)}
    lines = [{"id": f"7 {name}", "score": score, "log_odds": odd} for name, (score, odd) in odds.items()]
    phase.predictions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (mistake,) = _judge(phase, ranking(tmp_path), Counter(), kinds := Counter())
    assert (mistake.id, mistake.text) == ("7", "what food")
    assert mistake.gold == "rank 3, score 0.25: apples"
    assert mistake.guess == "rank 1, score 0.9: red"
    assert kinds == {"the relevant passage at ranks 2 to 10": 1}
