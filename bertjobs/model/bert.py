"""BERT with its two pretraining heads, or the masked-LM head alone (Devlin et al., arXiv 1810.04805).

Module and parameter names are those of Hugging Face's ``BertForPreTraining`` and ``BertForMaskedLM``, so that weights
pass both ways (``bertjobs.model.huggingface``). Shapes below: B sequences, S tokens, H hidden size, V vocabulary size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bertjobs.errors import InputError, nearest
from bertjobs.recipe.spec import ModelSpec

IGNORED_LABEL = -1
"""Label of a token that is not predicted (LDDL's and NVIDIA's choice; Hugging Face's is -100)."""

GELU_APPROXIMATION = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
"""``hidden_act`` to the ``approximate`` argument of torch's GELU."""


class PretrainingSums(NamedTuple):
    """What one micro-batch adds to the loss and the metrics of a global batch.

    Scalars on the model's device; losses float32 in nats, the others int64. Dividing the sums of all ranks
    and micro-batches by the sums of their counts gives means that do not depend on how the batch was cut. Without a
    next-sentence head its three are 0.

    Attributes:
        mlm_loss_sum: cross-entropy summed over masked tokens.
        mlm_correct: masked tokens whose top guess is the label.
        mlm_count: masked tokens.
        nsp_loss_sum: cross-entropy summed over sequences.
        nsp_correct: sequences whose next-sentence guess is the label.
        nsp_count: sequences.
    """

    mlm_loss_sum: Tensor
    mlm_correct: Tensor
    mlm_count: Tensor
    nsp_loss_sum: Tensor
    nsp_correct: Tensor
    nsp_count: Tensor


def _check(spec: ModelSpec) -> None:
    where = f"model {spec.name!r}"
    if spec.hidden_act not in GELU_APPROXIMATION:
        what = f"hidden_act {spec.hidden_act!r} is not known"
        raise InputError(what, where=where, hint=nearest(spec.hidden_act, GELU_APPROXIMATION))
    for field in ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "type_vocab_size"):
        if getattr(spec, field) < 1:
            raise InputError(f"{field} is {getattr(spec, field)}; it must be at least 1", where=where)
    if spec.hidden_size % spec.num_attention_heads:
        heads = spec.num_attention_heads
        what = f"hidden_size {spec.hidden_size} is not a multiple of num_attention_heads {heads}"
        raise InputError(what, where=where)


class Embeddings(nn.Module):
    """Sum of word, position and token-type embeddings, normalised."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        # No padding_idx: padding is masked in the attention, so its row gets no gradient from here anyway.
        self.word_embeddings = nn.Embedding(spec.vocab_size, spec.hidden_size)
        self.position_embeddings = nn.Embedding(spec.max_position_embeddings, spec.hidden_size)
        self.token_type_embeddings = nn.Embedding(spec.type_vocab_size, spec.hidden_size)
        self.LayerNorm = nn.LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)
        self.dropout = nn.Dropout(spec.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """Token ids [B, S] and token types [B, S] to vectors [B, S, H]."""
        length = input_ids.shape[1]
        positions = self.position_embeddings.weight
        if length > len(positions):
            what = f"a sequence of {length} tokens is longer than max_position_embeddings {len(positions)}"
            raise InputError(what)
        total = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(total + positions[:length]))


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention over the tokens that are not padding."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.heads = spec.num_attention_heads
        self.dropout_probability = spec.attention_probs_dropout_prob
        self.query = nn.Linear(spec.hidden_size, spec.hidden_size)
        self.key = nn.Linear(spec.hidden_size, spec.hidden_size)
        self.value = nn.Linear(spec.hidden_size, spec.hidden_size)

    def _split(self, vectors: Tensor) -> Tensor:
        """[B, S, H] to [B, heads, S, H / heads]."""
        return vectors.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``hidden`` [B, S, H]; ``mask`` bool [B, 1, 1, S], true where a token may be attended to."""
        attended = F.scaled_dot_product_attention(
            self._split(self.query(hidden)),
            self._split(self.key(hidden)),
            self._split(self.value(hidden)),
            attn_mask=mask,
            dropout_p=self.dropout_probability if self.training else 0.0,
        )
        return attended.transpose(1, 2).flatten(2)


