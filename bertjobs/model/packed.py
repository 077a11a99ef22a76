"""The unpadded forward pass of ``BertForPreTraining``: the same model and numbers as its padded one, without padding.

Sequences lie one after the other in [T, H], attention sees each separately (``bertjobs.model.attention``), and the last
layer computes keys and values for all tokens but the rest only for the R rows that a head reads: the masked tokens and,
where next sentences are predicted, the first token of each sequence. Without dropout, losses and gradients are those of
``pretraining_sums`` up to rounding.

Under autocast, hidden states between the layers are bf16 or fp16 (the padded path keeps them in float32); sums with
the residual, LayerNorm and losses are computed in float32. Nothing waits for a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bertjobs.errors import InputError
from bertjobs.model.attention import Attend, SequenceLayout
from bertjobs.model.bert import IGNORED_LABEL, Bert, BertForPreTraining, Layer, PretrainingSums, no_next_sentences
from bertjobs.model.dropout import dropout, dropout_add

ALIGNMENT = 64
"""Tokens: rows of 16-bit logits of such vocabularies are whole cache lines and whole tiles of products."""

IMPOSSIBLE = -1e4
"""Bias of a token that does not exist; fp16 holds it too."""


class Tokens(Protocol):
    """What the encoder reads of a pack; on the model's device.

    int64 ``input_ids``, ``token_type_ids``, ``positions`` [T]; int32 ``cumulative_lengths`` [S + 1], where the slots
    end: real sequences, the tail, empty ones; ``sequences`` slots are in use.
    """

    @property
    def input_ids(self) -> Tensor: ...
    @property
    def token_type_ids(self) -> Tensor: ...
    @property
    def positions(self) -> Tensor: ...
    @property
    def cumulative_lengths(self) -> Tensor: ...
    @property
    def sequences(self) -> int: ...
    @property
    def max_length(self) -> int: ...


class Pack(Tokens, Protocol):
    """What is read of a packed micro-batch, ``data.batches.packed_batches.PackedBatch``.

    Besides its tokens int64 ``first_tokens``, ``next_sentence_labels`` [S] and ``masked_positions``, ``labels`` [P], of
    which ``sequences`` and ``masked`` are in use; the labels after are -1.
    """

    @property
    def first_tokens(self) -> Tensor: ...
    @property
    def next_sentence_labels(self) -> Tensor: ...
    @property
    def masked_positions(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def masked(self) -> int: ...


class Normalised(NamedTuple):
    """LayerNorm's weight and bias [H]."""

    weight: Tensor
    bias: Tensor
    epsilon: float


class Affine(NamedTuple):
    """A projection's weight [out, in] and bias [out]."""

    weight: Tensor
    bias: Tensor


def _affine(*linears: nn.Module) -> tuple[Affine, ...]:
    return tuple(Affine(linear.weight, linear.bias) for linear in linears)  # type: ignore[arg-type]


def _normalised(norm: nn.LayerNorm) -> Normalised:
    return Normalised(norm.weight, norm.bias, norm.eps)


# The parts that work on each token separately: pure functions of tensors, so that they compile once for all layers.


def embed(
    words: Tensor, types: Tensor, positions: Tensor, norm: Normalised, probability: float, dtype: torch.dtype
) -> Tensor:
    """The sum of word, token-type and position vectors, each [T, H], normalised, dropped out: [T, H] in ``dtype``."""
    total = words + types + positions
    return dropout(F.layer_norm(total, norm.weight.shape, *norm), probability).to(dtype)


def project(hidden: Tensor, parts: tuple[Affine, ...]) -> Tensor:
    """Several projections of [N, H] as one matrix product: [N, their sizes together]."""
    return F.linear(hidden, torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))


