"""Questions whose answer is a part of a context, as in SQuAD 1.1 and 2.0."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bertjobs.errors import InputError
from bertjobs.files.atomic import write_json
from bertjobs.tasks.encoding import Pieces, TextEncoder
from bertjobs.tasks.example import Question
from bertjobs.tasks.metrics.answers import squad1_scores, squad2_scores
from bertjobs.tasks.metrics.scores import Scores
from bertjobs.tasks.notes import Notes
from bertjobs.tasks.options import flag, whole_number
from bertjobs.tasks.probabilities import sigmoid, softmax
from bertjobs.tasks.reading.lines import with_compressed
from bertjobs.tasks.reading.squad import read_questions
from bertjobs.tasks.rows import Head, Output, Row
from bertjobs.tasks.task import Fitted, Prediction, Task, check_keys

SPECIALS = 3
"""[CLS] question [SEP] context [SEP]."""
STRIDE, MAX_QUERY = 128, 64
"""Tokens: what the options are by default."""
LENGTH = 384
"""Tokens of a sequence for which those are meant."""
NULL_THRESHOLD = "null_threshold"
"""Its name among what is tuned."""
EVEN_ODDS = 0.5
"""The null odds above which a question is taken to have no answer, where there are no dev data to tune that on."""


@dataclass(frozen=True)
class _Window:
    """Tokens ``first`` to ``last - 1`` of a context, behind a question; ``offset`` is the place of the first in the
    row."""

    first: int
    last: int
    offset: int


@dataclass(frozen=True, order=True)
class _Span:
    """A candidate: its score (sum of two raw outputs), and its place in the context, in characters."""

    score: float
    start: int
    end: int


class Squad1(Task[Question]):
    """SQuAD 1.1: every question has an answer in its context.

    Contexts longer than the model become overlapping windows; a window without the answer is trained to point at
    [CLS], as BERT's own run_squad.py does. An answer is cut from the context itself.
    """

    name = "squad1"
    files: ClassVar[Mapping[str, Sequence[str]]] = {
        "train": with_compressed("train-v1.1.json", "train.json"),
        "dev": with_compressed("dev-v1.1.json", "dev.json"),
        "test": with_compressed("test.json"),
    }
    measure = "f1"
    text_keys: ClassVar[tuple[str, ...]] = ("question", "context")
    optional_keys: ClassVar[tuple[str, ...]] = ()
    has_null: ClassVar[bool] = False
    option_help: ClassVar[Mapping[str, str]] = {
        "stride": "tokens from one window to the next (default: 128)",
        "max_query": "tokens of a question at most; the rest is cut off (default: 64)",
        "max_answer": "tokens of an answer at most (default: 30)",
        "n_best": "candidates that are kept (default: 20)",
        "repair": "true takes the nearest occurrence of an answer that is not at its place (default: false, refused)",
    }

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        super().__init__(options)
        self._stride = whole_number(self.options, "stride", STRIDE)
        self._max_query = whole_number(self.options, "max_query", MAX_QUERY)
        self._max_answer = whole_number(self.options, "max_answer", 30)
        self._n_best = whole_number(self.options, "n_best", 20)
        self._repair = flag(self.options, "repair")

    def read(self, path: Path, split: str) -> Iterator[Question]:
        for question in read_questions(path, self.notes, labelled=split != "test", repair=self._repair):
            if not self.has_null and question.answers == ():
                raise InputError(
                    f"question {question.id} has no answer", where=question.where, hint="task squad2 has such questions"
                )
            yield question

    def read_unscored(self, path: Path, split: str) -> Iterator[Question]:  # noqa: ARG002
        return read_questions(path, self.notes, labelled=False, with_answers=False)

    def labels(self, examples: Iterable[Question]) -> tuple[str, ...]:  # noqa: ARG002
        """There are none."""
        return ()

    def head(self, labels: Sequence[str]) -> Head:  # noqa: ARG002
        return Head("span", 2)

    def rows(self, examples: Sequence[Question], encoder: TextEncoder, fitted: Fitted) -> list[list[Row]]:  # noqa: ARG002
        made = []
        for example, question, context in self._encoded(examples, encoder, self.notes):
            answer = _tokens_of(example, context)
            vocabulary = encoder.vocabulary
            rows = []
            windows = self._windows(question, context, encoder.max_length)
            self._note_lost(example, answer, windows)
            for window in windows:
                ids = [vocabulary.cls_id, *question, vocabulary.sep_id, *context.ids[window.first : window.last],
                       vocabulary.sep_id]  # fmt: skip
                rows.append(Row(ids, window.offset, _target(example, answer, window)))
            made.append(rows)
        return made

    def _note_lost(self, example: Question, answer: tuple[int, int] | None, windows: Sequence[_Window]) -> None:
        """Count an answer that no row has as its target."""
        so = "the loss takes their questions for ones without an answer"
        if example.answers and answer is None:
            self.notes.add(f"answers have no token: {so}", example.where)
        elif answer and not any(_holds(window, answer) for window in windows):
            self.notes.add(f"answers are in no window as a whole: {so}", example.where)

    def _encoded(
        self, examples: Sequence[Question], encoder: TextEncoder, notes: Notes | None = None
    ) -> Iterator[tuple[Question, Sequence[int], Pieces]]:
        """Each example with the tokens of its question and of its context; ``notes`` count the questions cut off."""
        room = encoder.max_length - self._max_query - SPECIALS
        if self._stride > room:
            fitting = {"stride": str(room // 2)} if room > 1 else options_for(encoder.max_length)
            hint = " ".join(f"--option {key}={value}" for key, value in fitting.items())
            if encoder.positions > encoder.max_length:
                longer = min(LENGTH, encoder.positions)
                hint += f", or longer sequences: --set phase1.sequence_length={longer}"
            raise InputError(
                f"a stride of {self._stride} tokens skips text: a window holds only {max(0, room)} of the context",
                where="--option stride",
                hint=hint,
            )
        questions = encoder.pieces([example.question for example in examples])
        texts = list(dict.fromkeys(example.context for example in examples))  # several questions share a context
        contexts = dict(zip(texts, encoder.pieces(texts), strict=True))
        for example, question in zip(examples, questions, strict=True):
            if notes and len(question.ids) > self._max_query:
                notes.add(f"questions longer than {self._max_query} tokens were cut off", example.where)
            yield example, encoder.shorten(question.ids, self._max_query), contexts[example.context]

    def _windows(self, question: Sequence[int], context: Pieces, max_length: int) -> list[_Window]:
        room, total, offset = max_length - len(question) - SPECIALS, len(context.ids), len(question) + 2
        windows = [_Window(0, min(room, total), offset)]
        while windows[-1].last < total:
            first = windows[-1].first + self._stride
            windows.append(_Window(first, min(first + room, total), offset))
        return windows

    def predict(
        self, examples: Sequence[Question], outputs: Sequence[Sequence[Output]], encoder: TextEncoder, fitted: Fitted
    ) -> list[Prediction]:
        threshold = _threshold(fitted)
        made = []
        for (example, question, context), raw in zip(self._encoded(examples, encoder), outputs, strict=True):
            windows = self._windows(question, context, encoder.max_length)
            made.append(self._answer(example, context, windows, raw, threshold))
        return made

    def _answer(
        self, example: Question, context: Pieces, windows: Sequence[_Window], raw: Sequence[Output], threshold: float
    ) -> Prediction:
        spans: dict[str, _Span] = {}  # by text: an answer that occurs twice is one candidate
        for number, output in enumerate(raw):
            for span in self._spans(number, windows, output, context, example.context):
                text = example.context[span.start : span.end]
                spans[text] = max(spans.get(text, span), span, key=lambda one: (one.score, -one.start, -one.end))
        best_spans = sorted(spans.values(), key=lambda span: (-span.score, span.start, span.end))[: self._n_best]
        scores = [span.score for span in best_spans]
        if self.has_null:
            scores.append(min(float(output[0].sum()) for output in raw))
        shares = softmax(scores).tolist() if scores else []
        n_best: list[dict[str, Any]] = [
            {"text": example.context[span.start : span.end], "start": span.start, "probability": share}
            for span, share in zip(best_spans, shares, strict=False)
        ]
        first = n_best[0] if n_best else {"text": "", "start": 0, "probability": 1.0}
        prediction = {"id": example.id, "answer": first["text"], "start": first["start"]}
        prediction |= {"probability": first["probability"], "n_best": n_best}
        if self.has_null:
            # Of the two alone: with the other candidates, it would depend on how many of them are kept.
            odds = float(sigmoid(scores[-1] - scores[0])) if n_best else 1.0
            prediction["null_odds"] = odds
            if odds > threshold or not n_best:
                prediction |= {"answer": "", "start": 0, "probability": shares[-1]}
        return prediction

    def _spans(
        self, number: int, windows: Sequence[_Window], output: Output, context: Pieces, text: str
    ) -> Iterator[_Span]:
        """The best spans of one window: ends at or after starts, not too long, and starts whose context in this window
        is the largest."""
        window = windows[number]
        size = window.last - window.first
        if not size:
            return
        starts, ends = (output[window.offset : window.offset + size, side].astype(np.float64) for side in (0, 1))
        starts = np.where(_is_best_window(number, windows), starts, -np.inf)
        lengths = np.arange(size)[None, :] - np.arange(size)[:, None]
        allowed = (lengths >= 0) & (lengths < self._max_answer)
        sums = np.where(allowed, starts[:, None] + ends[None, :], -np.inf)
        count = min(2 * self._n_best, sums.size)  # several may have the same text
        for place in np.argpartition(sums.ravel(), -count)[-count:]:
            first, last = divmod(int(place), size)
            if np.isfinite(sums[first, last]):
                begin, end = context.offsets[window.first + first][0], context.offsets[window.first + last][1]
                yield _Span(float(sums[first, last]), begin, _with_marks(text, end))

    def score(self, scored: Iterable[tuple[Question, Prediction]], fitted: Fitted) -> Scores:  # noqa: ARG002
        golds, answers = {}, {}
        for example, prediction in scored:
            golds[example.id] = tuple(answer.text for answer in example.answers or ())
            answers[example.id] = prediction["answer"]
        return squad1_scores(golds, answers)

    def write_submission(self, predictions: Iterable[Prediction], split: str, folder: Path) -> list[Path]:  # noqa: ARG002
        """``predictions.json`` and ``nbest_predictions.json`` as run_squad.py writes them, but for raw outputs, and
        for SQuAD 2.0 ``null_odds.json``."""
        answers, n_best, odds = {}, {}, {}
        for one in predictions:
            answers[one["id"]] = one["answer"]
            candidates = [{"text": c["text"], "probability": c["probability"]} for c in one["n_best"]]
            if self.has_null:
                rest = 1 - sum(candidate["probability"] for candidate in candidates)
                candidates.append({"text": "", "probability": max(0.0, rest)})
            n_best[one["id"]] = sorted(candidates, key=lambda candidate: -candidate["probability"])
            odds[one["id"]] = one.get("null_odds")
        written = {"predictions.json": answers, "nbest_predictions.json": n_best}
        written |= {"null_odds.json": odds} if self.has_null else {}
        for name, content in written.items():
            write_json(folder / name, json.loads(json.dumps(content)))
        return [folder / name for name in written]

    def from_text(self, texts: Sequence[Mapping[str, str]]) -> list[Question]:
        """Questions, under the keys ``question`` and ``context``.

        Raises:
            InputError: one of the two is missing or empty.
        """
        check_keys(texts, self.text_keys)
        for text in texts:
            for key in self.text_keys:
                if not text[key].strip():
                    raise InputError(f"the {key} is empty", hint='--question "..." --context "..."')
        return [
            Question(one.get("id", str(number)), one["question"], one["context"]) for number, one in enumerate(texts, 1)
        ]


def options_for(max_length: int) -> dict[str, str]:
    """Options with which windows of ``max_length`` tokens skip no text; {} if the default ones are such."""
    query = min(MAX_QUERY, max_length // 2)
    stride = min(STRIDE, max(1, (max_length - query - SPECIALS) // 2))
    chosen, default = {"stride": stride, "max_query": query}, {"stride": STRIDE, "max_query": MAX_QUERY}
    return {key: str(value) for key, value in chosen.items() if value != default[key]}


class Squad2(Squad1):
    """SQuAD 2.0: a question may have no answer.

    Its null odds, how likely it has none in comparison with the best answer, are held against a threshold tuned on dev.
    """

    name = "squad2"
    has_null = True
    files: ClassVar[Mapping[str, Sequence[str]]] = {
        "train": with_compressed("train-v2.0.json", "train.json"),
        "dev": with_compressed("dev-v2.0.json", "dev.json"),
        "test": with_compressed("test.json"),
    }

    def score(self, scored: Iterable[tuple[Question, Prediction]], fitted: Fitted) -> Scores:
        return squad2_scores(*_collected(scored), _threshold(fitted))

    def tune(self, scored: Iterable[tuple[Question, Prediction]], fitted: Fitted) -> Mapping[str, Any]:  # noqa: ARG002
        """The threshold of null odds, which are probabilities, with the best F1."""
        return {NULL_THRESHOLD: squad2_scores(*_collected(scored)).values["best_f1_thresh"]}

    def untuned(self, fitted: Fitted) -> list[str]:
        if NULL_THRESHOLD in fitted.tuned:
            return []
        copied = "a checkpoint that is copied out of its run loses it, which `bertjobs export RUN --to hf` takes along"
        return [f"the threshold of null odds is {EVEN_ODDS}, as none that was tuned on dev data is known; {copied}"]


def _threshold(fitted: Fitted) -> float:
    return float(fitted.tuned.get(NULL_THRESHOLD, EVEN_ODDS))


def _collected(
    scored: Iterable[tuple[Question, Prediction]],
) -> tuple[dict[str, tuple[str, ...]], dict[str, str], dict[str, float]]:
    """Correct answers, the best answers regardless of any threshold, and null odds."""
    golds, best, odds = {}, {}, {}
    for example, prediction in scored:
        golds[example.id] = tuple(answer.text for answer in example.answers or ())
        best[example.id] = prediction["n_best"][0]["text"] if prediction["n_best"] else ""
        odds[example.id] = prediction["null_odds"]
    return golds, best, odds


def _tokens_of(example: Question, context: Pieces) -> tuple[int, int] | None:
    """The first and the last token of the first correct answer; None if there is none."""
    if not example.answers or not context.ids:
        return None
    begin = example.answers[0].start
    end = begin + len(example.answers[0].text)
    ends = np.array([offset[1] for offset in context.offsets])
    starts = np.array([offset[0] for offset in context.offsets])
    first, last = int(np.searchsorted(ends, begin, side="right")), int(np.searchsorted(starts, end, side="left")) - 1
    return (first, last) if first <= last else None


def _target(example: Question, answer: tuple[int, int] | None, window: _Window) -> Sequence[float]:
    if example.answers is None:
        return ()
    if answer is None or not _holds(window, answer):
        return (0, 0)
    return tuple(place - window.first + window.offset for place in answer)


def _holds(window: _Window, answer: tuple[int, int]) -> bool:
    return window.first <= answer[0] and answer[1] < window.last


def _with_marks(text: str, end: int) -> int:
    """An end moved behind the non-spacing marks (Mn) of its last character where they are characters of their own, such
    as accents, vowel signs and variation selectors: BERT strips them, so its tokens do not cover them."""
    while end < len(text) and unicodedata.category(text[end]) == "Mn":
        end += 1
    return end


def _is_best_window(number: int, windows: Sequence[_Window]) -> NDArray[np.bool_]:
    """For each token of a window, whether no other window has more context on its poorer side (run_squad.py's rule)."""
    window = windows[number]
    tokens = np.arange(window.first, window.last)

    def context(one: _Window) -> NDArray[np.float64]:
        inside = (tokens >= one.first) & (tokens < one.last)
        poorer = np.minimum(tokens - one.first, one.last - 1 - tokens) + 0.01 * (one.last - one.first)
        return np.where(inside, poorer, -np.inf)

    own = context(window)
    best = np.ones(len(tokens), dtype=bool)
    for other, one in enumerate(windows):
        if other != number:
            best &= own > context(one) if other < number else own >= context(one)
    return best
