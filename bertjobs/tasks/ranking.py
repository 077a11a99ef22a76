"""Which passages answer a query, as in MS MARCO: a cross-encoder scores each candidate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np

from bertjobs.data.ragged import in_batches
from bertjobs.errors import InputError
from bertjobs.files.atomic import new_file
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.example import Candidate
from bertjobs.tasks.metrics.ranking import ranking_scores, run_lines
from bertjobs.tasks.metrics.scores import Scores
from bertjobs.tasks.options import whole_number
from bertjobs.tasks.reading.msmarco import read_candidates, read_qrels, read_triples
from bertjobs.tasks.rows import Head, Output, Row
from bertjobs.tasks.task import Fitted, Prediction, Task, check_keys

QRELS = ("qrels.dev.small.tsv", "qrels.dev.tsv", "qrels.tsv")
LABELS = ("not relevant", "relevant")


class RankingTask(Task[Candidate]):
    """Passages for a query, ordered anew: MS MARCO's triples, top 1,000 candidates and qrels.

    The model reads query and passage as a pair. Its score is the probability of "relevant".
    """

    name = "ranking"
    files: ClassVar[Mapping[str, Sequence[str]]] = {
        "train": ("triples.train.small.tsv", "triples.tsv"),
        "dev": ("top1000.dev", "top1000.dev.tsv"),
        "test": ("top1000.eval", "top1000.eval.tsv"),
    }
    measure = "mrr@10"
    option_help: ClassVar[Mapping[str, str]] = {
        "max_query": "tokens of a query at most; the rest is cut off (default: 64)",
        "triples": "how many triples are read (default: all)",
        "candidates": "how many candidates of each query are read, by their rank (default: all)",
    }

    def read(self, path: Path, split: str) -> Iterator[Candidate]:
        if split == "train":
            triples = whole_number(self.options, "triples", 0, minimum=0)
            return islice(read_triples(path, self.notes), 2 * triples or None)
        qrels = next((path.parent / name for name in QRELS if (path.parent / name).is_file()), None)
        judged = read_qrels(qrels, self.notes) if qrels and split == "dev" else None
        most = whole_number(self.options, "candidates", 0, minimum=0)
        candidates = read_candidates(path, judged, self.notes)
        return (one for one in candidates if not most or one.rank <= most)

    def labels(self, examples: Iterable[Candidate]) -> tuple[str, ...]:  # noqa: ARG002
        return LABELS

    def head(self, labels: Sequence[str]) -> Head:
        return Head("sequence", len(labels))

    def rows(self, examples: Sequence[Candidate], encoder: TextEncoder, fitted: Fitted) -> list[list[Row]]:  # noqa: ARG002
        most = whole_number(self.options, "max_query", 64)
        queries: dict[str, list[int]] = {one.query: [] for one in examples}
        for query, ids in zip(queries, encoder.ids(list(queries)), strict=True):
            queries[query] = ids[:most]
        made = []
        for one, passage in zip(examples, encoder.ids([one.passage for one in examples]), strict=True):
            ids, second = encoder.query_and_passage(queries[one.query], passage)
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
        raw = np.stack([of_example[0][0] for of_example in outputs]).astype(np.float64)
        scores = 1 / (1 + np.exp(raw[:, 0] - raw[:, 1]))
        return [
            {"id": one.id, "query_id": one.query_id, "passage_id": one.passage_id, "score": float(score)}
            for one, score in zip(examples, scores, strict=True)
        ]

    def score(self, scored: Iterable[tuple[Candidate, Prediction]], fitted: Fitted) -> Scores:  # noqa: ARG002
        """MRR@10 and others over all queries that have candidates."""
        numbers: dict[str, int] = {}
        rows = (
            (numbers.setdefault(one.query_id, len(numbers)), prediction["score"], one.relevant or 0)
            for one, prediction in scored
        )
        table = np.fromiter(rows, dtype=[("query", np.int64), ("score", np.float64), ("grade", np.int8)])
        return ranking_scores(table["query"], table["score"], table["grade"])

    def write_submission(self, predictions: Iterable[Prediction], split: str, folder: Path) -> list[Path]:
        """Write ``SPLIT.trec``, a TREC run file.

        Raises:
            InputError: there are no predictions, or an id is not one word.
        """
        fields = ("query_id", "passage_id", "score")
        parts = [  # arrays of some thousand, as there are millions of candidates
            [np.array([one[field] for one in batch]) for field in fields]
            for batch in in_batches(predictions, lambda _: 1, 10_000)
        ]
        if not parts:
            raise InputError("there is no candidate to rank")
        queries, passages, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
        path = folder / f"{split}.trec"
        with new_file(path) as file:
            file.writelines(line.encode() for line in run_lines(queries, passages, scores, "bertjobs"))
        return [path]

    def from_text(self, texts: Sequence[Mapping[str, str]]) -> list[Candidate]:
        """Pairs, under the keys ``query`` and ``passage``, and if wanted the ``id`` of the query.

        Raises:
            InputError: a key is missing or not known.
        """
        check_keys(texts, ("query", "passage"), ("id",))
        return [
            Candidate(one.get("id", str(number)), "1", one["query"], one["passage"])
            for number, one in enumerate(texts, 1)
        ]
