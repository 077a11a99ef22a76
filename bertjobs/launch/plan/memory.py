"""GPU memory that a micro-batch needs: arithmetic from the shapes, an estimate and not a measurement.

The method is that of Korthikanti et al. (arXiv 2205.05198, section 4): add up what each operation keeps for its
backward pass. Their layer keeps s b h (34 + 5 a s / h) bytes; ours differs in three places. Attention is a fused kernel
that keeps no s x s matrix (Dao et al., arXiv 2205.14135), but its inputs, its output and a float32 per head and token.
Under autocast the residual stream is float32, so a LayerNorm keeps 4 bytes per element and not 2. And query, key and
value each make their own cast of the stream. Bytes per token and layer, with hidden size H, inner size F and A heads::

                                               bf16, fp16      fp32, tf32
    input of query, key and value                 3 x 2H             4H
    query, key, value                             3 x 2H         3 x 4H
    attention: output, log-sum-exp               2H + 4A        4H + 4A
    input of the inner projection                     2H             4H
    GELU: input and output                        2 x 2F         2 x 4F
    two dropout masks                              2 x H          2 x H
    two LayerNorms: input, mean, deviation    2 (4H + 8)     2 (4H + 8)

Added to these are the embeddings' own LayerNorm and mask, and the heads, of which the masked-LM one runs on masked
tokens only. With activation checkpointing (Chen et al., arXiv 1604.06174) a layer keeps its input, 4H, and one layer at
a time is recomputed.

Besides the activations there are, for P parameters: float32 weights and gradients (4P each: gradients are kept from
step to step, and with several ranks they are views of what is sent, so they count once), two float32 moments (8P, or
with sharded states about 8P / ranks: whole tensors are distributed), under autocast 2 bytes for each element of a
projection's matrix; and the workspace of the backward pass: the gradients of the logits, or of one layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertjobs.recipe.bert_config import read_model_spec
from bertjobs.recipe.size import matrix_elements, parameter_count
from bertjobs.recipe.spec import ModelSpec, PhaseSpec, RunSpec

AUTOCAST = ("bf16", "fp16")

FIXED_GB = 2.0
"""Assumed per GPU: CUDA's context and kernels, NCCL's buffers, cuBLAS's workspaces, the optimizer's temporaries."""

ESTIMATE_MARGIN = 0.10
"""How far an estimate may be off, as a share of it: fragmentation, and kernels that pad or copy."""

MEASURED_MARGIN = 0.03
"""The same if an earlier run's peak is known."""

FITS, TIGHT, TOO_LARGE = "fits", "tight", "does not fit"


@dataclass(frozen=True)
class Need:
    """The memory that training needs on one GPU, in GB (10^9 bytes).

    ``activations`` and ``logits`` are kept from the forward to the backward pass; ``workspace`` is what the backward
    pass needs besides, including `FIXED_GB`; ``teacher`` is all that a student's teacher takes.
    """

    weights: float
    gradients: float
    moments: float
    autocast_copies: float
    activations: float
    logits: float
    workspace: float
    teacher: float = 0.0

    @property
    def total(self) -> float:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Peak:
    """An earlier measurement, and where it was made: the most memory that tensors took, in GB, and the micro-batch."""

    where: str
    micro_batch: int
    tensors_gb: float


@dataclass(frozen=True)
class MemoryFit:
    """Whether a phase's micro-batch fits its GPU.

    Attributes:
        need: what takes the memory, always estimated.
        need_gb: the total: measured if ``source`` says so, else ``need.total``.
        of_gb: the GPU's memory, as its maker states it.
        verdict: "fits" or "does not fit" if that holds within the margin of error, else "tight".
        source: how sure that is, in words.
        micro_batch, gradient_steps: the largest micro-batch that is estimated to fit, and its GRADIENT_STEPS; 0 and 0
            if not even one sequence fits.
    """

    need: Need
    need_gb: float
    of_gb: float
    verdict: str
    source: str
    micro_batch: int
    gradient_steps: int

    def words(self) -> str:
        """``44 of 80 GB: fits``."""
        return f"{self.need_gb:.3g} of {self.of_gb:g} GB: {self.verdict}"

    def as_json(self) -> dict[str, Any]:
        """For programs; memory in GB."""
        return {**asdict(self), "need": {**asdict(self.need), "total": self.need.total}}


