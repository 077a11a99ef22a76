"""The KServe v2 protocol (Open Inference Protocol), as values: what is asked, and what is answered.

A request has texts (BYTES, under the names of the model's keys) or token ids (INT64 ``input_ids``, and if wanted
``attention_mask`` and ``token_type_ids``). Texts get what they mean, ids the raw outputs under the names that ONNX
files of Hugging Face's classes have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertjobs import __version__
from bertjobs.errors import nearest
from bertjobs.serve.computation import Computation, Reply, reply, text_computation
from bertjobs.serve.engine import Outputs
from bertjobs.serve.fields import Fields, counted_list, parsed, text_of
from bertjobs.serve.limits import Limits
from bertjobs.serve.refusal import MALFORMED, Refusal
from bertjobs.serve.served import EMBEDDING, Served
from bertjobs.serve.tensors import BYTES, Binary, RequestTensor, as_binary, as_json, numbers, read_tensor, words
from bertjobs.serve.token_rows import row_of
from bertjobs.tasks.task import Prediction

HEADER_LENGTH = "Inference-Header-Content-Length"
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"

_FIELDS = ("id", "parameters", "inputs", "outputs")
_PARAMETERS = ("binary_data_output", "truncate")

_OF_TEXT: dict[str, dict[str, str]] = {
    "classes": {"label": BYTES, "probabilities": "FP32"},
    "several": {"labels": BYTES, "probabilities": "FP32"},
    "number": {"value": "FP32"},
    "tags": {},
    "answer": {"answer": BYTES, "start": "INT64", "probability": "FP32"},
    "ranking": {"score": "FP32"},
    EMBEDDING: {"embedding": "FP32"},
}
"""By a model's kind, the outputs that texts get, with their types; besides `PREDICTION`."""

PREDICTION = "prediction"
"""All that a model says of a text, as JSON."""


@dataclass(frozen=True)
class Wanted:
    """Which outputs a request asks for, and which of them as bytes."""

    id: str | None
    names: Sequence[str]
    binary: frozenset[str]


