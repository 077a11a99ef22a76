"""What is published of the speed of one GPU: where nothing was measured, a plan starts from it."""

from __future__ import annotations

from bertjobs.recipe.spec import ModelSpec, PhaseSpec, RunSpec

_BERT_LARGE = (24, 1024, 16, 4096)

PUBLISHED = {
    ("A100-SXM4-80GB", _BERT_LARGE, "fp16"): {128: 580.0, 512: 210.0},
    ("A100-SXM4-80GB", _BERT_LARGE, "tf32"): {128: 317.0, 512: 110.0},
    ("V100-SXM2-32GB", _BERT_LARGE, "fp16"): {128: 224.0, 512: 75.0},
    ("V100-SXM2-32GB", _BERT_LARGE, "fp32"): {128: 50.0, 512: 19.0},
    ("A100-SXM4-40GB", _BERT_LARGE, "fp16"): {128: 415.0, 512: 78.0},
    ("A100-SXM4-40GB", _BERT_LARGE, "tf32"): {128: 234.0, 512: 41.0},
    ("V100-SXM3-32GB", _BERT_LARGE, "fp16"): {128: 173.0, 512: 36.0},
    ("V100-SXM3-32GB", _BERT_LARGE, "fp32"): {128: 42.0, 512: 10.0},
    ("V100-SXM2-16GB", _BERT_LARGE, "fp16"): {128: 164.0, 512: 34.0},
    ("V100-SXM2-16GB", _BERT_LARGE, "fp32"): {128: 40.0, 512: 9.0},
}
"""Sequences/s of one GPU by GPU, model and precision, then by sequence length: NVIDIA's DeepLearningExamples,
BERT-large with LAMB. The first four are of container 21.11, with sequences of 512 binned by length; the others of
20.06, padded."""


def published_rate(spec: RunSpec, phase: PhaseSpec) -> float | None:
    """Sequences/s of one GPU at a phase's work; None if nothing is published for it."""
    if not spec.gpus:
        return None
    return PUBLISHED.get((spec.system.gpu, _shape(spec.model), spec.precision), {}).get(phase.sequence_length)


def _shape(model: ModelSpec) -> tuple[int, int, int, int]:
    return model.num_hidden_layers, model.hidden_size, model.num_attention_heads, model.intermediate_size
