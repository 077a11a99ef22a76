"""README.md of an export: what the model is, what it is worth, and lines that load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bertjobs import __version__
from bertjobs.export.padded import Kind
from bertjobs.tasks.metrics.scores import listed

PIPELINES: Mapping[Kind, str] = {
    "sequence": "text-classification",
    "token": "token-classification",
    "span": "question-answering",
    "fill-mask": "fill-mask",
    "features": "feature-extraction",
}
"""Hugging Face's names of what a model is for."""

_MOST_LABELS = 200

_LOAD: Mapping[Kind, str] = {
    "sequence": """from transformers import pipeline

classify = pipeline("text-classification", model=".", top_k=None)
print(classify({text}, truncation=True))
""",
    "token": """from transformers import pipeline

tag = pipeline("token-classification", model=".", aggregation_strategy="first", stride=16)
print(tag("Harry grew up in Canada."))
""",
    "span": """import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForQuestionAnswering.from_pretrained(".")
question, context = "What does Harry like?", "My name is Harry and I grew up in Canada. I love apples."
inputs = tokenizer(question, context, truncation="only_second", return_tensors="pt", return_offsets_mapping=True)
offsets = inputs.pop("offset_mapping")[0].tolist()
with torch.inference_mode():
    outputs = model(**inputs)
inside = torch.tensor([of_context == 1 for of_context in inputs.sequence_ids(0)])
start = int(outputs.start_logits[0].masked_fill(~inside, float("-inf")).argmax())
later = inside & (torch.arange(len(inside)) >= start)
end = int(outputs.end_logits[0].masked_fill(~later, float("-inf")).argmax())
print(context[offsets[start][0] : offsets[end][1]])
""",
    "fill-mask": """from transformers import pipeline

fill = pipeline("fill-mask", model=".")
print(fill("The capital of France is [MASK].", tokenizer_kwargs={"truncation": True}))
""",
    "features": """import torch
from transformers import AutoModel, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModel.from_pretrained(".")
inputs = tokenizer(["A text.", "Another one."], padding=True, truncation=True, return_tensors="pt")
with torch.inference_mode():
    vectors = model(**inputs).last_hidden_state
mask = inputs["attention_mask"][..., None]
print((vectors * mask).sum(1) / mask.sum(1))
""",
}

_RUN = """import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation({max_length})
tokenizer.enable_padding()
encoded = tokenizer.encode_batch([{text}])
session = onnxruntime.InferenceSession("{file}")
inputs = {{
    "input_ids": [one.ids for one in encoded],
    "attention_mask": [one.attention_mask for one in encoded],
    "token_type_ids": [one.type_ids for one in encoded],
}}
for output, value in zip(session.get_outputs(), session.run(None, inputs)):
    print(output.name, value.shape)
"""


@dataclass(frozen=True)
class Card:
    """What is known of an exported model.

    Attributes:
        name: of the model.
        kind: what comes out of it.
        shape: layers, hidden size and parameters, in words.
        task: the task's name; "" without one.
        labels: of its classes or tags.
        scores: on the dev data, by name.
        pairs: whether the task's texts come in pairs.
        max_length: tokens of a text at most, as the task was trained.
        positions: tokens that the model can read at most.
        notes: sentences that stand at the end.
    """

    name: str
    kind: Kind
    shape: str
    task: str = ""
    labels: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    pairs: bool = False
    max_length: int = 512
    positions: int = 512
    notes: tuple[str, ...] = ()


def hugging_face_card(card: Card) -> str:
    """README.md of a Hugging Face folder, with the metadata that its hub reads."""
    head = ["---", "library_name: transformers", f"pipeline_tag: {PIPELINES[card.kind]}", "tags:", "- bert",
            "- bertjobs", "---", ""]  # fmt: skip
    text = '{"text": "A text.", "text_pair": "Another one."}' if card.pairs else '"A fine film."'
    code = _LOAD[card.kind].replace("{text}", text)
    return "\n".join([*head, *about(card), "## Loading it", "", *_fence("python", code), *_notes(card)])


def onnx_card(card: Card, outputs: Mapping[str, str], checked: str, int8: str = "") -> str:
    """README.md of an ONNX export.

    Args:
        outputs: names and shapes of what comes out.
        checked: how it was compared with torch.
        int8: what the eight-bit file costs; "" if there is none.
    """
    pair = '("A text.", "Another one.")' if card.pairs or card.kind == "span" else '"A text.", "Another one."'
    rows = [f"| `{name}` | float32 | {shape} |" for name, shape in outputs.items()]
    return "\n".join([
        *about(card), "## The file", "",
        f"`model.onnx` takes and gives (B sequences of up to {card.positions} tokens, S tokens in the longest):", "",
        "| name | type | shape |", "|---|---|---|",
        "| `input_ids` | int64 | B, S |", "| `attention_mask` | int64 | B, S: 1 for tokens, 0 for padding |",
        "| `token_type_ids` | int64 | B, S: 1 in the second text of a pair, else 0 |", *rows, "",
        checked, *([int8] if int8 else []), "", "## Running it", "",
        *_fence("python", _RUN.format(max_length=card.max_length, text=pair, file="model.onnx")), *_notes(card),
    ])  # fmt: skip


def about(card: Card) -> list[str]:
    lines = [f"# {card.name}", "", f"BERT ({card.shape}){_purpose(card)}. Exported by bertjobs {__version__}.", ""]
    if card.labels:
        shown = listed(card.labels) if len(card.labels) > _MOST_LABELS else ", ".join(card.labels)
        lines += [f"Labels: {shown}.", ""]
    lines += [_lengths(card), ""]
    scores = {name: value for name, value in card.scores.items() if "/" not in name}  # without those of single classes
    if scores:
        rows = [f"| {name.removeprefix('dev_').replace('_', ' ')} | {value:.4g} |" for name, value in scores.items()]
        lines += ["| measured on the dev data of its run | |", "|---|---|", *rows, ""]
    return lines


def _lengths(card: Card) -> str:
    if card.max_length == card.positions:
        return f"It reads up to {card.max_length} tokens; longer texts are cut off."
    return (
        f"It was fine-tuned on up to {card.max_length} tokens, and bertjobs cuts longer texts off there; it can read "
        f"up to {card.positions}."
    )


def _purpose(card: Card) -> str:
    if card.task:
        return f", fine-tuned for the task `{card.task}`"
    return ", pretrained: it fills masks" if card.kind == "fill-mask" else ": the vectors of a text's tokens"


def _notes(card: Card) -> list[str]:
    return [*(line for note in card.notes for line in ("", note)), ""]


def _fence(language: str, code: Any) -> list[str]:
    return [f"```{language}", code.rstrip("\n"), "```"]
