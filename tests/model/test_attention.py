"""Every implementation of attention that runs here computes the same, and drops what it should."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bertjobs.errors import InputError
from bertjobs.model import attention
from bertjobs.model.attention import ATTENTIONS, Attend, SequenceLayout, choose_attention

CPU = torch.device("cpu")
WAYS = ("per_sequence", "padded", "nested")
HEADS, SIZE = 2, 8


def layout_of(queries: list[int], keys: list[int], sequences: int | None = None) -> SequenceLayout:
    return SequenceLayout(
        cumulative_queries=torch.tensor([0, *queries]).cumsum(0).int(),
        cumulative_keys=torch.tensor([0, *keys]).cumsum(0).int(),
        max_queries=max(queries),
        max_keys=max(keys),
        sequences=len(keys) if sequences is None else sequences,
    )


def inputs(layout: SequenceLayout, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    rows = [int(c[-1]) for c in (layout.cumulative_queries, *[layout.cumulative_keys] * 2)]
    return [torch.randn(n, HEADS, SIZE, generator=generator, dtype=dtype).requires_grad_() for n in rows]


def by_definition(query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout) -> Tensor:
    out = torch.zeros_like(query)
    for slot in range(layout.sequences):
        q = slice(*layout.cumulative_queries[slot : slot + 2].tolist())
        k = slice(*layout.cumulative_keys[slot : slot + 2].tolist())
        scores = torch.einsum("nhd,thd->hnt", query[q], key[k]) / math.sqrt(SIZE)
        out[q] = torch.einsum("hnt,thd->nhd", scores.softmax(-1), value[k])
    return out


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("queries", "keys"),
    [([5, 3, 17], [5, 3, 17]), ([2, 3, 1], [5, 3, 17]), ([1], [1]), ([3, 0, 4, 0], [3, 2, 9, 0]), ([40], [3])],
)
def test_outputs_and_gradients_are_those_of_the_definition(way: str, queries: list[int], keys: list[int]) -> None:
    layout = layout_of(queries, keys)
    rows = [row.float().detach().requires_grad_() for row in inputs(layout)]
    expected, actual = by_definition(*rows, layout), ATTENTIONS[way](*rows, layout, 0.0)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn_like(expected)
    right, tried = (torch.autograd.grad(out, rows, weights) for out in (expected, actual))
    for one, other in zip(tried, right, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_slots_after_the_sequences_are_left_out_on_a_cpu() -> None:
    layout = layout_of([5, 3, 17], [5, 3, 17], sequences=2)
    rows = inputs(layout, torch.float32)
    out = ATTENTIONS["per_sequence"](*rows, layout, 0.1)
    assert not out[8:].any()
    assert not any(gradient[8:].any() for gradient in torch.autograd.grad(out.sum(), rows))


@pytest.mark.parametrize("way", WAYS)
def test_dropout_keeps_the_mean_and_has_the_variance_of_its_rate(way: str) -> None:
    """With equal scores of 32 keys and values of one number that is 1 for one key: out = keep / (32 (1 - p))."""
    probability, heads, queries, keys = 0.1, 4, 500, 32
    layout = layout_of([queries], [keys])
    query, key = torch.zeros(queries, heads, keys), torch.zeros(keys, heads, keys)
    value = torch.eye(keys)[:, None, :].expand(keys, heads, keys).contiguous()
    torch.manual_seed(0)
    out = ATTENTIONS[way](query, key, value, layout, probability)  # the dropped probabilities themselves
    kept = out > 0
    count = out.numel()
    assert out[kept].unique().tolist() == pytest.approx([1 / keys / (1 - probability)], rel=1e-4)
    assert float(kept.double().mean()) == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / count))
    for dim in range(3):
        size = kept.shape[dim]
        rel = 5 * math.sqrt(2 / (count / size))  # of a variance's estimate
        assert float(kept.double().sum(dim).var()) == pytest.approx(size * 0.09, rel=rel)


def differences(attend: Attend, dropout: float, seed: int) -> float:
    """How far the gradient of a seeded pass is from a finite difference along a random direction, in float64."""
    layout = layout_of([6, 4], [6, 9])
    rows = inputs(layout)
    direction = [torch.randn_like(row) for row in rows]
    weights = torch.randn_like(rows[0])

    def value(step: float) -> Tensor:
        torch.manual_seed(seed)
        return (attend(*(r + step * d for r, d in zip(rows, direction, strict=True)), layout, dropout) * weights).sum()

    exact = sum(float((g * d).sum()) for g, d in zip(torch.autograd.grad(value(0.0), rows), direction, strict=True))
    return abs((value(1e-2) - value(-1e-2)).item() / 2e-2 - exact) / abs(exact)


def test_gradients_under_dropout_are_those_of_the_same_masks() -> None:
    assert differences(ATTENTIONS["padded"], 0.3, 5) < 5e-3  # checks the measure itself
    assert differences(ATTENTIONS["per_sequence"], 0.3, 5) < 5e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auto_is_the_implementation_for_cpus_and_says_so(dtype: torch.dtype) -> None:
    state = torch.get_rng_state()
    chosen = choose_attention("auto", CPU, dtype, 64)
    assert torch.equal(torch.get_rng_state(), state)
    assert chosen.describe() == "attention: per_sequence (the fastest that works here)"


def test_an_implementation_that_cannot_run_here_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"attention 'flash' does not work: .*CPU"):
        choose_attention("flash", CPU, torch.bfloat16, 64)
    with pytest.raises(InputError, match="did you mean 'flash'"):
        choose_attention("flsh", CPU, torch.bfloat16, 64)


def test_auto_skips_an_implementation_with_wrong_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard against private operators: wrong numbers are detected before the run starts."""

    def wrong(query: Tensor, key: Tensor, value: Tensor, layout: SequenceLayout, dropout: float) -> Tensor:
        return ATTENTIONS["padded"](query, key, 1.05 * value, layout, dropout)

    monkeypatch.setitem(attention.ATTENTIONS, "flash", wrong)
    monkeypatch.setitem(attention.PREFERRED, "cpu", ("flash", "per_sequence"))
    chosen = choose_attention("auto", CPU, torch.bfloat16, 64)
    assert chosen.name == "per_sequence"
    assert "not flash: output differs from the reference by" in chosen.describe()
