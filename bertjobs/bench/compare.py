"""The same sequences, weights and machine in one run: ours, Hugging Face's model, and NVIDIA's way, as ratios.

Timed are forward and backward passes of the same sequences with the same masks, in training mode with the recipe's
dropout; gradients are cleared outside the timing, and no update is made. One variant after the other is made ready,
timed in turns with our unpadded path, a micro-batch each, reported and discarded: what is slow to compile delays
nothing else, at most two models are in memory, and other load on the machine slows both sides of a ratio. Each variant
cuts the sequences as its users do:

- ours, unpadded: packs of whole sequences, in a budget of tokens that takes no more than the padded micro-batch;
- ours, padded, and Hugging Face's: in the stream's order, padded to the longest of a micro-batch and a multiple of 8;
  with ``by_length``, ordered by length first, which leaves little padding;
- NVIDIA's way (BERT in its DeepLearningExamples, with the dense sequence output off): padded to the phase's length,
  all tokens through the vocabulary's projection. Its layers are our padded ones, which are faster than NVIDIA's.

Once, without dropout, all compute the loss of the same few sequences: they must agree.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertjobs.bench.cuts import TimedSequences
from bertjobs.bench.device import Device, is_out_of_memory, product_rate, wait_for
from bertjobs.bench.sequences import BenchData
from bertjobs.data.batches.batches import Batch, MicroBatch
from bertjobs.errors import BertjobsError, InputError
from bertjobs.model.bert import IGNORED_LABEL, BertForPreTraining
from bertjobs.recipe.bert_config import config_from_model_spec
from bertjobs.recipe.flops import step_flops
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.train.objective import Term
from bertjobs.train.precision import autocast
from bertjobs.train.pretraining.forward import Forward, model_of, on_device, open_forward

OURS, PADDED, NVIDIA = "ours, unpadded", "ours, padded", "NVIDIA's way"
EAGER, SDPA, COMPILED = "Hugging Face, eager", "Hugging Face, SDPA", "Hugging Face, SDPA, compiled"
THEIRS = (SDPA, EAGER, COMPILED)
VARIANTS = (OURS, PADDED, SDPA, NVIDIA, EAGER, COMPILED)
"""In the order in which they are timed: the cheapest first."""

WAYS = {"padded": PADDED, "sdpa": SDPA, "nvidia": NVIDIA, "eager": EAGER, "compiled": COMPILED}
"""What ours may be compared with, by short names."""

CHECKED = 8  # sequences whose losses are compared
TOLERANCE = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 2e-2, "fp16": 5e-3}
"""Relative difference of the losses without dropout that rounding explains."""

_HUGGING_FACE_IGNORES = -100


@dataclass
class Variant:
    """One way to compute the step.

    Attributes:
        module: holds the weights.
        cut: the sequences as micro-batches of at most a given number, on the host.
        loss: the mean loss of a micro-batch on the device, in nats.
        micro_batch: sequences of a micro-batch that its memory allows.
        batches: the micro-batches on the device.
    """

    name: str
    module: nn.Module
    cut: Callable[[TimedSequences, int], Sequence[MicroBatch]]
    loss: Callable[[Any], Tensor]
    micro_batch: int = 0
    batches: Sequence[MicroBatch] = ()


@dataclass(frozen=True)
class Result:
    """What was measured of a variant.

    Attributes:
        micro_batch: sequences of a micro-batch; less than asked for where memory was too small.
        micro_batches: their number.
        places: tokens of these, padding included.
        sequences_per_s: by round.
        ours_sequences_per_s: of our unpadded path in the same rounds.
        loss: of the checked sequences, without dropout, in nats.
        failed: why nothing else is filled in; "" if it ran.
    """

    name: str
    micro_batch: int = 0
    micro_batches: int = 0
    places: int = 0
    sequences_per_s: tuple[float, ...] = ()
    ours_sequences_per_s: tuple[float, ...] = ()
    loss: float = math.nan
    failed: str = ""

    @property
    def rate(self) -> float:
        """Sequences per second: the median of the rounds."""
        return statistics.median(self.sequences_per_s)

    @property
    def ratio(self) -> float | None:
        """How many times as fast as this variant the unpadded path is: the median of the rounds; None if it failed."""
        if not self.sequences_per_s:
            return None
        pairs = zip(self.ours_sequences_per_s, self.sequences_per_s, strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


@dataclass(frozen=True)
class Comparison:
    """All variants of one phase that were measured so far.

    Attributes:
        sequences, tokens: of the work; tokens are real ones.
        flops: of the work, see `bertjobs.recipe.flops`.
        product_flops_per_s: the device's matrix products in the recipe's number format.
        forward: how packs are computed, in words.
    """

    phase: int
    sequence_length: int
    device: Device
    source: str
    forward: str
    by_length: bool
    sequences: int
    tokens: int
    flops: float
    product_flops_per_s: float
    results: tuple[Result, ...]

    def result(self, name: str) -> Result:
        return next(result for result in self.results if result.name == name)

    def ratio(self, name: str) -> float | None:
        """`Result.ratio` of a variant."""
        return self.result(name).ratio

    def best_of(self, names: Sequence[str] = THEIRS) -> str | None:
        """The fastest of some variants; None if all failed."""
        ran = [result for result in self.results if result.name in names and result.sequences_per_s]
        return max(ran, key=lambda result: result.rate).name if ran else None

    def flops_per_s(self, name: str) -> float:
        """Model FLOP/s of a variant that ran."""
        return self.result(name).rate * self.flops / self.sequences


def check_transformers() -> None:
    """InputError, with what to install, where Hugging Face's model is missing."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"Hugging Face's model is needed for the comparison: {error}",
            where="bertjobs bench --compare",
            hint="pip install transformers",
        ) from error


