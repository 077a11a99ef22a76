"""The unpadded path gives the padded path's losses and gradients, and its dropout is dropout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bertjobs.data.batches.packed_batches import PackedBatch
from bertjobs.errors import InputError
from bertjobs.model import packed
from bertjobs.model.attention import ATTENTIONS, SequenceLayout
from bertjobs.model.bert import BertForPreTraining, PretrainingSums
from bertjobs.model.dropout import dropout, dropout_add
from bertjobs.model.packed import EAGER, Affine, Normalised, TokenWise, packed_sums, score, score_aligned
from bertjobs.recipe.spec import ModelSpec
from tests.model.packs import make_pack, padded

LENGTH = 24
FIXED = replace(EAGER, fixed_shapes=True)
WAYS = ("per_sequence", "padded", "nested")
Gradients = dict[str, Tensor]


def spec_of(dropout: float = 0.0) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        vocab_size=41,
        max_position_embeddings=LENGTH,
        initializer_range=0.2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def model_of(dropout: float = 0.0, **settings: bool) -> BertForPreTraining:
    torch.manual_seed(7)
    return BertForPreTraining(spec_of(dropout), **settings)


def pack_of(lengths: list[int], tokens: int = 160, seed: int = 0) -> PackedBatch:
    """With a tail of several pieces or none, empty slots and unused predictions."""
    return make_pack(lengths, tokens=tokens, slots=16, predictions=48, max_length=LENGTH, vocabulary=41, seed=seed)


def losses_and_gradients(
    model: BertForPreTraining, sums: Callable[[], PretrainingSums], seed: int = 0
) -> tuple[PretrainingSums, Gradients]:
    torch.manual_seed(seed)
    model.zero_grad()
    result = sums()
    (result.mlm_loss_sum / 7 + result.nsp_loss_sum / 3).backward()
    return result, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one: tuple[PretrainingSums, Gradients], other: tuple[PretrainingSums, Gradients]) -> None:
    for name, expected, actual in zip(PretrainingSums._fields, one[0], other[0], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0, msg=name)
    assert one[1].keys() == other[1].keys()
    for name, expected in one[1].items():
        torch.testing.assert_close(other[1][name], expected, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from([3, 4, 9, 17, 23, LENGTH]), min_size=1, max_size=6), st.integers(0, 99))
def test_losses_and_gradients_are_the_padded_paths(way: str, lengths: list[int], seed: int) -> None:
    model, pack = model_of(), pack_of(lengths, seed=seed)
    expected = losses_and_gradients(model, lambda: model(**padded(pack)))
    assert int(expected[0].mlm_count) == pack.masked
    assert_same(expected, losses_and_gradients(model, lambda: packed_sums(model, pack, ATTENTIONS[way])))


def test_a_full_pack_has_no_tail() -> None:
    model, pack = model_of(), pack_of([LENGTH, LENGTH, 12], tokens=60)
    expected = losses_and_gradients(model, lambda: model(**padded(pack)))
    for way in WAYS:
        actual = losses_and_gradients(model, lambda way=way: packed_sums(model, pack, ATTENTIONS[way]))
        assert_same(expected, actual)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lengths", [[3], [24, 9, 3, 3, 17]])
def test_fixed_shapes_change_no_number(way: str, lengths: list[int]) -> None:
    """As in compiled code: what unused slots and predictions read is computed, but does not count."""
    model, pack = model_of(), pack_of(lengths)
    expected = losses_and_gradients(model, lambda: model(**padded(pack)))
    sums = lambda: packed_sums(model, pack, ATTENTIONS[way], FIXED)  # noqa: E731
    assert_same(expected, losses_and_gradients(model, sums))


@pytest.mark.parametrize("parts", [EAGER, FIXED], ids=["eager", "fixed"])
def test_all_parameters_take_part_in_an_empty_pack(parts: TokenWise) -> None:
    """Other ranks wait for the gradients of each parameter."""
    model, pack = model_of(0.1), pack_of([])
    sums = lambda: packed_sums(model, pack, ATTENTIONS["per_sequence"], parts)  # noqa: E731
    result, gradients = losses_and_gradients(model, sums)
    assert [value.item() for value in result] == [0] * 6
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert not any(gradient.any() for gradient in gradients.values())


def test_the_last_layer_computes_only_the_rows_that_heads_read() -> None:
    model, pack = model_of(), pack_of([24, 9, 17])
    seen = []

    def attend(query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, probability: float) -> Tensor:
        seen.append((len(query), len(key)))
        return ATTENTIONS["per_sequence"](query, key, value, layout, probability)

    packed_sums(model, pack, attend)
    assert seen == [(160, 160), (160, 160), (3 + pack.masked, 160)]


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_recomputing_activations_changes_no_bit(precision: torch.dtype | None) -> None:
    plain, saving = model_of(0.1), model_of(0.1, activation_checkpointing=True)
    pack = pack_of([24, 3, 17, 24])

    def sums(model: BertForPreTraining) -> PretrainingSums:
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            return packed_sums(model, pack, ATTENTIONS["per_sequence"])

    expected, actual = (losses_and_gradients(model, lambda model=model: sums(model)) for model in (plain, saving))
    assert expected[0].mlm_loss_sum.dtype == torch.float32
    assert all(torch.equal(one, other) for one, other in zip(expected[0], actual[0], strict=True))
    assert all(torch.equal(actual[1][name], gradient) for name, gradient in expected[1].items())


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", WAYS)
def test_half_precision_stays_close(way: str, precision: torch.dtype) -> None:
    model, pack = model_of(), pack_of([24, 3, 17, 24])
    expected = packed_sums(model, pack, ATTENTIONS[way])
    with torch.autocast("cpu", dtype=precision):
        actual = packed_sums(model, pack, ATTENTIONS[way])
    torch.testing.assert_close(actual.mlm_loss_sum, expected.mlm_loss_sum, rtol=2e-2, atol=0)
    torch.testing.assert_close(actual.nsp_loss_sum, expected.nsp_loss_sum, rtol=2e-2, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_a_seed_fixes_the_bits(way: str) -> None:
    model, pack = model_of(0.1), pack_of([24, 3, 17, 24])
    first, again, other = (
        losses_and_gradients(model, lambda: packed_sums(model, pack, ATTENTIONS[way]), seed) for seed in (5, 5, 6)
    )
    assert all(torch.equal(again[1][name], gradient) for name, gradient in first[1].items())
    assert first[0].mlm_loss_sum.item() == again[0].mlm_loss_sum.item() != other[0].mlm_loss_sum.item()


def test_evaluation_drops_nothing() -> None:
    model, pack = model_of(0.5).eval(), pack_of([24, 3, 17])
    expected = model(**padded(pack))
    actual = packed_sums(model, pack, ATTENTIONS["per_sequence"])
    torch.testing.assert_close(actual.mlm_loss_sum, expected.mlm_loss_sum)


def test_losses_under_dropout_are_distributed_as_the_padded_paths() -> None:
    """Mean and spread over 300 masks."""
    model, pack = model_of(0.3), pack_of([24, 9, 17])
    batch, attend = padded(pack), ATTENTIONS["per_sequence"]
    torch.manual_seed(1)
    with torch.no_grad():
        ours = torch.stack([packed_sums(model, pack, attend).mlm_loss_sum for _ in range(300)])
        theirs = torch.stack([model(**batch).mlm_loss_sum for _ in range(300)])
    error = float((ours.var() / 300 + theirs.var() / 300).sqrt())
    assert abs(float(ours.mean() - theirs.mean())) < 4 * error
    assert 0.7 < float(ours.std() / theirs.std()) < 1.4


def test_dropout_keeps_its_rate_and_scale() -> None:
    torch.manual_seed(0)
    ones = torch.ones(1000, 1000, requires_grad=True)
    dropped = dropout(ones, 0.1)
    kept = dropped != 0
    assert float(kept.double().mean()) == pytest.approx(0.9, abs=4 * 0.3 / 1000)
    assert dropped[kept].unique().tolist() == pytest.approx([1 / 0.9], rel=1e-5)
    # Columns, rows and neighbours are independent: their kept counts vary like coin tosses.
    for dim in (0, 1):
        assert float(kept.double().sum(dim).var()) == pytest.approx(1000 * 0.09, rel=0.2)
        pairs = kept.roll(1, dim) & kept
        assert float(pairs.double().mean()) == pytest.approx(0.81, abs=0.003)
    dropped.sum().backward()
    assert torch.equal(ones.grad, dropped.detach())


def test_dropout_with_a_residual_is_dropout_and_a_sum() -> None:
    vectors, residual = torch.randn(2, 50, 40).requires_grad_().unbind()
    torch.manual_seed(3)
    expected = dropout(vectors, 0.3) + residual
    torch.manual_seed(3)
    actual = dropout_add(vectors, residual, 0.3)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn(50, 40)
    for one, other in zip(
        torch.autograd.grad(actual, (vectors, residual), weights, retain_graph=True),
        torch.autograd.grad(expected, (vectors, residual), weights, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def head_of(vocabulary: int, seed: int = 0) -> tuple[Affine, Normalised, Affine]:
    """Width 12: transform, its norm, decoder; all logits are far below 0."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    low = (random(vocabulary).detach() - 30).requires_grad_()
    transform, norm = Affine(random(12, 12), random(12)), Normalised(random(12), random(12), 1e-12)
    return transform, norm, Affine(random(vocabulary, 12), low)


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [1, 41, 64, 65, 250])
def test_a_padded_vocabulary_changes_no_loss_no_hit_and_no_gradient(
    vocabulary: int, precision: torch.dtype | None
) -> None:
    """Padded tokens have a weight of 0, so that their logits are above all others without the low bias."""
    transform, norm, decoder = head_of(vocabulary)
    hidden = torch.randn(30, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = torch.arange(30) % (vocabulary + 1) - 1
    wide = F.layer_norm(F.gelu(F.linear(hidden, *transform)), (12,), *norm)
    labels[:10] = F.linear(wide, *decoder).argmax(-1)[:10]
    inputs = [hidden, *transform, norm.weight, norm.bias, *decoder]

    def results(of: Callable[..., tuple[Tensor, Tensor]]) -> list[Tensor]:
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            loss, correct = of(hidden, labels, transform, norm, decoder, "none")
        return [loss, correct, *torch.autograd.grad(loss, inputs)]

    for actual, expected in zip(results(score_aligned), results(score), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5 if precision is None else 2e-2, atol=1e-5)
    assert results(score)[1].item() >= 9


def test_the_aligned_product_has_whole_cache_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """BERT's vocabulary becomes 30,528; one that fits stays as it is."""
    shapes = []
    loss = packed._loss_and_correct
    monkeypatch.setattr(
        packed, "_loss_and_correct", lambda logits, labels: (shapes.append(logits.shape[1]), loss(logits, labels))[1]
    )
    for vocabulary in (30522, 30528, 41):
        score_aligned(torch.zeros(2, 12), torch.zeros(2, dtype=torch.int64), *head_of(vocabulary), "none")
    assert shapes == [30528, 30528, 64]


def test_longer_sequences_than_positions_are_refused() -> None:
    model = BertForPreTraining(replace(spec_of(), max_position_embeddings=LENGTH - 1))
    with pytest.raises(InputError, match="24 tokens is longer than max_position_embeddings 23"):
        packed_sums(model, pack_of([3]), ATTENTIONS["per_sequence"])
