"""Queries whose relevant passage a fine-tuned ranker puts behind one that is not: which one, and by how much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertjobs.tasks.example import Candidate
from bertjobs.tasks.metrics.ranking import CUT


@dataclass(frozen=True)
class Passage:
    """A passage, its score and the log-odds of that; of its query's relevant or irrelevant ones the best."""

    text: str
    score: float
    log_odds: float


@dataclass(frozen=True)
class Beaten:
    """A query whose best relevant passage stands at ``rank``, behind the irrelevant one at rank 1."""

    query_id: str
    query: str
    relevant: Passage
    rank: int
    first: Passage


@dataclass
class _Query:
    number: int
    text: str
    relevant: Passage | None = None
    irrelevant: Passage | None = None


def beaten(scored: Iterable[tuple[Candidate, Mapping[str, Any]]], most: int, kinds: Counter[str]) -> list[Beaten]:
    """The ``most`` queries whose relevant passage is beaten most clearly, the clearest first.

    Equal scores count against the model, as in the measures. Of each query two texts are held.

    Args:
        scored: all candidates with what the model says of them.
        kinds: here is counted where the relevant passages stand that are not first.
    """
    queries: dict[str, _Query] = {}

    def irrelevant() -> Iterable[tuple[int, float]]:
        """The query and the log-odds of each irrelevant candidate, while the best are kept in ``queries``."""
        for one, line in scored:
            query = queries.setdefault(one.query_id, _Query(len(queries), one.query))
            passage = Passage(one.passage, line["score"], line["log_odds"])
            if one.relevant:
                query.relevant = _better(query.relevant, passage)
            else:
                query.irrelevant = _better(query.irrelevant, passage)
                yield query.number, passage.log_odds

    table = np.fromiter(irrelevant(), dtype=[("query", np.int64), ("log_odds", np.float64)])
    relevant = np.array([one.relevant.log_odds if one.relevant else np.inf for one in queries.values()])
    ahead = table["query"][table["log_odds"] >= relevant[table["query"]]]
    ranks = 1 + np.bincount(ahead, minlength=len(queries))
    lost = []
    for (query_id, query), rank in zip(queries.items(), ranks.tolist(), strict=True):
        if query.relevant is None:
            kinds["no relevant passage among the candidates"] += 1
        elif rank > 1 and query.irrelevant:
            where = f"at ranks 2 to {CUT}" if rank <= CUT else f"beyond rank {CUT}"
            kinds[f"the relevant passage {where}"] += 1
            lost.append(Beaten(query_id, query.text, query.relevant, rank, query.irrelevant))
    return sorted(lost, key=lambda one: one.relevant.log_odds - one.first.log_odds)[:most]


def _better(best: Passage | None, other: Passage) -> Passage:
    return other if best is None or other.log_odds > best.log_odds else best
