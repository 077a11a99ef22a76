"""Queries and passages of MS MARCO: triples to train with, candidates to rank anew, judgements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.tasks.example import Candidate
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading.ids import Ids
from bertjobs.tasks.reading.lines import place, text_lines

Judgements = Mapping[str, frozenset[str]]
"""By query, the passages that are relevant; a query without any was judged too."""


def _fields(path: Path, names: str, notes: Notes, *, blanks: bool = False) -> Iterator[tuple[int, str, list[str]]]:
    """The number, the place and the fields of each line, separated by tabs, or with ``blanks`` by any white space.

    Raises:
        InputError: a line has not as many fields as there are ``names``, or an empty one; names it.
    """
    expected = names.split()
    empty = True
    for number, line in enumerate(text_lines(path), 1):
        where = place(path, number)
        if not line.strip():
            notes.add(f"blank lines in {path.name}", where)
            continue
        empty = False
        fields = line.split() if blanks else line.split("\t")
        if len(fields) != len(expected):
            raise InputError(f"the line has {len(fields)} field{'s' * (len(fields) != 1)}, not {len(expected)}",
                             where=where, hint=f"each line is: {', '.join(expected)}")  # fmt: skip
        for name, field in zip(expected, fields, strict=True):
            if not field.strip():
                raise InputError(f"the {name} is empty", where=where)
        yield number, where, fields
    if empty:
        raise InputError(f"{path.name} has no lines", where=str(path))


def read_triples(path: Path, notes: Notes) -> Iterator[Candidate]:
    """Two candidates for each line of ``triples.train.small.tsv``: the query with the passage that answers it, and with
    the one that does not. The line's number is the query's id.

    Raises:
        InputError: a line is damaged; names file and line.
    """
    for number, where, (query, positive, negative) in _fields(path, "query positive negative", notes):
        yield Candidate(str(number), "positive", query, positive, 1, where=where)
        yield Candidate(str(number), "negative", query, negative, 0, where=where)


def read_qrels(path: Path, notes: Notes) -> Judgements:
    """What ``qrels.dev.small.tsv`` says is relevant: its lines are query id, 0, passage id, relevance.

    Raises:
        InputError: a line is damaged, or a pair repeats; names file and line.
    """
    relevant: dict[str, set[str]] = {}
    ids = Ids()
    for _, where, (query, _iteration, passage, relevance) in _fields(
        path, "query-id 0 passage-id relevance", notes, blanks=True
    ):
        if not relevance.lstrip("-").isdecimal():
            raise InputError(f"the relevance {relevance!r} is not a whole number", where=where)
        ids.add(f"{query} {passage}", where)
        passages = relevant.setdefault(query, set())
        if int(relevance) > 0:
            passages.add(passage)
    ids.check()
    return {query: frozenset(passages) for query, passages in relevant.items()}


def read_candidates(path: Path, qrels: Judgements | None, notes: Notes) -> Iterator[Candidate]:
    """The candidates of ``top1000.dev``: its lines are query id, passage id, query, passage; those of a query need not
    follow each other, and are in the order of their rank.

    Args:
        qrels: what is relevant; None if that is not known.
        notes: here are counted the judged queries without candidates, if they are most of them (so it is with
            ``qrels.dev.tsv`` in place of ``qrels.dev.small.tsv``), and the candidates of queries that were not judged.

    Raises:
        InputError: a line is damaged, or a query has a passage twice; names file and line.
    """
    ranks: dict[str, int] = {}
    ids = Ids()
    for _, where, (query_id, passage_id, query, passage) in _fields(path, "query-id passage-id query passage", notes):
        ids.add(f"{query_id} {passage_id}", where)
        ranks[query_id] = rank = ranks.get(query_id, 0) + 1
        relevant = None if qrels is None else int(passage_id in qrels.get(query_id, ()))
        if qrels is not None and query_id not in qrels:
            notes.add("candidates of queries that the qrels do not judge count as not relevant", where)
        yield Candidate(query_id, passage_id, query, passage, relevant, rank, where)
    ids.check()
    without = [query for query in qrels or () if query not in ranks]
    if qrels and 2 * len(without) > len(qrels):
        for query in without:
            notes.add(
                f"of {len(qrels):,} queries of the qrels have no candidates: is it qrels.dev.tsv in place of "
                "qrels.dev.small.tsv? Scores will be far too low",
                f"query {query}",
            )


def read_texts(path: Path, notes: Notes) -> Iterator[tuple[str, str]]:
    """Id and text of each line of ``queries.tsv`` or ``collection.tsv``.

    Raises:
        InputError: a line is damaged, or an id repeats; names file and line.
    """
    ids = Ids()
    for _, where, (identifier, text) in _fields(path, "id text", notes):
        ids.add(identifier, where)
        yield identifier, text
    ids.check()
