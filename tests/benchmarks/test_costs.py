"""What a step costs, against what can be counted by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from bertjobs.bench.profile import KINDS
from bertjobs.model import packed
from bertjobs.model.packed import Affine, Normalised
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.flops import StepCounts, step_flops
from bertjobs.recipe.resolve import resolve
from tests.benchmarks.test_data import BENCHMARKS, load

TOKENS, HIDDEN, INNER = 65536, 1024, 4096
UNIT = 2 * TOKENS * HIDDEN  # bytes of the hidden states in bf16

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def costs() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield load("benchmark_costs", BENCHMARKS / "costs.py")
    sys.modules.pop("captured_graphs", None)


def weights(*shape: int) -> Tensor:
    return torch.empty(shape, requires_grad=True)


def hidden_states() -> Tensor:
    return torch.empty(TOKENS, HIDDEN, dtype=torch.bfloat16, requires_grad=True)


def finish() -> Sequence[Any]:
    def affine(outputs: int, inputs: int) -> Affine:
        return Affine(weights(outputs, inputs), weights(outputs))

    norms = [Normalised(weights(HIDDEN), weights(HIDDEN), 1e-12) for _ in range(2)]
    return (hidden_states(), hidden_states(), affine(HIDDEN, HIDDEN), norms[0], affine(INNER, HIDDEN),
            affine(HIDDEN, INNER), norms[1], 0.1, "none")  # fmt: skip


def moved(costs: ModuleType, function: Callable[..., Any], make: Callable[[], Sequence[Any]]) -> list[list[float]]:
    """Bytes of the kernels, in hidden states, of the forward and of the backward graph; those of weights left out."""
    graphs = costs.captured(function, make)
    sizes = [sorted(costs.bytes_of(kernel) / UNIT for kernel in costs.kernels_of(graph)) for graph in graphs]
    return [[bytes for bytes in kernels if bytes > 0.3] for kernels in sizes]


def test_kernels_between_products_read_and_write_each_tensor_once(costs: ModuleType) -> None:
    forward, backward = moved(costs, packed.finish, finish)
    # Product, residual, result, mask in bytes; the same with the normalised values kept in float32; GELU is four wide.
    assert forward == pytest.approx([1 + 1 + 1 + 0.5, 1 + 1 + 1 + 0.5 + 2, 4 + 4], rel=0.01)
    # LayerNorm: what it reads, its two gradients, and again for the sums over tokens; GELU: two read, one written, and
    # read again for the bias.
    last = (1 + 2 + 0.5) + 2 + (1 + 2) + 1
    first = (1 + 1 + 1 + 1 + 0.5) + 2 + (1 + 1 + 1 + 1 + 0.5) + 1
    assert backward == pytest.approx([last, first, 4 + 4 + 4 + 4], rel=0.01)


def test_products_and_random_numbers_are_those_of_the_formula(costs: ModuleType) -> None:
    graphs = costs.captured(packed.finish, finish)
    products = [costs.products_of(graph) for graph in graphs]
    once = 2 * TOKENS * (HIDDEN**2 + 2 * HIDDEN * INNER)
    assert products == [once, 2 * once]
    assert [costs.draws_of(graph) for graph in graphs] == [2 * TOKENS * HIDDEN, 0]


def test_what_has_to_wait_for_a_product_is_another_kernel(costs: ModuleType) -> None:
    def around(hidden: Tensor, weight: Tensor) -> Tensor:
        first = torch.sin(hidden)
        return torch.cos(first @ weight) + first

    graph, _ = costs.captured(around, lambda: (hidden_states(), weights(HIDDEN, HIDDEN)))
    kernels = sorted(costs.bytes_of(kernel) / UNIT for kernel in costs.kernels_of(graph))
    assert kernels[-2:] == pytest.approx([1 + 1, 1 + 1 + 1], rel=0.01)  # sin; the product and sin, and their sum


@pytest.fixture(scope="module")
def prediction(costs: ModuleType) -> dict[str, Any]:
    catalogue = load_catalogue([builtin_file()])
    spec = resolve(catalogue, flags={"recipe": "h200", "gpus": 1, "data": "/none"}, environ={}, sets=()).spec
    return costs.predict(spec, spec.phase(1), costs.Rates())


def test_the_parts_make_up_the_step(prediction: dict[str, Any]) -> None:
    assert sum(part["ms"] for part in prediction["parts"]) == pytest.approx(prediction["ms"])
    assert sum(prediction["kinds_ms"].values()) == pytest.approx(prediction["ms"])
    assert sum(prediction["shares"].values()) == pytest.approx(1)
    assert set(prediction["shares"]) <= set(KINDS)
    assert 0.8 * 512 * 128 < prediction["tokens"] <= 512 * 128
    assert prediction["tokens"] / prediction["sequences"] == pytest.approx(106, rel=0.02)
    assert prediction["sequences_per_s"] == pytest.approx(1e3 * prediction["sequences"] / prediction["ms"])


def test_all_products_are_those_that_the_model_needs_and_the_tail_of_packs(prediction: dict[str, Any]) -> None:
    """The last layer, which computes some rows only, is a 24th of the whole."""
    model = load_catalogue([builtin_file()]).model("bert-large", "test")
    counts = StepCounts(prediction["sequences"], prediction["masked_tokens"], prediction["tokens"], 0)
    needed = step_flops(model, 30522, counts)
    computed = sum(part["times"] * part["flops"] for part in prediction["parts"] if part["kind"] == "matrix products")
    assert 0.97 * needed < computed < 1.01 * needed


def test_the_kept_prediction_is_of_the_recipe_s_packs(prediction: dict[str, Any]) -> None:
    kept = json.loads((BENCHMARKS / "results/costs.json").read_text())
    assert kept["recipe"] == "h200"
    assert kept["phases"]["1"]["tokens"] == prediction["tokens"]
    assert kept["phases"]["1"]["sequences"] == prediction["sequences"]
    assert kept["phases"]["1"]["layer_ms"].keys() == prediction["layer_ms"].keys()