def layer_bytes(model: ModelSpec, precision: str, mask_bytes: int = 1) -> int:
    """Bytes that one layer keeps per token: the table at the top.

    ``mask_bytes`` is what torch keeps per element of a dropout mask: 1 on a GPU.
    """
    hidden, inner = model.hidden_size, model.intermediate_size
    casts, size = (3, 2) if precision in AUTOCAST else (1, 4)
    products = size * ((casts + 3 + 1 + 1) * hidden + 2 * inner)
    masks = 2 * hidden * mask_bytes if model.hidden_dropout_prob else 0
    return products + 4 * model.num_attention_heads + masks + 2 * (4 * hidden + 8)


def activation_bytes(
    model: ModelSpec,
    *,
    sequences: int,
    length: int,
    masked_tokens: int,
    precision: str,
    activation_checkpointing: bool,
    mask_bytes: int = 1,
) -> int:
    """Bytes kept from the forward to the backward pass, without the logits.

    Args:
        sequences: how many the micro-batch has.
        length: tokens of each, with padding.
        masked_tokens: how many are predicted in the whole micro-batch.
        precision: fp32, tf32, bf16 or fp16.
        mask_bytes: as in `layer_bytes`.
    """
    hidden, tokens = model.hidden_size, sequences * length
    autocast = precision in AUTOCAST
    size = 2 if autocast else 4
    mask = hidden * mask_bytes if model.hidden_dropout_prob else 0
    embeddings = 4 * hidden + 8 + mask + 2 * 8  # and the ids, which are int64
    layer = 4 * hidden if activation_checkpointing else layer_bytes(model, precision, mask_bytes)
    # Without a cast, the pooler's input is a view that keeps the whole of the last layer's output.
    last = 0 if autocast else 4 * hidden
    mlm_head = size * 3 * hidden + 4 * hidden + 8
    return (
        tokens * (embeddings + model.num_hidden_layers * layer + last)
        + masked_tokens * mlm_head
        + sequences * 2 * size * hidden
    )


def logits_bytes(vocab_size: int, masked_tokens: int) -> int:
    """Bytes kept for the masked-LM head's output: log-probabilities, float32 in every precision."""
    return 4 * vocab_size * masked_tokens


def teacher_bytes(spec: RunSpec, teacher: ModelSpec, tokens: int, masked: int) -> int:
    """Bytes that a teacher takes beside its student: float32 weights, the cast of one layer's, the hidden states that
    are compared, what one layer of its forward pass has at a time, and its masked words' logits with two distributions,
    its own and the student's, for their divergence."""
    size = 2 if spec.precision in AUTOCAST else 4
    hidden, inner = teacher.hidden_size, teacher.intermediate_size
    states = (spec.model.num_hidden_layers + 1) * 4 * hidden if spec.distill_hidden else 0
    layer = 2 * 4 * hidden + size * (3 * hidden + 2 * inner)
    casts = 2 * (4 * hidden * hidden + 2 * hidden * inner) if spec.precision in AUTOCAST else 0
    words = 3 * logits_bytes(teacher.vocab_size, masked) if spec.distill_logits else 0
    return 4 * parameter_count(teacher, teacher.vocab_size) + casts + tokens * (states + layer) + words