class ResidualOutput(nn.Module):
    """Projection, dropout, residual sum and LayerNorm: the end of both halves of a layer."""

    def __init__(self, spec: ModelSpec, input_size: int):
        super().__init__()
        self.dense = nn.Linear(input_size, spec.hidden_size)
        self.LayerNorm = nn.LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)
        self.dropout = nn.Dropout(spec.hidden_dropout_prob)

    def forward(self, vectors: Tensor, residual: Tensor) -> Tensor:
        """``vectors`` [B, S, input size] and ``residual`` [B, S, H] to [B, S, H]."""
        return self.LayerNorm(self.dropout(self.dense(vectors)) + residual)


class Attention(nn.Module):
    """First half of a layer."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.self = SelfAttention(spec)
        self.output = ResidualOutput(spec, spec.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """As ``SelfAttention``, with the residual."""
        return self.output(self.self(hidden, mask), hidden)


class DenseGelu(nn.Module):
    """A projection and GELU."""

    def __init__(self, spec: ModelSpec, output_size: int):
        super().__init__()
        self.dense = nn.Linear(spec.hidden_size, output_size)
        self.approximate = GELU_APPROXIMATION[spec.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] to [..., output size]."""
        return F.gelu(self.dense(hidden), approximate=self.approximate)


class Layer(nn.Module):
    """One Transformer layer, normalised after each residual sum."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.attention = Attention(spec)
        self.intermediate = DenseGelu(spec, spec.intermediate_size)
        self.output = ResidualOutput(spec, spec.intermediate_size)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """As ``SelfAttention``."""
        attended = self.attention(hidden, mask)
        return self.output(self.intermediate(attended), attended)


class Encoder(nn.Module):
    """The stack of layers.

    With ``activation_checkpointing``, training keeps only each layer's input and computes the rest again in the
    backward pass (Chen et al., arXiv 1604.06174), with the same dropout masks.
    """

    def __init__(self, spec: ModelSpec, activation_checkpointing: bool):
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.layer = nn.ModuleList(Layer(spec) for _ in range(spec.num_hidden_layers))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """As ``SelfAttention``."""
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        for layer in self.layer:
            hidden = checkpoint(layer, hidden, mask, use_reentrant=False) if recompute else layer(hidden, mask)
        return hidden


class Pooler(nn.Module):
    """The [CLS] token's vector for whole-sequence decisions."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.dense = nn.Linear(spec.hidden_size, spec.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, S, H] to [B, H]."""
        return torch.tanh(self.dense(hidden[:, 0]))


class Bert(nn.Module):
    """The encoder without heads (Hugging Face's ``BertModel``), with or without the pooler."""

    def __init__(self, spec: ModelSpec, activation_checkpointing: bool, *, pooled: bool):
        super().__init__()
        self.embeddings = Embeddings(spec)
        self.encoder = Encoder(spec, activation_checkpointing)
        self.pooler = Pooler(spec) if pooled else None

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Three [B, S] integer tensors to hidden states [B, S, H] and, with a pooler, pooled vectors [B, H]."""
        mask = attention_mask.bool()[:, None, None, :]
        hidden = self.encoder(self.embeddings(input_ids, token_type_ids), mask)
        return hidden, None if self.pooler is None else self.pooler(hidden)


class PredictionTransform(DenseGelu):
    """Dense, GELU and LayerNorm before the vocabulary projection."""

    def __init__(self, spec: ModelSpec):
        super().__init__(spec, spec.hidden_size)
        self.LayerNorm = nn.LayerNorm(spec.hidden_size, eps=spec.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] to [..., H]."""
        return self.LayerNorm(super().forward(hidden))


class MaskedTokenHead(nn.Module):
    """Masked-LM head; its projection is the word embeddings' matrix, with its own bias."""

    def __init__(self, spec: ModelSpec, word_embeddings: nn.Embedding):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(spec.vocab_size))
        self.transform = PredictionTransform(spec)
        self.decoder = nn.Linear(spec.hidden_size, spec.vocab_size)
        self.decoder.weight = word_embeddings.weight
        self.decoder.bias = self.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., H] to logits [..., V]."""
        return self.decoder(self.transform(hidden))


class PretrainingHeads(nn.Module):
    """The masked-LM head, and where it is asked for the next-sentence head."""

    def __init__(self, spec: ModelSpec, word_embeddings: nn.Embedding, *, next_sentence: bool):
        super().__init__()
        self.predictions = MaskedTokenHead(spec, word_embeddings)
        self.seq_relationship = nn.Linear(spec.hidden_size, 2) if next_sentence else None


@torch.no_grad()
def initialise(model: nn.Module, spec: ModelSpec) -> None:
    """BERT's random start, from torch's global generator: weights are normal with standard deviation
    ``initializer_range``, biases zero, LayerNorms the identity."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "LayerNorm" in name:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, spec.initializer_range)


