"""Which passages answer a query, as in MS MARCO: a cross-encoder scores each candidate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np

from bertjobs.data.ragged import in_batches
from bertjobs.errors import InputError
from bertjobs.files.atomic import new_file
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.example import Candidate
from bertjobs.tasks.metrics.ranking import (
    MSMARCO_RANKS,
    judged_counts,
    msmarco_line,
    ranked,
    ranking_scores,
    trec_line,
)
from bertjobs.tasks.metrics.scores import Scores
from bertjobs.tasks.options import whole_number
from bertjobs.tasks.probabilities import sigmoid
from bertjobs.tasks.reading.lines import with_compressed
from bertjobs.tasks.reading.msmarco import has_ids_only, read_candidates, read_qrels, read_triples
from bertjobs.tasks.reading.text_index import Texts
from bertjobs.tasks.rows import Head, Output, Row
from bertjobs.tasks.task import Fitted, Prediction, Task, check_keys

QRELS = with_compressed("qrels.dev.small.tsv", "qrels.dev.tsv", "qrels.tsv")
LABELS = ("not relevant", "relevant")
BATCH = 100_000
"""Predictions that are turned into arrays at a time."""


class RankingTask(Task[Candidate]):
    """Passages for a query, ordered anew: MS MARCO's triples, top 1,000 candidates and qrels.

    The model reads query and passage as a pair. Its score is the probability of "relevant"; passages are ordered by the
    log-odds of it, in 32 bits, which stay different where probabilities are all but 1.
    """

    name = "ranking"
    files: ClassVar[Mapping[str, Sequence[str]]] = {
        "train": with_compressed(
            "triples.train.small.tsv",
            "triples.tsv",
            "qidpidtriples.train.small.tsv",
            "qidpidtriples.train.full.2.tsv",
            "qidpidtriples.train.full.tsv",
        ),
        "dev": with_compressed("top1000.dev", "top1000.dev.tsv", "run.dev.small.tsv", "run.dev.tsv", "run.dev.trec"),
        "test": with_compressed(
            "top1000.eval", "top1000.eval.tsv", "run.eval.small.tsv", "run.eval.tsv", "run.eval.trec"
        ),
    }
    measure = "mrr@10"
    text_keys: ClassVar[tuple[str, ...]] = ("query", "passage")
    optional_keys: ClassVar[tuple[str, ...]] = ()
    option_help: ClassVar[Mapping[str, str]] = {
        "max_query": "tokens of a query at most; the rest is cut off (default: 64)",
        "triples": "how many triples are read (default: all)",
        "candidates": "how many candidates of each query are read, by their rank (default: all)",
    }

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        super().__init__(options)
        self._triples = whole_number(self.options, "triples", 0, minimum=0)
        self._most = whole_number(self.options, "candidates", 0, minimum=0)
        self._max_query = whole_number(self.options, "max_query", 64)
        self._texts: dict[Path, Texts] = {}

    def companions(self, path: Path, split: str) -> list[Path]:
        """The qrels of dev data, and of ids the files with their texts: all in the same folder."""
        qrels = _qrels_beside(path) if split == "dev" else None
        return [*([qrels] if qrels else []), *(Texts.files(path.parent) if has_ids_only(path) else [])]

    def read(self, path: Path, split: str) -> Iterator[Candidate]:
        texts = self._texts.setdefault(path.parent, Texts(path.parent))  # evaluation reads the same file several times
        if split == "train":
            return islice(read_triples(path, self.notes, texts), 2 * self._triples or None)
        qrels = _qrels_beside(path) if split == "dev" else None
        if split == "dev" and qrels is None:
            self.notes.add("files of candidates without qrels beside them: nothing can be measured", path.name)
        judged = read_qrels(qrels, self.notes) if qrels else None
        candidates = read_candidates(path, judged, self.notes, texts)
        return (one for one in candidates if not self._most or one.rank <= self._most)

    def labels(self, examples: Iterable[Candidate]) -> tuple[str, ...]:  # noqa: ARG002
        return LABELS

    def head(self, labels: Sequence[str]) -> Head:
        return Head("sequence", len(labels))

    def rows(self, examples: Sequence[Candidate], encoder: TextEncoder, fitted: Fitted) -> list[list[Row]]:  # noqa: ARG002
        queries = encoder.ids([one.query for one in examples])
        made = []
        for one, query, passage in zip(examples, queries, encoder.ids([one.passage for one in examples]), strict=True):
            ids, second = encoder.query_and_passage(encoder.shorten(query, self._max_query), passage)
            made.append([Row(ids, second, () if one.relevant is None else (one.relevant,))])
        return made

    def predict(
        self,
        examples: Sequence[Candidate],
        outputs: Sequence[Sequence[Output]],
        encoder: TextEncoder,  # noqa: ARG002
        fitted: Fitted,  # noqa: ARG002
    ) -> list[Prediction]:
        if not examples:
            return []
        raw = np.stack([of_example[0][0] for of_example in outputs])
        log_odds = (raw[:, 1] - raw[:, 0]).astype(np.float32)
        return [
            {"id": one.id, "query_id": one.query_id, "passage_id": one.passage_id, "score": score, "log_odds": odds}
            for one, score, odds in zip(examples, sigmoid(log_odds).tolist(), log_odds.tolist(), strict=True)
        ]

    def score(self, scored: Iterable[tuple[Candidate, Prediction]], fitted: Fitted) -> Scores:  # noqa: ARG002
        """MRR@10 and others over all queries of the qrels; without qrels over those that have candidates."""
        numbers: dict[str, int] = {}
        relevant: list[int] = []  # by a query's number
        queries = 0

        def rows() -> Iterator[tuple[int, float, int]]:
            nonlocal queries
            for one, prediction in scored:
                number = numbers.setdefault(one.query_id, len(numbers))
                if number == len(relevant):
                    relevant.append(one.query_relevant)
                    queries = one.judged_queries
                yield number, prediction["log_odds"], one.relevant or 0

        table = np.fromiter(rows(), dtype=[("query", np.int64), ("score", np.float64), ("grade", np.int8)])
        judged = judged_counts(relevant, queries) if queries else None
        return ranking_scores(table["query"], table["score"], table["grade"], judged)

    def write_submission(self, predictions: Iterable[Prediction], split: str, folder: Path) -> list[Path]:
        """Write ``SPLIT.trec``, a run file for trec_eval, and ``SPLIT.tsv``, one for Microsoft's script.

        Raises:
            InputError: there are no predictions, or an id is not one word.
        """
        blocks = [
            (
                np.array([one["query_id"] for one in batch]),
                np.array([one["passage_id"] for one in batch]),
                np.array([one["log_odds"] for one in batch], dtype=np.float32),
            )
            for batch in in_batches(predictions, lambda _: 1, BATCH)
        ]
        if not blocks:
            raise InputError("there is no candidate to rank")
        queries, passages, scores = (np.concatenate(columns) for columns in zip(*blocks, strict=True))
        paths = [folder / f"{split}.trec", folder / f"{split}.tsv"]
        with ExitStack() as stack:
            trec, msmarco = (stack.enter_context(new_file(path)) for path in paths)
            for one in ranked(queries, passages, scores):
                trec.write(trec_line(one, "bertjobs").encode())
                if one.rank <= MSMARCO_RANKS:
                    msmarco.write(msmarco_line(one).encode())
        return paths

    def from_text(self, texts: Sequence[Mapping[str, str]]) -> list[Candidate]:
        """Pairs, under the keys ``query`` and ``passage``, and if wanted the ``id`` of the query.

        Raises:
            InputError: a key is missing or not known.
        """
        check_keys(texts, self.text_keys, ("id",))
        return [
            Candidate(one.get("id", str(number)), "1", one["query"], one["passage"])
            for number, one in enumerate(texts, 1)
        ]


def _qrels_beside(path: Path) -> Path | None:
    return next((path.parent / name for name in QRELS if (path.parent / name).is_file()), None)