def side_by_side(parts: Sequence[Tensor]) -> Tensor | None:
    """[N, parts, h, d], if the parts [N, h, d] are its slices in memory; else None."""
    first, (rows, heads, size) = parts[0], parts[0].shape
    width = heads * size
    strides = (len(parts) * width, size, 1)
    for number, part in enumerate(parts):
        if part.shape != first.shape or part.dtype != first.dtype or part.stride() != strides:
            return None
        if part.untyped_storage()._cdata != first.untyped_storage()._cdata:
            return None
        if part.storage_offset() != first.storage_offset() + number * width:
            return None
    return first.as_strided((rows, len(parts), heads, size), (strides[0], width, size, 1))


class _Divide(torch.autograd.Function):
    """The slices [N, h, d] of [N, parts, h, d]. Their gradients are copied only if they do not lie side by side."""

    @staticmethod
    def forward(_ctx: Any, joint: Tensor) -> tuple[Tensor, ...]:
        return joint.unbind(1)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        joint = side_by_side(gradients)
        return torch.stack(gradients, 1) if joint is None else joint


def by_head(product: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Makes of `project`, or its compiled form, ``(hidden [N, H], parts, heads) -> (each part [N, heads, d], hidden)``.

    The last is what a residual sum has to add: so a projection may add up its input's gradients itself.
    """

    def projected(hidden: Tensor, parts: tuple[Affine, ...], heads: int) -> tuple[Tensor, ...]:
        return (*_Divide.apply(product(hidden, parts).unflatten(1, (len(parts), heads, -1))), hidden)

    return projected


_project_by_head = by_head(project)


def _add_norm(vectors: Tensor, residual: Tensor, norm: Normalised, probability: float) -> Tensor:
    total = dropout_add(vectors.float(), residual.float(), probability)
    return F.layer_norm(total, norm.weight.shape, *norm).to(residual.dtype)


def finish(
    attended: Tensor, residual: Tensor, output: Affine, output_norm: Normalised, widen: Affine, narrow: Affine,
    norm: Normalised, probability: float, approximate: str,
) -> Tensor:  # fmt: skip
    """What a layer does after attention: [N, H] attended values and the layer's input to [N, H]."""
    middle = _add_norm(F.linear(attended, *output), residual, output_norm, probability)
    wide = F.gelu(F.linear(middle, *widen), approximate=approximate)
    return _add_norm(F.linear(wide, *narrow), middle, norm, probability)


def score(
    hidden: Tensor, labels: Tensor, transform: Affine, norm: Normalised, decoder: Affine, approximate: str
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of masked tokens [P, H], float32, and how many top guesses are right; -1 does not count."""
    wide = F.gelu(F.linear(hidden, *transform), approximate=approximate)
    logits = F.linear(F.layer_norm(wide.float(), norm.weight.shape, *norm).to(wide.dtype), *decoder)
    return _loss_and_correct(logits, labels)


def score_aligned(
    hidden: Tensor, labels: Tensor, transform: Affine, norm: Normalised, decoder: Affine, approximate: str
) -> tuple[Tensor, Tensor]:
    """`score` by a product whose rows of logits begin at multiples of 128 bytes, as fast products want them.

    BERT's vocabulary of 30,522 gets six tokens more. Their weights are zero and their bias is so low that their share
    of each probability is exactly 0, and no label is one of them. Nothing else knows of them.
    """
    more = -len(decoder.weight) % ALIGNMENT
    weight, bias = F.pad(decoder.weight, (0, 0, 0, more)), F.pad(decoder.bias, (0, more), value=IMPOSSIBLE)
    return score(hidden, labels, transform, norm, Affine(weight, bias), approximate)


def _loss_and_correct(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    loss = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED_LABEL, reduction="sum")
    return loss, (logits.detach().argmax(-1) == labels).sum()


@dataclass(frozen=True)
class TokenWise:
    """The parts above as the path calls them: as they are, or compiled (``bertjobs.model.compiled``).

    ``project`` is one that `by_head` makes. With ``fixed_shapes``, all shapes depend on the pack's shapes alone: what
    its unused slots and predictions would read is computed too, but does not count.
    """

    embed: Callable[..., Tensor] = embed
    project: Callable[..., tuple[Tensor, ...]] = _project_by_head
    finish: Callable[..., Tensor] = finish
    score: Callable[..., tuple[Tensor, Tensor]] = score
    fixed_shapes: bool = False


EAGER = TokenWise()


class RowsRead(NamedTuple):
    """Rows whose hidden states are wanted.

    Attributes:
        rows: int64 [R], ascending places in [0, T).
        layout: of these as queries.
    """

    rows: Tensor
    layout: SequenceLayout


def rows_read(pack: Tokens, rows: Tensor) -> RowsRead:
    """``rows`` int64 [R], ascending and each once, as what is read of a pack."""
    return RowsRead(rows, _layout(pack, rows, min(len(rows), pack.max_length)))


def _layout(pack: Tokens, rows: Tensor, most: int) -> SequenceLayout:
    """``rows`` int64 [R], ascending, as queries: at most ``most`` per sequence."""
    return SequenceLayout(
        cumulative_queries=torch.searchsorted(rows, pack.cumulative_lengths, out_int32=True),
        cumulative_keys=pack.cumulative_lengths,
        max_queries=most,
        max_keys=pack.max_length,
        sequences=pack.sequences,
    )


@dataclass(frozen=True)
class _Read:
    """The rows that the pretraining heads read.

    Attributes:
        rows, layout: as in `RowsRead`.
        first, masked: where in ``rows`` the first tokens, without a next-sentence head none, and the masked tokens are.
        next_labels, labels: theirs; -1 where an entry is unused.
    """

    rows: Tensor
    layout: SequenceLayout
    first: Tensor
    masked: Tensor
    next_labels: Tensor
    labels: Tensor


def _read(pack: Pack, fixed_shapes: bool, next_sentence: bool) -> _Read:
    """Find the rows: of the entries in use, or of all."""
    firsts, masked = (None, None) if fixed_shapes else (pack.sequences, pack.masked)
    counts = firsts if next_sentence else 0, masked
    next_labels, labels = pack.next_sentence_labels[: counts[0]], pack.labels[: counts[1]]
    places = torch.cat([pack.first_tokens[: counts[0]], pack.masked_positions[: counts[1]]])
    used = torch.cat([next_labels, labels]) != IGNORED_LABEL
    # Unused entries are spread over the tokens, so that no sequence gets more than twice its length of rows.
    tokens, entries = len(pack.input_ids), len(places)
    spread = torch.arange(entries, device=places.device) * tokens // max(1, entries)
    rows, order = torch.where(used, places, spread).sort(stable=True)
    where = torch.empty_like(order).scatter_(0, order, torch.arange(entries, device=order.device))
    layout = _layout(pack, rows, min(entries, 2 * pack.max_length) if entries <= tokens else entries)
    return _Read(rows, layout, where[: len(next_labels)], where[len(next_labels) :], next_labels, labels)


def run_layer(
    layer: Layer, hidden: Tensor, layout: SequenceLayout, attend: Attend, parts: TokenWise, rows: Tensor | None = None
) -> Tensor:
    """One layer on [T, H]; with ``rows`` [R], for these only: [R, H]."""
    attention, heads = layer.attention.self, layer.attention.self.heads
    linears = _affine(attention.query, attention.key, attention.value)
    if rows is None:
        query, key, value, residual = parts.project(hidden, linears, heads)
    else:
        key, value, hidden = parts.project(hidden, linears[1:], heads)
        residual = hidden.index_select(0, rows)
        query = F.linear(residual, *linears[0]).unflatten(1, (heads, -1))
    attended = attend(query, key, value, layout, attention.dropout_probability if layer.training else 0.0)
    half, whole = layer.attention.output, layer.output
    return parts.finish(
        attended.flatten(1),
        residual,
        *_affine(half.dense),
        _normalised(half.LayerNorm),
        *_affine(layer.intermediate.dense, whole.dense),
        _normalised(whole.LayerNorm),
        whole.dropout.p if layer.training else 0.0,
        layer.intermediate.approximate,
    )


def embedded(bert: Bert, pack: Tokens, parts: TokenWise = EAGER) -> Tensor:
    """What the first layer reads: [T, H].

    Raises:
        InputError: sequences may be longer than the model's positions.
    """
    embeddings = bert.embeddings
    longest = len(embeddings.position_embeddings.weight)
    if pack.max_length > longest:
        raise InputError(f"a sequence of {pack.max_length} tokens is longer than max_position_embeddings {longest}")
    kind = pack.input_ids.device.type
    # Looked up outside of the compiled part, whose gradients of tables are sums by atomic additions.
    return parts.embed(
        embeddings.word_embeddings(pack.input_ids),
        embeddings.token_type_embeddings(pack.token_type_ids),
        embeddings.position_embeddings(pack.positions),
        _normalised(embeddings.LayerNorm),
        embeddings.dropout.p if bert.training else 0.0,
        torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else embeddings.LayerNorm.weight.dtype,
    )


def all_rows(pack: Tokens) -> SequenceLayout:
    """The layout of a layer that computes every token."""
    return SequenceLayout(
        cumulative_queries=pack.cumulative_lengths,
        cumulative_keys=pack.cumulative_lengths,
        max_queries=pack.max_length,
        max_keys=pack.max_length,
        sequences=pack.sequences,
    )


def encode(bert: Bert, pack: Tokens, read: RowsRead | _Read, attend: Attend, parts: TokenWise = EAGER) -> Tensor:
    """Hidden states [R, H] of the rows that heads read.

    Raises:
        InputError: as in `embedded`.
    """
    hidden, encoder, layout = embedded(bert, pack, parts), bert.encoder, all_rows(pack)
    recompute = encoder.activation_checkpointing and bert.training and torch.is_grad_enabled()
    last = len(encoder.layer) - 1
    for number, layer in enumerate(encoder.layer):
        run = functools.partial(
            run_layer,
            layer,  # type: ignore[arg-type]
            layout=layout if number < last else read.layout,
            attend=attend,
            parts=parts,
            rows=None if number < last else read.rows,
        )
        hidden = checkpoint(run, hidden, use_reentrant=False) if recompute else run(hidden)
    return hidden


def packed_sums(model: BertForPreTraining, pack: Pack, attend: Attend, parts: TokenWise = EAGER) -> PretrainingSums:
    """Loss and metric sums of one packed micro-batch, as ``BertForPreTraining.pretraining_sums`` gives them.

    All parameters take part, also for a pack without sequences, whose sums are zero.

    Args:
        attend: see ``choose_attention``.
        parts: eager or compiled.

    Raises:
        InputError: sequences may be longer than the model's positions.
    """
    read = _read(pack, parts.fixed_shapes, model.next_sentence)
    hidden = encode(model.bert, pack, read, attend, parts)
    head, transform = model.cls.predictions, model.cls.predictions.transform
    mlm_loss, mlm_correct = parts.score(
        hidden.index_select(0, read.masked),
        read.labels,
        *_affine(transform.dense),
        _normalised(transform.LayerNorm),
        Affine(head.decoder.weight, head.bias),
        transform.approximate,
    )
    mlm_sums = mlm_loss, mlm_correct, torch.full((), pack.masked, device=hidden.device)
    if model.bert.pooler is None or model.cls.seq_relationship is None:
        return PretrainingSums(*mlm_sums, *no_next_sentences(hidden.device))
    pooled = torch.tanh(model.bert.pooler.dense(hidden.index_select(0, read.first)))
    nsp_loss, nsp_correct = _loss_and_correct(model.cls.seq_relationship(pooled), read.next_labels)
    return PretrainingSums(*mlm_sums, nsp_loss, nsp_correct, torch.full((), pack.sequences, device=hidden.device))
