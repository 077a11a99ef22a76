"""README.md of a model repository: how it is served and asked."""

from __future__ import annotations

import json

from bertjobs.export.model_card import Card, about
from bertjobs.export.triton.answering import MOST_ROWS, Answering

SAMPLES = {
    "text": "Harry grew up in Canada.",
    "second": "Harry is from Canada.",
    "question": "What does Harry like?",
    "context": "My name is Harry and I grew up in Canada. I love apples.",
    "query": "What does Harry like?",
    "passage": "Harry loves apples.",
}


def repository_card(card: Card, answering: Answering, checked: str, int8: str, *, in_python: bool) -> str:
    """README.md of a model repository.

    Args:
        checked: how the ONNX file was compared with torch.
        int8: what eight-bit weights cost; "" if there are none.
    """
    computing = f"{card.name}_onnx"
    packages = "numpy, tokenizers and onnxruntime" if in_python else "numpy and tokenizers"
    asked = [name for name, optional in answering.texts.items() if not optional or (name == "second" and card.pairs)]
    rows = [f"| `{one.name}` | {one.type.removeprefix('TYPE_')} | {one.size} |" for one in answering.fields]
    return "\n".join([
        *about(card), "## The models", "",
        f"- `{card.name}` takes text and gives answers. It is Triton's Python backend with the tokenizer and the part "
        f"of bertjobs that reads texts and outputs (`{card.name}/1/bertjobs`), so bertjobs need not be installed.",
        f"- `{computing}` computes: token ids in, raw outputs out, on "
        + ("ONNX Runtime called from Triton's Python backend." if in_python else "Triton's onnxruntime backend."),
        "", f"Its ONNX file: {checked}. {int8}".rstrip(), "",
        f"Requests that wait together are computed together, up to {MOST_ROWS} texts: `dynamic_batching` in both "
        "`config.pbtxt` says how long Triton waits for more. `count` in `instance_group` is how many of each run.", "",
        "## Serving it", "", f"The server's Python (3.11 or later) needs {packages}:", "",
        "```bash", f"pip install {packages.replace(' and', ',').replace(',', '')}",
        "tritonserver --model-repository=$PWD", "```", "",
        "## Asking it", "", "```bash",
        f"curl localhost:8000/v2/models/{card.name}/infer -H 'Content-Type: application/json' -d '{_request(asked)}'",
        "```", "",
        "Each input is text of shape `[texts, 1]`; each output has one row per text:", "",
        "| output | type | numbers per text |", "|---|---|---|", *rows, "",
        *_meanings(answering),
    ])  # fmt: skip


def _request(names: list[str]) -> str:
    inputs = [{"name": name, "shape": [1, 1], "datatype": "BYTES", "data": [SAMPLES[name]]} for name in names]
    return json.dumps({"inputs": inputs})


def _meanings(answering: Answering) -> list[str]:
    meanings = {
        "prediction": "the whole answer as JSON, as `bertjobs predict` writes it",
        "probabilities": "of the labels, in their order above",
        "entities": "a JSON list: type, words, and where each begins and ends in the text, in characters",
        "tags": "a JSON list with the tag of each word",
        "labels": "a JSON list of those that are true",
        "start": "where the answer begins in the context, in characters",
        "end": "where it ends",
        "log_odds": "by which passages are ordered: `score` is their probability",
        "mean": "the mean vector over all tokens",
        "cls": "the vector of [CLS]",
    }
    names = [one.name for one in answering.fields]
    return [*(f"- `{name}`: {meanings[name]}" for name in names if name in meanings), ""]