def server_metadata() -> dict[str, Any]:
    """The answer to ``GET /v2``."""
    return {"name": "bertjobs", "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(served: Served) -> dict[str, Any]:
    """The answer to ``GET /v2/models/NAME``. A request has the inputs of text or those of ids."""
    keys = [*served.ask.keys, *served.ask.optional]
    texts = [{"name": key, "datatype": BYTES, "shape": [-1]} for key in keys]
    ids = [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in (IDS, MASK, TYPES)]
    outputs = {**_outputs_of_text(served), **dict.fromkeys(_raw_names(served), "FP32")}
    return {
        "name": served.name,
        "versions": [str(served.version)],
        "platform": "bertjobs_pytorch",
        "inputs": texts + ids,
        "outputs": [
            {"name": name, "datatype": kind, "shape": _shape_of(name, served)} for name, kind in outputs.items()
        ],
    }


def infer(body: bytes, header_length: str | None, served: Served, limits: Limits) -> Computation:
    """A request's body as work.

    Args:
        header_length: the value of the header of this name, if there is one.

    Raises:
        Refusal: the request is malformed, or asks what the model cannot answer.
    """
    size = _header_size(header_length, len(body))
    fields, binary = Fields.of(parsed(body[:size]), _FIELDS), Binary(body[size:])
    parameters = Fields.of(fields.content.get("parameters") or {}, _PARAMETERS, "parameters")
    inputs = [
        read_tensor(value, binary, f"inputs[{number}]")
        for number, value in enumerate(counted_list(fields.items("inputs", 16), "inputs", 16))
    ]
    binary.check_end()
    by_name = {tensor.name: tensor for tensor in inputs}
    if len(by_name) < len(inputs):
        raise Refusal("two inputs have the same name", where="inputs")
    is_text = any(tensor.datatype == BYTES for tensor in inputs)
    wanted = _wanted(fields, parameters, list(_outputs_of_text(served)) if is_text else _raw_names(served))
    if is_text:
        texts, shape = _texts(by_name, served, limits)
        truncate = parameters.flag("truncate", False)
        return text_computation(
            served.ask,
            texts,
            lambda predictions: _answer(served, wanted, _meaning(predictions, served, shape)),
            limits,
            truncate=truncate,
        )
    return _of_token_ids(by_name, served, limits, wanted)


def _header_size(text: str | None, body: int) -> int:
    """How much of the body is JSON."""
    if text is None:
        return body
    if not text.isdecimal() or len(text) > 18 or int(text) > body:
        raise Refusal(f"{HEADER_LENGTH} is {text[:40]!r}, and the body has {body:,} bytes", status=MALFORMED)
    return int(text)


def _wanted(fields: Fields, parameters: Fields, names: Sequence[str]) -> Wanted:
    identifier = fields.text("id") if "id" in fields else None
    all_binary = parameters.flag("binary_data_output", False)
    if not fields.content.get("outputs"):
        return Wanted(identifier, names, frozenset(names if all_binary else ()))
    chosen = {}
    for number, value in enumerate(fields.items("outputs", 16)):
        where = f"outputs[{number}]"
        output = Fields.of(value, ("name", "parameters"), where)
        name = output.text("name")
        if name not in names:
            raise Refusal(f"there is no output {name!r}", where=where, hint=nearest(name, names))
        options = Fields.of(output.content.get("parameters") or {}, ("binary_data",), where)
        chosen[name] = options.flag("binary_data", all_binary)
    return Wanted(identifier, list(chosen), frozenset(name for name, is_binary in chosen.items() if is_binary))


def _check_names(
    inputs: Mapping[str, RequestTensor], required: Sequence[str], optional: Sequence[str], kind: str
) -> None:
    for name, tensor in inputs.items():
        if name not in (*required, *optional):
            raise Refusal(f"the model has no input {name!r} of {kind}", where="inputs",
                          hint=nearest(name, (*required, *optional)))  # fmt: skip
        if (tensor.datatype == BYTES) != (kind == "text"):
            raise Refusal(f"input {name!r} is {tensor.datatype}", where="inputs", hint="send text or ids, not both")
    for name in required:
        if name not in inputs:
            raise Refusal(f"there is no input {name!r}", where="inputs")


def _texts(
    inputs: Mapping[str, RequestTensor], served: Served, limits: Limits
) -> tuple[list[dict[str, str]], tuple[int, ...]]:
    """The texts of each example, and the shape of the tensors that they came in: ``[N]`` or ``[N, 1]``."""
    _check_names(inputs, served.ask.keys, served.ask.optional, "text")
    shapes = {tensor.shape for tensor in inputs.values()}
    shape = next(iter(shapes))
    if len(shapes) > 1 or (len(shape) == 2 and shape[1] != 1):
        raise Refusal(f"texts have the shape [N] or [N, 1], all of them the same; not {sorted(map(list, shapes))}",
                      where="inputs")  # fmt: skip
    counted_list([0] * shape[0], "inputs", limits.rows)
    columns = {
        name: [text_of(text, f"input {name!r}, text {place + 1}") for place, text in enumerate(tensor.values.ravel())]
        for name, tensor in inputs.items()
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)], shape


