"""TensorFlow Serving's predict, in its row format: ``{"instances": [...]}`` with token ids, or with text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertjobs.serve.computation import Computation, Reply, reply, text_computation
from bertjobs.serve.engine import Outputs
from bertjobs.serve.fields import Fields, parsed, text_of
from bertjobs.serve.limits import Limits
from bertjobs.serve.refusal import Refusal
from bertjobs.serve.served import EMBEDDING, Served
from bertjobs.serve.token_rows import Ids, numbers_of, row_of
from bertjobs.tasks.probabilities import sigmoid, softmax
from bertjobs.tasks.rows import Row
from bertjobs.tasks.task import Prediction

IDS = "input_ids"
_MASKS, _TYPES, _LABELS = ("input_mask", "attention_mask"), ("segment_ids", "token_type_ids"), "label_ids"
_NUMBER = "unique_ids"
"""A row's number, which NVIDIA's graph for questions takes and gives back."""
_OF_IDS = (IDS, *_MASKS, *_TYPES, _LABELS, _NUMBER)


def predict(body: bytes, served: Served, limits: Limits) -> Computation:
    """A request's body as work. Labels, which training graphs ask for, are not looked at.

    Raises:
        Refusal: the request is malformed, or asks what the model cannot answer.
    """
    fields = Fields.of(parsed(body), ("instances", "signature_name", "truncate"))
    if "signature_name" in fields:
        fields.choice("signature_name", ["serving_default", ""])
    instances = fields.items("instances", limits.rows)
    if _has_ids(instances[0]):
        rows, widths = zip(*(_row(one, served, f"instances[{n}]") for n, one in enumerate(instances)), strict=True)
        numbers = [one.get(_NUMBER) for one in instances]
        return Computation(served.scorer, rows, lambda outputs: _of_ids(outputs, widths, numbers, served))
    texts = [_texts(one, served, f"instances[{number}]") for number, one in enumerate(instances)]
    truncate = fields.flag("truncate", False)
    return text_computation(served.ask, texts, lambda made: _of_texts(made, served), limits, truncate=truncate)


def model_status(served: Served) -> dict[str, Any]:
    """What ``GET /v1/models/NAME`` says of a model's versions."""
    status = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": str(served.version), "state": "AVAILABLE", "status": status}]}


def _has_ids(instance: Any) -> bool:
    return isinstance(instance, dict) and any(name in instance for name in _OF_IDS)


def _row(instance: Any, served: Served, where: str) -> tuple[Row, int]:
    """A sequence, and how many numbers it has with its padding."""
    fields = Fields.of(instance, _OF_IDS, where)
    ids = numbers_of(fields[IDS], fields.place(IDS))
    row = row_of(ids, _one_of(fields, _MASKS), _one_of(fields, _TYPES), served.rules, where)
    return row, len(ids)


def _one_of(fields: Fields, names: Sequence[str]) -> Ids | None:
    """The numbers under one of two names for the same."""
    given = [name for name in names if name in fields]
    if len(given) > 1:
        raise Refusal(f"{given[0]!r} and {given[1]!r} are two names for the same", where=fields.where)
    return numbers_of(fields[given[0]], fields.place(given[0])) if given else None


def _texts(instance: Any, served: Served, where: str) -> dict[str, str]:
    ask = served.ask
    if isinstance(instance, str) and len(ask.keys) == 1:
        return {ask.keys[0]: text_of(instance, where)}
    fields = Fields.of(instance, (*ask.keys, *ask.optional), where)
    return {key: fields.text(key) for key in (*ask.keys, *ask.optional) if key in fields or key in ask.keys}


def _of_texts(predictions: Sequence[Prediction], served: Served) -> Reply:
    if served.kind == EMBEDDING:
        return reply({"predictions": [one["mean"].tolist() for one in predictions]})
    return reply({"predictions": predictions})


def _of_ids(outputs: Outputs, widths: Sequence[int], numbers: Sequence[Any], served: Served) -> Reply:
    made = [_of_row(*one, served) for one in zip(outputs, widths, strict=True)]
    pairs = zip(made, numbers, strict=True)
    return reply({"predictions": [{_NUMBER: number, **one} if isinstance(one, dict) and number is not None else one
                                  for one, number in pairs]})  # fmt: skip


def _of_row(output: NDArray[np.float32], width: int, served: Served) -> Any:
    """Probabilities as the exported graphs of BERT's scripts give them: of the row, or of each token; 0 at padding."""
    if served.kind == EMBEDDING:
        return output[0].tolist()
    if served.kind == "number":
        return output[0].tolist()
    if served.kind == "several":
        return sigmoid(output[0]).tolist()
    if served.rules.head.kind == "sequence":
        return softmax(output[0]).tolist()
    padded = np.zeros((width, output.shape[1]))
    padded[: len(output)] = softmax(output) if served.rules.head.kind == "token" else output
    if served.rules.head.kind == "token":
        return padded.tolist()
    return {"start_logits": padded[:, 0].tolist(), "end_logits": padded[:, 1].tolist()}
