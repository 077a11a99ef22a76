"""Queries and passages of MS MARCO: triples to train with, candidates to rank anew, judgements.

Triples and candidates are files of texts, or of ids alone; then the texts are looked up (`Texts`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from bertjobs.errors import InputError
from bertjobs.tasks.example import Candidate
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.reading.ids import Ids
from bertjobs.tasks.reading.lines import place, text_lines
from bertjobs.tasks.reading.text_index import Texts

Judgements = Mapping[str, frozenset[str]]
"""By query, the passages that are relevant; a query without any was judged too."""

TEXTS = "query-id passage-id query passage"
RUN = "query-id passage-id rank"
SCORED_RUN = "query-id passage-id rank score"
TREC_RUN = "query-id Q0 passage-id rank score tag"


def has_ids_only(path: Path) -> bool:
    """Whether a file's first line has ids and numbers alone, so that queries and passages must be looked up.

    Raises:
        InputError: as `text_lines`.
    """
    line = _first_line(path)
    return _is_ids(line.split("\t")) or _run_form(line) != TEXTS


def _first_line(path: Path) -> str:
    return next((line for line in text_lines(path) if line.strip()), "")


def _run_form(line: str) -> str:
    """The names of a line's fields in a file of candidates."""
    words = line.split()
    if len(words) == 4 and words[2].isdecimal() and _is_number(words[3]):
        return SCORED_RUN
    if len(line.split("\t")) != 4:
        if len(words) == 6 and words[3].isdecimal() and _is_number(words[4]):
            return TREC_RUN
        if len(words) == 3 and words[2].isdecimal():
            return RUN
    return TEXTS


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_ids(fields: list[str]) -> bool:
    return len(fields) == 3 and all(field.isdecimal() for field in fields)


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


def read_triples(path: Path, notes: Notes, texts: Texts) -> Iterator[Candidate]:
    """Two candidates for each line: the query with the passage that answers it, and with the one that does not.

    The line has the three texts, as in ``triples.train.small.tsv``, and its number is the query's id; or it has their
    ids, as in ``qidpidtriples.train.full.2.tsv``. The first line decides that.

    Raises:
        InputError: a line is damaged, or an id has no text; names file and line.
    """
    if _is_ids(_first_line(path).split("\t")):
        for _, where, (query_id, *passages) in _fields(path, "query-id positive-id negative-id", notes):
            query = texts.query(query_id, where)
            for passage_id, relevant in zip(passages, (1, 0), strict=True):
                yield Candidate(query_id, passage_id, query, texts.passage(passage_id, where), relevant, where=where)
        return
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


def read_candidates(path: Path, qrels: Judgements | None, notes: Notes, texts: Texts) -> Iterator[Candidate]:
    """The candidates of a file; those of a query need not follow each other. The first line decides which form it has:

    - ``top1000.dev``: query id, passage id, query, passage, separated by tabs;
    - a run file of MS MARCO: query id, passage id, rank, and perhaps a score;
    - a run file of TREC: query id, Q0 (or anything), passage id, rank, score, tag.

    A candidate's rank is that of MS MARCO's run file, else its place among those of its query.

    Args:
        qrels: what is relevant; None if that is not known. Candidates of queries that they do not judge are left out.
        notes: here are counted those, and the judged queries without candidates, if they are most of them (so it is
            with ``qrels.dev.tsv`` in place of ``qrels.dev.small.tsv``).

    Raises:
        InputError: a line is damaged, an id has no text, a query has a passage twice, or none is judged; names file and
            line.
    """
    ranks: dict[str, int] = {}
    ids = Ids()
    form = _run_form(_first_line(path))
    for _, where, fields in _fields(path, form, notes, blanks=form != TEXTS):
        query_id, passage_id = fields[0], fields[2 if form == TREC_RUN else 1]
        ids.add(f"{query_id} {passage_id}", where)
        if qrels is not None and query_id not in qrels:
            notes.add("candidates of queries that the qrels do not judge were left out", where)
            continue
        place_in_file = ranks[query_id] = ranks.get(query_id, 0) + 1
        rank = _rank(fields[2], where) if form in (RUN, SCORED_RUN) else place_in_file
        if form == TEXTS:
            query, passage = fields[2:]
        else:
            query, passage = texts.query(query_id, where), texts.passage(passage_id, where)
        candidate = Candidate(query_id, passage_id, query, passage, None, rank, where)
        yield candidate if qrels is None else _judged(candidate, qrels)
    ids.check()
    if qrels is not None:
        _check_judged(path, qrels, ranks, notes)


def _rank(text: str, where: str) -> int:
    if not text.isdecimal() or not int(text):
        raise InputError(f"the rank {text!r} is not a whole number above 0", where=where)
    return int(text)


def _judged(candidate: Candidate, qrels: Judgements) -> Candidate:
    relevant = qrels[candidate.query_id]
    is_relevant = int(candidate.passage_id in relevant)
    return replace(candidate, relevant=is_relevant, query_relevant=len(relevant), judged_queries=len(qrels))


def _check_judged(path: Path, qrels: Judgements, judged: Collection[str], notes: Notes) -> None:
    if not judged:
        raise InputError("no candidate is of a query that the qrels judge", where=str(path),
                         hint="are they the qrels of another split?")  # fmt: skip
    without = [query for query in qrels if query not in judged]
    if 2 * len(without) > len(qrels):
        for query in without:
            notes.add(
                f"of {len(qrels):,} queries of the qrels have no candidates: is it qrels.dev.tsv in place of "
                "qrels.dev.small.tsv? Scores will be far too low",
                f"query {query}",
            )