def memory_need(
    spec: RunSpec, phase: PhaseSpec, vocab_size: int, micro_batch: int, teacher: ModelSpec | None = None
) -> Need:
    """What one GPU needs for a micro-batch of this many sequences, all of full length with all their predictions, and
    for a teacher of this shape."""
    model, tokens = spec.model, micro_batch * phase.sequence_length
    masked = 0 if spec.task else micro_batch * phase.max_predictions
    parameters = parameter_count(model, vocab_size)
    activations = activation_bytes(
        model,
        sequences=micro_batch,
        length=phase.sequence_length,
        masked_tokens=masked,
        precision=spec.precision,
        activation_checkpointing=spec.activation_checkpointing,
    )
    size = 2 if spec.precision in AUTOCAST else 4
    # Gradients of both sides of the inner projection, and of the stream and its two branches in float32.
    of_a_layer = tokens * (2 * size * model.intermediate_size + 3 * 4 * model.hidden_size)
    if spec.activation_checkpointing:
        of_a_layer += tokens * layer_bytes(model, spec.precision)
    of_the_logits = 2 * logits_bytes(vocab_size, masked)
    parts = {
        "weights": 4 * parameters,
        "gradients": 4 * parameters,
        "moments": 8 * _owned_parameters(spec, parameters, vocab_size),
        "autocast_copies": 2 * matrix_elements(model, vocab_size) if spec.precision in AUTOCAST else 0,
        "activations": activations,
        "logits": logits_bytes(vocab_size, masked),
        "workspace": max(of_a_layer, of_the_logits) + FIXED_GB * 1e9,
        "teacher": teacher_bytes(spec, teacher, tokens, masked) if teacher else 0,
    }
    return Need(**{name: count / 1e9 for name, count in parts.items()})


def _owned_parameters(spec: RunSpec, parameters: int, vocab_size: int) -> float:
    """Parameters whose moments the fullest rank holds: whole tensors are distributed, the largest being the word
    embeddings."""
    if not spec.optimizer.shard_states:
        return parameters
    return max(parameters / spec.world_size, vocab_size * spec.model.hidden_size)


def fit(spec: RunSpec, phase: PhaseSpec, vocab_size: int, peaks: Mapping[int, Peak] | None = None) -> MemoryFit | None:
    """Whether a phase's micro-batch fits its smallest GPU, and which is the largest that does.

    Args:
        vocab_size: tokens; 0 if not known yet.
        peaks: by phase, what an earlier run of this shape measured; used only for the same micro-batch.

    Returns:
        None if nothing is known: on CPUs, or without the GPU's memory or the vocabulary.

    Raises:
        InputError: the run's teacher has no config.json.
    """
    memory = spec.smallest_system.gpu_memory_gb
    if not spec.gpus or not memory or not vocab_size:
        return None
    teacher = read_model_spec(Path(spec.teacher)) if spec.teacher else None
    need = memory_need(spec, phase, vocab_size, phase.micro_batch, teacher)
    peak = (peaks or {}).get(phase.phase)
    if peak and peak.micro_batch == phase.micro_batch:
        total, margin, source = peak.tensors_gb + FIXED_GB, MEASURED_MARGIN, f"measured in {peak.where}"
    else:
        total, margin, source = need.total, ESTIMATE_MARGIN, f"estimate, not measured: +-{ESTIMATE_MARGIN:.0%}"
    divisors = [n for n in range(phase.rank_batch, 0, -1) if phase.rank_batch % n == 0]
    needs = ((n, memory_need(spec, phase, vocab_size, n, teacher).total) for n in divisors)
    largest = next((n for n, gb in needs if verdict(gb, memory, ESTIMATE_MARGIN) == FITS), 0)
    return MemoryFit(
        need=need,
        need_gb=total,
        of_gb=memory,
        verdict=verdict(total, memory, margin),
        source=source,
        micro_batch=largest,
        gradient_steps=phase.rank_batch // largest if largest else 0,
    )


def verdict(need_gb: float, memory_gb: float, margin: float) -> str:
    """`FITS` or `TOO_LARGE` if that holds at both ends of the margin of error, else `TIGHT`."""
    if need_gb * (1 + margin) <= memory_gb:
        return FITS
    return TIGHT if need_gb * (1 - margin) <= memory_gb else TOO_LARGE
