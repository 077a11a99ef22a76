"""Scores of passages ranked per query, as Microsoft's msmarco_eval.py and trec_eval define them, and TREC run lines.

Candidates are rows of arrays: millions of them are sorted at once, and nothing is kept per row but its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.errors import InputError
from bertjobs.tasks.metrics.scores import Scores, check_lengths, listed

CUT = 10
"""How many places MRR@10 and nDCG@10 look at."""

Ids = NDArray[Any]  # integers, or text of a fixed width


@dataclass(frozen=True)
class Judged:
    """A file of qrels, a row for each judged passage: its query's id, and its grade (0: not relevant)."""

    queries: Ids
    grades: NDArray[Any]


def worst_order(queries: Ids, scores: NDArray[Any], grades: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """The rows by query, then from the highest score down; ties are broken against the model, the lowest grade first.

    So a model that scores all passages alike gets the worst order, not the one of the file. A score that is not a
    number is the lowest.
    """
    falling = np.negative(scores, dtype=np.float64)
    falling[np.isnan(falling)] = np.inf
    keys = (falling, queries) if grades is None else (grades, falling, queries)
    return np.lexsort(keys)


def ranking_scores(
    queries: Ids,
    scores: NDArray[Any],
    grades: NDArray[Any],
    judged: Judged | None = None,
    recall_at: Sequence[int] = (10, 100, 1000),
) -> Scores:
    """``mrr@10``, ``mrr`` (without a cut), ``ndcg@10``, ``recall@K``, and how many ``queries`` there are and are
    ``ranked``.

    Args:
        queries: each candidate's query.
        scores: what the model says of it, higher for more relevant.
        grades: its grade in the qrels, 0 if it has none.
        judged: the qrels; if None, the candidates with a grade above 0 are taken to be all relevant passages.
        recall_at: the depths of recall.

    All are means over the queries of the qrels, as Microsoft's script and `trec_eval -c` have it: a query without
    candidates counts as 0. Candidates of other queries are left out.
    """
    check_lengths(queries, scores, "candidate")
    check_lengths(queries, grades, "candidate")
    judged = judged or Judged(queries, grades)
    names = np.unique(judged.queries)
    if not len(names):
        raise InputError("there is no judged query")
    known = np.isin(queries, names)
    order = worst_order(queries[known], scores[known], grades[known])
    rows = np.searchsorted(names, queries[known][order])
    gains = np.maximum(grades[known][order], 0)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    places = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
    relevant = _relevant_of(names, judged)
    _check_relevant(names, relevant, np.bincount(rows, gains > 0, len(names)))

    first = np.full(len(names), np.inf)
    np.minimum.at(first, rows[gains > 0], places[gains > 0] + 1)
    values = {
        f"mrr@{CUT}": float(np.where(first <= CUT, 1 / first, 0).mean()),
        "mrr": float((1 / first).mean()),
        f"ndcg@{CUT}": float(_ndcg(names, judged, rows, places, gains).mean()),
    }
    for depth in recall_at:
        hits = np.bincount(rows[places < depth], gains[places < depth] > 0, len(names))
        values[f"recall@{depth}"] = float((hits / np.maximum(relevant, 1)).mean())
    values |= {"queries": float(len(names)), "ranked": float(len(starts))}
    return Scores(values, tuple(_notes(values, relevant, scores, int((~known).sum()))))


def _relevant_of(names: Ids, judged: Judged) -> NDArray[np.int64]:
    """How many relevant passages each query has."""
    return np.bincount(np.searchsorted(names, judged.queries[judged.grades > 0]), minlength=len(names))


def _check_relevant(names: Ids, relevant: NDArray[np.int64], hits: NDArray[Any]) -> None:
    wrong = names[hits > relevant]
    if len(wrong):
        raise InputError(
            f"{len(wrong):,} queries have more relevant candidates than the qrels have relevant passages: "
            f"{listed(map(str, wrong))}",
            hint="a passage twice among a query's candidates, or the qrels of another file",
        )


def _ndcg(
    names: Ids, judged: Judged, rows: NDArray[Any], places: NDArray[Any], gains: NDArray[Any]
) -> NDArray[np.float64]:
    """DCG with the grades as gains and the logarithm of the place as discount, over that of the best possible order."""
    best = np.searchsorted(names, judged.queries)
    order = np.lexsort((-judged.grades, best))
    best, best_gains = best[order], np.maximum(judged.grades[order], 0)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    best_places = np.arange(len(best)) - np.repeat(starts, np.diff(starts, append=len(best)))
    dcg, ideal = (
        np.bincount(query[place < CUT], (gain / np.log2(place + 2.0))[place < CUT], len(names))
        for query, place, gain in ((rows, places, gains), (best, best_places, best_gains))
    )
    return np.divide(dcg, ideal, out=np.zeros(len(names)), where=ideal > 0)


def _notes(values: dict[str, float], relevant: NDArray[np.int64], scores: NDArray[Any], unknown: int) -> Iterator[str]:
    queries, ranked = int(values["queries"]), int(values["ranked"])
    if ranked < queries:
        over = f"; over the others MRR@{CUT} is {values[f'mrr@{CUT}'] * queries / ranked:.4f}" if ranked else ""
        yield f"{queries - ranked:,} of {queries:,} queries of the qrels have no candidates, counted as 0{over}"
    if (relevant == 0).any():
        yield f"{int((relevant == 0).sum()):,} of {queries:,} queries have no relevant passage; counted as 0"
    if unknown:
        yield f"{unknown:,} of {len(scores):,} candidates are of queries that the qrels do not have; left out"
    strange = int(np.isnan(scores).sum())
    if strange:
        yield f"{strange:,} of {len(scores):,} scores are not numbers; ranked last"


def run_lines(
    queries: Ids, passages: Ids, scores: NDArray[Any], tag: str, grades: NDArray[Any] | None = None
) -> Iterator[str]:
    """Lines of a TREC run file, ``QUERY Q0 PASSAGE RANK SCORE TAG``, in the order that `ranking_scores` scores.

    ``grades`` decide ties; without them, as in a test set, passages with equal scores stay in their order.
    """
    check_lengths(queries, scores, "candidate")
    check_lengths(queries, passages, "candidate")
    if not tag or tag.split() != [tag]:
        raise InputError(f"a run's tag is one word, not {tag!r}")
    before, rank = None, 0
    for row in worst_order(queries, scores, grades):
        query, passage = str(queries[row]), str(passages[row])
        rank = rank + 1 if query == before else 1
        before = query
        for name in (query, passage):
            if name.split() != [name]:
                raise InputError(f"an id in a TREC run file is one word, not {name!r}")
        yield f"{query} Q0 {passage} {rank} {float(scores[row]):.9g} {tag}\n"