def compare(
    spec: RunSpec,
    phase: PhaseSpec,
    data: BenchData,
    device: torch.device,
    *,
    micro_batch: int,
    sequences: int,
    rounds: int,
    by_length: bool = False,
    names: Sequence[str] = VARIANTS,
    say: Callable[[str], None] = lambda _: None,
    report: Callable[[Comparison, Result], None] = lambda *_: None,
) -> Comparison:
    """Time the variants, each in turns with our unpadded path.

    Args:
        micro_batch: sequences of a padded micro-batch.
        sequences: of the work that is timed.
        rounds: how often each variant does it.
        names: of the variants; ours, unpadded, is always among them.
        say: called with each line of progress.
        report: called with each result as soon as there is one, and the comparison so far.

    Raises:
        InputError: transformers is missing, or an attention that the recipe names.
        BertjobsError: our own path fails; or losses without dropout differ, after everything has been timed.
    """
    if any(name in THEIRS for name in names):
        check_transformers()
    torch.compiler.reset()  # it compiles a function for a few shapes only
    spec = replace(spec, model=replace(spec.model, vocab_size=spec.model.vocab_size or data.vocabulary_size))
    work = TimedSequences.of(data, phase, sequences, by_length)
    counts = work.counts()
    ours, model, forward = _ours(spec, device)
    comparison = Comparison(
        phase=phase.phase,
        sequence_length=phase.sequence_length,
        device=Device.of(device),
        source=data.source,
        forward=forward,
        by_length=by_length,
        sequences=sequences,
        tokens=counts.tokens,
        flops=step_flops(spec.model, spec.model.vocab_size, counts, next_sentence=spec.next_sentence),
        product_flops_per_s=product_rate(device, spec.precision),
        results=(),
    )
    for name in [OURS, *(name for name in VARIANTS if name in names and name != OURS)]:
        say(f"{name}: warming up")
        result = _measured(name, ours, model, work, spec, device, micro_batch, rounds, say)
        if result.failed:
            say(f"{name}: {result.failed}")
        comparison = replace(comparison, results=(*comparison.results, result))
        report(comparison, result)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    peak = max(comparison.product_flops_per_s, product_rate(device, spec.precision))
    _check(comparison.results, spec.precision)
    return replace(comparison, product_flops_per_s=peak)


