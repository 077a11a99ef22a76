"""What a model says of an example, for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertjobs.tasks.task import Prediction, without_ids
from bertjobs.wording import columns

MOST = 5
"""Classes, or answers, that are shown."""


def in_words(prediction: Prediction) -> list[str]:
    """Lines of text: the verdict first, then how sure the model is of it and of others."""
    rest = without_ids(prediction)
    lines = []
    if "tags" in rest and "words" in rest:
        rows = list(zip(map(str, rest.pop("words")), map(str, rest.pop("tags")), strict=True))
        lines += columns(rows)
    for key in ("label", "labels", "value", "answer"):
        if key in rest:
            lines.append(_verdict(rest.pop(key)))
    if isinstance(shares := rest.pop("probabilities", None), Mapping):
        best = sorted(shares.items(), key=lambda item: -item[1])[:MOST]
        lines += columns([(f"  {name}", f"{share:.4f}") for name, share in best])
    for key, value in rest.items():
        lines += _field(key, value)
    return lines


def _verdict(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none of the labels"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) or "no answer"


def _field(key: str, value: Any) -> list[str]:
    """A field of a task's own; of a list its first elements, a line each."""
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        return [f"  {key}:", *(f"    {_flat(one)}" for one in value[:MOST])]
    return [f"  {key}: {_short(value)}"]


def _flat(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_short(one, between=' ')}" for key, one in value.items())


def _short(value: Any, between: str = ", ") -> str:
    if isinstance(value, list):
        return between.join(map(_short, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