class BertForPreTraining(nn.Module):
    """BERT with masked-LM and next-sentence heads, initialised from torch's global generator.

    Weights are normal with standard deviation ``initializer_range``, biases zero, and the row of token 0
    ([PAD]) zero, as in Hugging Face's.

    Args:
        spec: the shape; ``vocab_size`` must be filled in.
        next_sentence: whether it has a pooler and a next-sentence head; without them it is Hugging Face's
            ``BertForMaskedLM``.
        activation_checkpointing: keep less in memory for the backward pass, and compute more; see `Encoder`.

    Raises:
        InputError: a shape that no model can have, or an unknown ``hidden_act``.
    """

    def __init__(self, spec: ModelSpec, *, next_sentence: bool = True, activation_checkpointing: bool = False):
        super().__init__()
        _check(spec)
        self.spec, self.next_sentence = spec, next_sentence
        self.bert = Bert(spec, activation_checkpointing, pooled=next_sentence)
        self.cls = PretrainingHeads(spec, self.bert.embeddings.word_embeddings, next_sentence=next_sentence)
        initialise(self, spec)
        with torch.no_grad():
            self.bert.embeddings.word_embeddings.weight[0].zero_()

    def encode(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states [B, S, H] and pooled vectors [B, H] of integer inputs, each [B, S].

        ``attention_mask`` is 1 for tokens, 0 for padding; ``token_type_ids`` 0 in sentence A, 1 in B.
        """
        return self.bert(input_ids, token_type_ids, attention_mask)

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Masked-LM logits [..., V] of hidden states [..., H]."""
        return self.cls.predictions(hidden)

    def logits(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """``prediction_logits`` [B, S, V] and, with that head, ``seq_relationship_logits`` [B, 2]; inputs as in
        ``encode``."""
        hidden, pooled = self.encode(input_ids, token_type_ids, attention_mask)
        head = self.cls.seq_relationship
        return self.mlm_logits(hidden), None if head is None else head(pooled)

    def pretraining_sums(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        next_sentence_labels: Tensor,
    ) -> PretrainingSums:
        """Loss and metric sums of one micro-batch; the masked-LM head runs on masked tokens only.

        Args:
            input_ids, token_type_ids, attention_mask: as in ``encode``, on the model's device.
            labels: [B, S], the original token where one is masked, else -1. On the CPU or on the model's
                device; from the CPU the masked tokens are located without waiting for a GPU.
            next_sentence_labels: [B], 1 where sentence B is a random one, 0 where it follows A; not looked at without
                a next-sentence head.
        """
        device = input_ids.device
        flat = labels.flatten()
        positions = flat.ne(IGNORED_LABEL).nonzero().squeeze(1)
        targets = flat[positions].to(device, non_blocking=True)
        hidden, pooled = self.encode(input_ids, token_type_ids, attention_mask)
        masked = hidden.flatten(0, 1).index_select(0, positions.to(device, non_blocking=True))
        mlm_loss, mlm_correct = _loss_and_correct(self.mlm_logits(masked), targets)
        mlm_sums = mlm_loss, mlm_correct, torch.full((), len(targets), device=device)
        if self.cls.seq_relationship is None:
            return PretrainingSums(*mlm_sums, *no_next_sentences(device))
        next_labels = next_sentence_labels.to(device, non_blocking=True)
        nsp_loss, nsp_correct = _loss_and_correct(self.cls.seq_relationship(pooled), next_labels)
        return PretrainingSums(*mlm_sums, nsp_loss, nsp_correct, torch.full((), len(next_labels), device=device))

    forward = pretraining_sums  # DistributedDataParallel synchronises gradients of what goes through forward


def no_next_sentences(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The next-sentence part of `PretrainingSums` where there is no head for it."""
    none = torch.zeros((), dtype=torch.int64, device=device)
    return torch.zeros((), device=device), none, none


def _loss_and_correct(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of logits [N, C], float32 also under autocast, and how many guesses are right."""
    loss = F.cross_entropy(logits.float(), targets, reduction="sum")
    return loss, (logits.detach().argmax(-1) == targets).sum()
