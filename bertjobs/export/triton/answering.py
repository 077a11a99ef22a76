"""What a served model says of texts, without torch: texts to padded rows, the outputs of these to answers.

This module and all that it imports are copied into the model repository (`bertjobs.export.triton.carried`), so that its
answers are those of `bertjobs predict`. There, only numpy and tokenizers are installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bertjobs.errors import InputError
from bertjobs.export.padding import padded
from bertjobs.tasks.encoding import TextEncoder
from bertjobs.tasks.metrics.spans import are_span_tags
from bertjobs.tasks.questions import Squad1
from bertjobs.tasks.ranking import RankingTask
from bertjobs.tasks.rows import Head, Output, Row
from bertjobs.tasks.sentences import SentenceTask
from bertjobs.tasks.tagging import TaggingTask
from bertjobs.tasks.task import Fitted, Task, check_keys, open_task, without_ids

SETTINGS_FILE = "task.json"
PREDICTION = "prediction"
"""The output with the whole answer, as JSON."""
STRING, FP32, INT32 = "TYPE_STRING", "TYPE_FP32", "TYPE_INT32"
NUMBERS = ("value", "probabilities", "start", "end", "probability", "score", "log_odds", "tokens", "cls", "mean")
"""The fields that are numbers, or arrays of them."""

MOST_ROWS = 64
"""Rows that are computed at a time, as config.pbtxt says too."""
MOST_TOKENS = 8192
"""Tokens that are computed at a time, padding included."""

Inputs = dict[str, NDArray[np.int64]]
"""By the names of the ONNX file's inputs, each ``[rows, tokens of the longest]``."""
Raw = Mapping[str, NDArray[np.float32]]
"""Its outputs by name."""


class PlainEncoder(TextEncoder):
    """A `TextEncoder` that does without the fast encoder of corpora, which needs pyarrow."""

    @cached_property
    def _fast(self) -> None:
        return None


class AskedRows(NamedTuple):
    """One request's example, as the task has it, with its rows."""

    example: Any
    rows: Sequence[Row]


class Field(NamedTuple):
    """A field of an answer as an output of the served model: Triton's type, and the size of its one dimension."""

    name: str
    type: str
    size: int = 1


class Answering:
    """What all kinds of models have.

    Attributes:
        encoder: counts the texts that were cut off.
        texts: names of the model's text inputs, each with whether it may be left out.
        fields: outputs of the model.
        raw: names of the ONNX file's outputs.
    """

    encoder: TextEncoder
    texts: Mapping[str, bool]
    fields: Sequence[Field]
    raw: Sequence[str]

    def output(self, name: str, answer: Mapping[str, Any]) -> Any:
        """The value of one of the `fields`: numbers, or bytes; lists and mappings without a type of Triton's as
        JSON."""
        value = answer if name == PREDICTION else answer[name]
        if name == "probabilities" and isinstance(value, Mapping):
            return list(value.values())
        if isinstance(value, str):
            return value.encode("utf-8")
        return value if name in NUMBERS else json.dumps(value, ensure_ascii=False).encode("utf-8")

    def ask(self, texts: Mapping[str, str]) -> AskedRows:
        """One request's texts, by the names of the model's inputs.

        Raises:
            InputError: a text is missing, or the task refuses it.
        """
        raise NotImplementedError

    def of_rows(self, rows: Sequence[Row], raw: Raw) -> list[Output]:
        """For each row the outputs that are read of it; ``raw`` are those of `padded` rows."""
        raise NotImplementedError

    def answer(self, asked: AskedRows, outputs: Sequence[Output]) -> dict[str, Any]:
        """What the outputs of an example's rows mean, as JSON."""
        raise NotImplementedError


