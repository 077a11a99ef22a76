"""Scores of passages ranked per query, as Microsoft's msmarco_eval.py and trec_eval define them, and run files.

Candidates are rows of arrays: millions of them are sorted at once, and nothing is kept per row but its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bertjobs.errors import InputError
from bertjobs.tasks.metrics.scores import Scores, check_lengths, listed

CUT = 10
"""How many places MRR@10 and nDCG@10 look at."""
MSMARCO_RANKS = 1000
"""How many ranks of a query Microsoft's script holds; more crash it."""

Ids = NDArray[Any]  # integers, or text of a fixed width


@dataclass(frozen=True)
class Judged:
    """A file of qrels, a row for each judged passage: its query's id, and its grade (0: not relevant)."""

    queries: Ids
    grades: NDArray[Any]


def judged_counts(relevant: Sequence[int], queries: int) -> Judged:
    """Qrels of which only numbers are known: query n has ``relevant[n]`` relevant passages. They judge ``queries`` in
    all; those beyond ``relevant`` have no candidates."""
    counts = np.ones(max(queries, len(relevant)), dtype=np.int64)
    counts[: len(relevant)] = relevant
    rows = np.repeat(np.arange(len(counts)), np.maximum(counts, 1))
    return Judged(rows, (counts > 0)[rows].astype(np.int8))


def worst_order(queries: Ids, scores: NDArray[Any], grades: NDArray[Any]) -> NDArray[np.int64]:
    """The rows by query, then from the highest score down; ties are broken against the model, the lowest grade first.

    So a model that scores all passages alike gets the worst order, not the one of the file. A score that is not a
    number is the lowest.
    """
    return np.lexsort((grades, _falling(scores), queries))


def trec_order(queries: Ids, passages: Ids, scores: NDArray[Any]) -> NDArray[np.int64]:
    """The rows by query, then as trec_eval sorts them: from the highest score, in 32 bits, down, and of equal scores
    the passage's id that is the last as text first. It depends neither on grades nor on the order of the rows."""
    _, by_text = np.unique(passages.astype(str), return_inverse=True)
    return np.lexsort((-by_text, _falling(scores.astype(np.float32)), queries))


def _falling(scores: NDArray[Any]) -> NDArray[np.float64]:
    falling = np.negative(scores, dtype=np.float64)
    falling[np.isnan(falling)] = np.inf
    return falling


def ranking_scores(
    queries: Ids,
    scores: NDArray[Any],
    grades: NDArray[Any],
    judged: Judged | None = None,
    recall_at: Sequence[int] = (10, 100, 1000),
) -> Scores:
    """``mrr@10``, ``mrr`` (not cut), ``ndcg@10``, ``recall@K``; how many ``queries`` there are, how many ``ranked``.

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
    names, query_of = np.unique(judged.queries, return_inverse=True)
    if not len(names):
        raise InputError("there is no judged query")
    known = np.isin(queries, names)
    order = worst_order(queries[known], scores[known], grades[known])
    rows = np.searchsorted(names, queries[known][order])
    places, gains = _places(rows), np.maximum(grades[known][order], 0)
    relevant = np.bincount(query_of, judged.grades > 0, len(names))
    _check_relevant(names, relevant, np.bincount(rows, gains > 0, len(names)))

    ranked = int((places == 1).sum())
    values = _reciprocal_ranks(rows[gains > 0], places[gains > 0], len(names))
    values[f"ndcg@{CUT}"] = float(_ndcg(query_of, judged.grades, rows, places, gains).mean())
    for depth in recall_at:
        hits = np.bincount(rows[places <= depth], gains[places <= depth] > 0, len(names))
        values[f"recall@{depth}"] = float((hits / np.maximum(relevant, 1)).mean())
    values |= {"queries": float(len(names)), "ranked": float(ranked)}
    return Scores(values, tuple(_notes(values, relevant, scores, int((~known).sum()))))


def _places(rows: NDArray[Any]) -> NDArray[np.int64]:
    """The place, from 1, of each row among those of its query, which stand together."""
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    return np.arange(1, len(rows) + 1) - np.repeat(starts, np.diff(starts, append=len(rows)))


def _reciprocal_ranks(rows: NDArray[Any], places: NDArray[np.int64], queries: int) -> dict[str, float]:
    """From the relevant candidates: each one's query and place."""
    first = np.full(queries, np.inf)
    np.minimum.at(first, rows, places)
    return {f"mrr@{CUT}": float(np.where(first <= CUT, 1 / first, 0).mean()), "mrr": float((1 / first).mean())}


def _check_relevant(names: Ids, relevant: NDArray[Any], hits: NDArray[Any]) -> None:
    wrong = names[hits > relevant]
    if len(wrong):
        which = "query has" if len(wrong) == 1 else "queries have"
        raise InputError(
            f"{len(wrong):,} {which} more relevant candidates than the qrels name: {listed(map(str, wrong))}",
            hint="is a passage listed twice for one query, or are these the qrels of another file?",
        )


def _ndcg(
    judged_rows: NDArray[Any],
    judged_grades: NDArray[Any],
    rows: NDArray[Any],
    places: NDArray[np.int64],
    gains: NDArray[Any],
) -> NDArray[np.float64]:
    """DCG with grades as gains, over that of the best possible order; 0 for a query without a relevant passage."""
    best = np.lexsort((np.negative(judged_grades, dtype=np.int64), judged_rows))
    best_rows = judged_rows[best]
    queries = int(best_rows[-1]) + 1
    ideal = _dcg(best_rows, _places(best_rows), np.maximum(judged_grades[best], 0), queries)
    return np.divide(_dcg(rows, places, gains, queries), ideal, out=np.zeros(queries), where=ideal > 0)


def _dcg(rows: NDArray[Any], places: NDArray[np.int64], gains: NDArray[Any], queries: int) -> NDArray[np.float64]:
    near = places <= CUT
    discounted = gains[near] / np.log2(places[near] + 1)
    return np.bincount(rows[near], discounted, queries).astype(np.float64)  # integers if there is no row


def _notes(values: dict[str, float], relevant: NDArray[Any], scores: NDArray[Any], unknown: int) -> Iterator[str]:
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


class Ranked(NamedTuple):
    """A candidate at its rank, from 1."""

    query: str
    passage: str
    rank: int
    score: float


def ranked(queries: Ids, passages: Ids, scores: NDArray[Any]) -> Iterator[Ranked]:
    """The candidates of each query in `trec_order`, with scores of 32 bits.

    Raises:
        InputError: an id is not one word, so that it cannot stand in a run file.
    """
    check_lengths(queries, scores, "candidate")
    check_lengths(queries, passages, "candidate")
    before, rank = None, 0
    for row in trec_order(queries, passages, scores):
        query, passage = str(queries[row]), str(passages[row])
        for name in (query, passage):
            if name.split() != [name]:
                raise InputError(f"an id in a run file is one word, not {name!r}")
        rank = rank + 1 if query == before else 1
        before = query
        yield Ranked(query, passage, rank, float(np.float32(scores[row])))


def trec_line(one: Ranked, tag: str) -> str:
    """``QUERY Q0 PASSAGE RANK SCORE TAG``; different scores stay different."""
    return f"{one.query} Q0 {one.passage} {one.rank} {one.score:.9g} {tag}\n"


def msmarco_line(one: Ranked) -> str:
    """``QUERY<TAB>PASSAGE<TAB>RANK``, as Microsoft's script reads it."""
    return f"{one.query}\t{one.passage}\t{one.rank}\n"
