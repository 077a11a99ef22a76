"""Writes ranking.json: qrels and runs, and what Microsoft's msmarco_eval.py and trec_eval say of them.

pip download --no-deps ir-measures==0.4.3 pytrec-eval-terrier==0.5.11, and unpack the wheels into FOLDER
PYTHONPATH=FOLDER python -m tests.tasks.metrics.official.record_ranking
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "ranking.json"
MEASURES = {"mrr": "recip_rank", "ndcg@10": "ndcg_cut_10", "recall@10": "recall_10", "recall@100": "recall_100"}


def main() -> None:
    import pytrec_eval
    from ir_measures.bin import msmarco_eval

    generator = random.Random(0)
    files = []
    for highest_grade in (1, 1, 3):
        qrels, run = judged(generator, highest_grade), {}
        first = next(iter(qrels))
        qrels[first] = dict.fromkeys(qrels[first], 0)  # judged, and nothing is relevant
        for query in list(qrels)[:-2]:  # two have no candidates
            # Distinct scores, exact in 32 bits: trec_eval breaks ties by the passages' names.
            scores = generator.sample(range(1, 1000), 30)
            passages = {*generator.sample(range(1, 61), 25), *list(qrels[query])[:2]}
            run[query] = dict(zip(map(str, sorted(map(int, passages))), scores, strict=False))
        evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank", "ndcg_cut", "recall"})
        each = evaluator.evaluate(run).values()
        official = {name: sum(row[theirs] for row in each) / len(qrels) for name, theirs in MEASURES.items()}
        relevant = {int(query): [int(p) for p in grades if grades[p] > 0] for query, grades in qrels.items()}
        ranked = {int(query): [int(p) for p in sorted(run[query], key=lambda p: -run[query][p])] for query in run}
        by_query = msmarco_eval.compute_metrics(relevant, ranked)["MRR @10 by query"]
        official["mrr@10"] = sum(by_query.values()) / len(qrels)
        files.append({"qrels": qrels, "run": run, "official": official, "tied": tied(evaluator, run, len(qrels))})
    FILE.write_text(json.dumps(files, indent=0) + "\n", encoding="utf-8")


def tied(evaluator: Any, run: dict[str, dict[str, int]], queries: int) -> dict[str, Any]:
    """Few different scores, so that trec_eval breaks ties, and its mean of reciprocal ranks."""
    few = {query: {passage: score % 4 for passage, score in scores.items()} for query, scores in run.items()}
    return {"run": few, "mrr": sum(row["recip_rank"] for row in evaluator.evaluate(few).values()) / queries}


def judged(generator: random.Random, highest_grade: int) -> dict[str, dict[str, int]]:
    qrels: dict[str, Any] = {}
    for query in generator.sample(range(100, 1000), 12):
        passages = generator.sample(range(1, 61), generator.randint(1, 14))
        qrels[str(query)] = {
            str(passage): generator.randint(min(1, highest_grade - 1), highest_grade) for passage in passages
        }
    return qrels


if __name__ == "__main__":
    main()