def _measured(
    name: str,
    ours: Variant,
    model: BertForPreTraining,
    work: TimedSequences,
    spec: RunSpec,
    device: torch.device,
    micro_batch: int,
    rounds: int,
    say: Callable[[str], None],
) -> Result:
    """One variant, made, prepared, timed and discarded; if it is foreign code that fails, the reason.

    Raises:
        BertjobsError: our own path fails.
    """
    try:
        variant = ours if name == OURS else _variant(name, spec, model, device)
        result = _prepare(variant, work, spec, device, micro_batch)
        for number in range(0 if result.failed else rounds):
            seconds = _round([ours] if variant is ours else [ours, variant], spec, device)
            rate, own = (len(work.rows) / seconds[one] for one in (name, OURS))
            say(f"round {number + 1}: {name}: {rate:,.3g} sequences/s")
            result = replace(
                result,
                sequences_per_s=(*result.sequences_per_s, rate),
                ours_sequences_per_s=(*result.ours_sequences_per_s, own),
            )
    except Exception as error:
        if name not in THEIRS:
            raise
        return Result(name, failed=_reason(error))
    return result


def _ours(spec: RunSpec, device: torch.device) -> tuple[Variant, BertForPreTraining, str]:
    """Our unpadded path, its model, and how packs are computed, in words."""
    torch.manual_seed(spec.seed)
    with device:  # initialised there: on a CPU, BERT-large takes seconds
        model = model_of(spec)
    unpadded = replace(spec, unpad=True, loader="bertjobs", loss_normalization="global")
    forward = open_forward(model, unpadded, device)
    return Variant(OURS, model, TimedSequences.packed, lambda batch: _mean(forward(batch))), model, forward.describe()


def _variant(name: str, spec: RunSpec, model: BertForPreTraining, device: torch.device) -> Variant:
    """Any other variant, with the same weights."""
    if name == PADDED:
        padded = Forward(model)
        return Variant(name, model, TimedSequences.padded, lambda batch: _mean(padded(batch)))
    if name == NVIDIA:
        return Variant(name, model, TimedSequences.fixed, lambda batch: _loss_of_all_tokens(model, batch))
    theirs = _hugging_face(spec, model, "eager" if name == EAGER else "sdpa", device).to(device)
    loss = _their_loss(torch.compile(theirs) if name == COMPILED else theirs, next_sentence=spec.next_sentence)
    return Variant(name, theirs, TimedSequences.padded, loss)


def _mean(terms: tuple[Term, ...]) -> Tensor:
    return reduce(add, [term.loss_sum / term.count for term in terms])


def _hugging_face(spec: RunSpec, model: BertForPreTraining, attention: str, device: torch.device) -> nn.Module:
    """Hugging Face's model with our weights."""
    from transformers import BertConfig, BertForMaskedLM
    from transformers import BertForPreTraining as TheirBert

    kind = TheirBert if spec.next_sentence else BertForMaskedLM
    settings = {key: value for key, value in config_from_model_spec(spec.model).items() if key in _SHAPE}
    with device:
        theirs = kind._from_config(BertConfig(**settings), attn_implementation=attention)
    theirs.load_state_dict(model.state_dict())
    if spec.activation_checkpointing:
        theirs.gradient_checkpointing_enable()
    return theirs


_SHAPE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
    "initializer_range", "layer_norm_eps",
)  # fmt: skip


def _their_loss(model: Callable[..., Any], *, next_sentence: bool) -> Callable[[Batch], Tensor]:
    def loss(batch: Batch) -> Tensor:
        next_sentence_label = {"next_sentence_label": batch.next_sentence_labels} if next_sentence else {}
        return model(
            input_ids=batch.input_ids,
            token_type_ids=batch.token_type_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            **next_sentence_label,
        ).loss

    return loss


def _loss_of_all_tokens(model: BertForPreTraining, batch: Batch) -> Tensor:
    """The mean loss by way of all tokens' logits."""
    logits, next_logits = model.logits(batch.input_ids, batch.token_type_ids, batch.attention_mask)
    labels = batch.labels.to(logits.device).flatten()
    mlm = F.cross_entropy(logits.flatten(0, 1).float(), labels, ignore_index=IGNORED_LABEL)
    return mlm if next_logits is None else mlm + F.cross_entropy(next_logits.float(), batch.next_sentence_labels)