class TaskAnswering(Answering):
    """A fine-tuned model.

    Args:
        content: of task.json.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.task: Task[Any] = open_task(content["task"], content["options"])
        self.fitted = Fitted(tuple(content["labels"]), content.get("tuned") or {})
        self.head = Head(**content["head"])
        self.encoder = PlainEncoder.of_folder(folder, content["max_length"])
        self.texts = {key: key in self.task.optional_keys for key in (*self.task.text_keys, *self.task.optional_keys)}
        self.fields = (Field(PREDICTION, STRING), *_fields(self.task, self.fitted.labels))
        self.raw = self.head.output_names

    def ask(self, texts: Mapping[str, str]) -> AskedRows:
        (example,) = self.task.from_text([texts])
        (rows,) = self.task.rows([example], self.encoder, self.fitted)
        return AskedRows(example, rows)

    def of_rows(self, rows: Sequence[Row], raw: Raw) -> list[Output]:
        if self.head.kind == "sequence":
            return [raw["logits"][number : number + 1] for number in range(len(rows))]
        if self.head.kind == "token":
            return [raw["logits"][number, np.asarray(row.read, dtype=np.int64)] for number, row in enumerate(rows)]
        both = np.stack([raw["start_logits"], raw["end_logits"]], axis=-1)
        return [both[number, : len(row.ids)] for number, row in enumerate(rows)]

    def answer(self, asked: AskedRows, outputs: Sequence[Output]) -> dict[str, Any]:
        (prediction,) = self.task.predict([asked.example], [outputs], self.encoder, self.fitted)
        answer = without_ids(prediction)
        if "answer" in answer:
            answer["end"] = answer["start"] + len(answer["answer"])
        return answer


class VectorAnswering(Answering):
    """A model without a head: the last layer's vectors of a text, that of [CLS] and the mean over all tokens.

    Args:
        content: ``max_length`` and ``hidden_size``.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        self.encoder = PlainEncoder.of_folder(folder, content["max_length"])
        self.texts = {"text": False}
        size = content["hidden_size"]
        self.fields = (Field("tokens", INT32), Field("cls", FP32, size), Field("mean", FP32, size))
        self.raw = ("last_hidden_state",)

    def ask(self, texts: Mapping[str, str]) -> AskedRows:
        check_keys([texts], ("text",))
        (ids,) = self.encoder.ids([texts["text"]])
        row = self.encoder.single(ids)
        return AskedRows(None, [Row(row, len(row))])

    def of_rows(self, rows: Sequence[Row], raw: Raw) -> list[Output]:
        return [raw["last_hidden_state"][number, : len(row.ids)] for number, row in enumerate(rows)]

    def answer(self, asked: AskedRows, outputs: Sequence[Output]) -> dict[str, Any]:
        (hidden,) = outputs
        return {"tokens": len(asked.rows[0].ids), "cls": hidden[0].tolist(), "mean": hidden.mean(0).tolist()}


def _fields(task: Task[Any], labels: Sequence[str]) -> Sequence[Field]:
    """What a task answers besides the whole prediction.

    Raises:
        InputError: the task is of another kind than those of bertjobs.
    """
    if isinstance(task, SentenceTask):
        if task.kind == "number":
            return [Field("value", FP32)]
        name = "labels" if task.kind == "several" else "label"
        return [Field(name, STRING), Field("probabilities", FP32, len(labels))]
    if isinstance(task, TaggingTask):
        return [Field("entities" if are_span_tags(labels) else "tags", STRING)]
    if isinstance(task, Squad1):
        places = [Field("start", INT32), Field("end", INT32), Field("probability", FP32)]
        return [Field("answer", STRING), *places]
    if isinstance(task, RankingTask):
        return [Field("score", FP32), Field("log_odds", FP32)]
    raise InputError(f"task {task.name or type(task).__name__} is not one that a server can be asked in text",
                     where="--to triton", hint="--to onnx writes the model alone")  # fmt: skip


def open_answering(folder: Path) -> Answering:
    """What a folder's model answers; the folder has task.json and the tokenizer's files."""
    content = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    kind = TaskAnswering if "task" in content else VectorAnswering
    return kind(folder, content)


def answers(
    answering: Answering, asked: Sequence[AskedRows], compute: Any, most_rows: int = MOST_ROWS
) -> Iterator[dict[str, Any]]:
    """The answers, in order; rows of all examples are computed together, those of like length in one batch.

    Args:
        compute: a callable from `Inputs` to `Raw`.
    """
    rows = [row for one in asked for row in one.rows]
    outputs: list[Output] = [np.zeros(0, dtype=np.float32)] * len(rows)
    for places in batches([len(row.ids) for row in rows], most_rows):
        chosen = [rows[place] for place in places]
        computed = answering.of_rows(chosen, compute(padded(chosen, answering.encoder.vocabulary.pad_id)))
        for place, output in zip(places, computed, strict=True):
            outputs[place] = output
    rest = iter(outputs)
    for one in asked:
        yield answering.answer(one, [next(rest) for _ in one.rows])


def batches(lengths: Sequence[int], most_rows: int = MOST_ROWS, most_tokens: int = MOST_TOKENS) -> list[list[int]]:
    """The places of rows that are computed together: the longest first, at most so many, and so many tokens with the
    padding; one row at least."""
    made: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if not made or len(made[-1]) == most_rows or (len(made[-1]) + 1) * longest > most_tokens:
            made.append([])
            longest = lengths[place]
        made[-1].append(place)
    return made


def texts_of(columns: Mapping[str, NDArray[Any] | None]) -> list[dict[str, str]]:
    """The texts of one request: of each of its elements by the name of the input; an input that was not given has none.

    Args:
        columns: bytes ``[elements, 1]`` by name.

    Raises:
        InputError: a text is not UTF-8, or an input has another number of elements.
    """
    given = {name: column.reshape(-1).tolist() for name, column in columns.items() if column is not None}
    if len({len(column) for column in given.values()}) > 1:
        raise InputError("the inputs have different numbers of texts", where=", ".join(given))
    return [
        {name: _text(name, value) for name, value in zip(given, values, strict=True)}
        for values in zip(*given.values(), strict=True)
    ]


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the text is not UTF-8: byte {error.start + 1:,} is wrong", where=name) from None
