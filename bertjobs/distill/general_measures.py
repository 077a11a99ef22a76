"""What general distillation measures: its fields of metrics.jsonl and validation.jsonl, and how the log states them.

Each term of the loss has the fields of `FIELDS`, without its weight. A line of metrics.jsonl has, besides these and the
fields of all objectives, ``distillation_loss``, the weighted sum that is minimised, and ``loss_nats``: the masked-LM
loss as in pretraining; where no masked words are learnt, the divergence of relations; without them the weighted sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertjobs.distill.terms import Means

FIELDS = {
    "labels": ("mlm_loss_nats", "mlm_accuracy"),
    "logits": ("soft_loss_nats",),
    "hidden": ("hidden_squared_error",),
    "relations": ("relation_loss_nats",),
}
LOSSES = {
    "distillation_loss": "distillation loss {:g}",
    "mlm_loss_nats": "MLM loss {:g} nats",
    "soft_loss_nats": "divergence from the teacher's masked words {:g} nats",
    "hidden_squared_error": "squared error of hidden states {:g}",
    "relation_loss_nats": "divergence of relations {:g} nats",
}
"""As in `Objective.losses`."""
_SHORT = {
    "mlm_loss_nats": "mlm {:.4f}",
    "mlm_accuracy": "accuracy {:.1%}",
    "soft_loss_nats": "soft {:.4f}",
    "hidden_squared_error": "hidden {:.4f}",
    "relation_loss_nats": "relations {:.4f}",
}


def fields_of(average: Means) -> dict[str, float]:
    """Means under their names."""
    return {
        field: value
        for name, values in average.scores.items()
        for field, value in zip(FIELDS[name], values, strict=True)
    }


def step_words(line: Mapping[str, Any]) -> str:
    """As in `Objective.step_words`."""
    return f"distillation loss {line['distillation_loss']:.4f}  {_in_words(line, '  ')}"


def validation_words(line: Mapping[str, Any]) -> str:
    """As in `Objective.validation_words`."""
    unigram = f" (unigram line {line['unigram_cross_entropy_nats']:.4f})" if "mlm_loss_nats" in line else ""
    return f"held-out {_in_words(line, ', ')}{unigram}"


def _in_words(line: Mapping[str, Any], between: str) -> str:
    return between.join(words.format(line[field]) for field, words in _SHORT.items() if field in line)