def _of_token_ids(inputs: Mapping[str, RequestTensor], served: Served, limits: Limits, wanted: Wanted) -> Computation:
    _check_names(inputs, (IDS,), (MASK, TYPES), "ids")
    ids = inputs[IDS].values
    if ids.ndim != 2:
        raise Refusal(f"the shape of {IDS} is [{len(ids)}]: sequences and their tokens, [N, L], are needed",
                      where=f"input {IDS!r}")  # fmt: skip
    for name in (MASK, TYPES):
        if name in inputs and inputs[name].shape != ids.shape:
            raise Refusal(f"the shape of {name} is {list(inputs[name].shape)}, and that of {IDS} {list(ids.shape)}",
                          where=f"input {name!r}")  # fmt: skip
    counted_list([0] * len(ids), f"input {IDS!r}", limits.rows)
    mask, types = (inputs[name].values if name in inputs else None for name in (MASK, TYPES))
    rows = [
        row_of(
            ids[number],
            None if mask is None else mask[number],
            None if types is None else types[number],
            served.rules,
            f"sequence {number + 1}",
        )
        for number in range(len(ids))
    ]
    width = ids.shape[1]

    def finish(outputs: Outputs) -> Reply:
        return _answer(served, wanted, raw_outputs(outputs, served, width))

    return Computation(served.scorer, rows, finish)


def raw_outputs(outputs: Outputs, served: Served, width: int) -> list[RequestTensor]:
    """The outputs of sequences of ``width`` tokens as tensors; 0 at padding."""
    if served.kind == EMBEDDING:
        return [numbers("embedding", np.stack([of_row[0] for of_row in outputs]))]
    if served.rules.head.kind == "sequence":
        return [numbers("logits", np.concatenate(outputs))]
    padded = np.zeros((len(outputs), width, served.rules.head.outputs), dtype=np.float32)
    for number, of_row in enumerate(outputs):
        padded[number, : len(of_row)] = of_row
    if served.rules.head.kind == "token":
        return [numbers("logits", padded)]
    return [numbers("start_logits", padded[:, :, 0]), numbers("end_logits", padded[:, :, 1])]


def _raw_names(served: Served) -> list[str]:
    if served.kind == EMBEDDING:
        return ["embedding"]
    return list(served.rules.head.output_names)


def _outputs_of_text(served: Served) -> dict[str, str]:
    return {**_OF_TEXT[served.kind], **({} if served.kind == EMBEDDING else {PREDICTION: BYTES})}


def _shape_of(name: str, served: Served) -> list[int]:
    if name in ("start_logits", "end_logits"):
        return [-1, -1]
    if name == "logits":
        outputs = served.rules.head.outputs
        return [-1, outputs] if served.rules.head.kind == "sequence" else [-1, -1, outputs]
    if name == "probabilities":
        return [-1, len(served.labels)]
    return [-1, -1] if name == "embedding" else [-1]


def _meaning(predictions: Sequence[Prediction], served: Served, shape: tuple[int, ...]) -> list[RequestTensor]:
    """What a model says of texts, as tensors with a value for each, or for probabilities and vectors a row."""
    made: list[RequestTensor] = []
    if served.kind == EMBEDDING:
        return [numbers("embedding", np.stack([one["mean"] for one in predictions]))]
    for name, kind in _OF_TEXT[served.kind].items():
        values = [one[name] for one in predictions]
        if name == "probabilities":
            made.append(numbers(name, np.array([list(shares.values()) for shares in values], dtype=np.float32)))
        elif kind == BYTES:
            made.append(words(name, [one if isinstance(one, str) else _dumped(one) for one in values], shape))
        else:
            made.append(
                numbers(name, np.array(values, dtype=np.float32 if kind == "FP32" else np.int64).reshape(shape))
            )
    made.append(words(PREDICTION, [_dumped(one) for one in predictions], shape))
    return made


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _answer(served: Served, wanted: Wanted, tensors: Sequence[RequestTensor]) -> Reply:
    by_name = {tensor.name: tensor for tensor in tensors}
    outputs, behind = [], []
    for name in wanted.names:
        if name in wanted.binary:
            described, data = as_binary(by_name[name])
            behind.append(data)
        else:
            described = as_json(by_name[name])
        outputs.append(described)
    content = {"model_name": served.name, "model_version": str(served.version)}
    made = reply({**content, **({} if wanted.id is None else {"id": wanted.id}), "outputs": outputs})
    if not behind:
        return made
    head = {HEADER_LENGTH: str(len(made.body))}
    return Reply(made.body + b"".join(behind), "application/octet-stream", head)