def _moved(variant: Variant, batch: MicroBatch, device: torch.device) -> MicroBatch:
    """A micro-batch as the variant takes it."""
    if variant.name not in THEIRS:
        return on_device(batch, device)
    assert isinstance(batch, Batch)
    labels = batch.labels.masked_fill(batch.labels == IGNORED_LABEL, _HUGGING_FACE_IGNORES)
    return replace(batch, labels=labels).to(device)


def _prepare(variant: Variant, work: TimedSequences, spec: RunSpec, device: torch.device, micro_batch: int) -> Result:
    """Make a variant ready to be timed: the largest micro-batch that its memory allows, all shapes compiled.

    Raises:
        BertjobsError: our own path fails.
    """
    while True:
        problem = ""
        try:
            variant.batches = [_moved(variant, batch, device) for batch in variant.cut(work, micro_batch)]
            variant.micro_batch = micro_batch
            _round([replace(variant, batches=_one_of_each_shape(variant.batches))], spec, device)
            loss = _loss_without_dropout(variant, work, spec, device)
        except Exception as error:  # a compiler, a kernel: foreign code may raise anything
            if is_out_of_memory(error):
                problem = f"out of memory with {micro_batch} sequences"
            elif variant.name in THEIRS:
                problem, micro_batch = _reason(error), 1
            else:
                raise
        variant.module.zero_grad()
        gc.collect()
        if not problem:
            places = sum(batch.input_ids.numel() for batch in variant.batches)
            return Result(variant.name, micro_batch, len(variant.batches), places, loss=loss)
        variant.batches = ()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if micro_batch == 1:
            return Result(variant.name, failed=problem)
        micro_batch //= 2


def _reason(error: Exception) -> str:
    """An error's kind and first line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def _one_of_each_shape(batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """What has to run once before anything is timed."""
    return list({batch.input_ids.shape: batch for batch in batches}.values())


def _round(variants: Sequence[Variant], spec: RunSpec, device: torch.device) -> dict[str, float]:
    """Seconds of forward and backward over the work, by variant.

    They take turns after each micro-batch, so that other load on the machine slows all of them alike.
    """
    for variant in variants:
        variant.module.train()
        variant.module.zero_grad()
    torch.manual_seed(spec.seed)
    turns = [(number / len(variant.batches), variant, batch) for variant in variants
             for number, batch in enumerate(variant.batches)]  # fmt: skip
    seconds = dict.fromkeys((variant.name for variant in variants), 0.0)
    for _, variant, batch in sorted(turns, key=lambda turn: turn[0]):
        wait_for(device)
        started = time.perf_counter()
        with autocast(spec.precision, device):
            loss = variant.loss(batch)
        loss.backward()
        wait_for(device)
        seconds[variant.name] += time.perf_counter() - started
    for variant in variants:
        variant.module.zero_grad()
    return seconds


def _loss_without_dropout(variant: Variant, work: TimedSequences, spec: RunSpec, device: torch.device) -> float:
    """The mean loss of the first few sequences as one micro-batch."""
    few = work.first(CHECKED)
    batches = variant.cut(few, len(few.rows))
    assert len(batches) == 1
    variant.module.eval()
    with torch.no_grad(), autocast(spec.precision, device):
        return float(variant.loss(_moved(variant, batches[0], device)))


def _check(results: Sequence[Result], precision: str) -> None:
    """BertjobsError if losses differ by more than rounding does."""
    losses = {result.name: result.loss for result in results if not result.failed}
    ours = losses[OURS]
    for name, loss in losses.items():
        if not abs(loss - ours) <= TOLERANCE[precision] * abs(ours):
            raise BertjobsError(
                f"{name} has a loss of {loss:.6f} without dropout, {OURS} of {ours:.6f}: they do not compute the same",
                where="bertjobs bench --compare",
            )
