"""Memory of a micro-batch: the formula against what torch really keeps, and what follows from the formula."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bertjobs.launch.plan.memory import (
    ESTIMATE_MARGIN,
    FITS,
    TIGHT,
    TOO_LARGE,
    Peak,
    activation_bytes,
    fit,
    logits_bytes,
    memory_need,
    teacher_bytes,
    verdict,
)
from bertjobs.model.bert import IGNORED_LABEL, BertForPreTraining
from bertjobs.recipe.bert_config import config_from_model_spec
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.size import matrix_elements, parameter_count
from bertjobs.recipe.spec import ModelSpec, RunSpec

CATALOGUE = load_catalogue([builtin_file()])
GPU_RECIPES = [
    name
    for name in CATALOGUE.keys("recipes")
    if not name.startswith("laptop")
    and CATALOGUE.find("recipes", name, "task") is None
    and CATALOGUE.find("recipes", name, "distill_logits") is None
]
TOLERANCE = 0.02
"""The formula leaves out what is small: the attention's mask, indices, the next-sentence head."""


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In all of this file's tests."""


def resolved(recipe: str, *sets: str, **flags: object) -> RunSpec:
    return resolve(CATALOGUE, flags={"recipe": recipe, **flags}, environ={}, sets=sets).spec


def shape(hidden: int = 64, layers: int = 3, inner: int = 192, dropout: float = 0.1) -> ModelSpec:
    """Attention without dropout: with dropout, torch has a fused kernel only on GPUs."""
    return ModelSpec(
        *("small", hidden, layers, 4, inner, 501, 64), hidden_dropout_prob=dropout, attention_probs_dropout_prob=0.0
    )


def saved_bytes(spec: ModelSpec, sequences: int, length: int, precision: str, checkpointing: bool) -> tuple[int, int]:
    """Bytes that a forward pass keeps for the backward pass, parameters apart, and the number of masked tokens."""
    torch.manual_seed(3)
    model = BertForPreTraining(spec, activation_checkpointing=checkpointing).train()
    ids = torch.randint(1, spec.vocab_size, (sequences, length))
    labels = torch.where(torch.rand(ids.shape) < 0.15, ids, IGNORED_LABEL)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            sums = model(ids, torch.zeros_like(ids), torch.ones_like(ids), labels, ids[:, 0] % 2)
        loss = sums.mlm_loss_sum + sums.nsp_loss_sum
    assert loss.requires_grad  # it also holds the graph, so that no address was used twice
    return sum(kept.values()), int(sums.mlm_count)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["whole", "checkpointing"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("spec", "sequences", "length"),
    [
        (shape(), 4, 64),
        (shape(layers=1, dropout=0.0), 8, 24),
        (shape(hidden=128, inner=512, layers=6), 2, 48),
    ],
    ids=["three layers", "no dropout", "six layers"],
)
def test_torch_keeps_what_the_formula_says(
    spec: ModelSpec, sequences: int, length: int, precision: str, checkpointing: bool
) -> None:
    kept_bytes, masked = saved_bytes(spec, sequences, length, precision, checkpointing)
    expected = logits_bytes(spec.vocab_size, masked) + activation_bytes(
        spec,
        sequences=sequences,
        length=length,
        masked_tokens=masked,
        precision=precision,
        activation_checkpointing=checkpointing,
        mask_bytes=2 if precision == "bf16" else 4,  # on a CPU torch keeps the scaled mask in the product's type
    )
    if precision == "bf16":
        copied = matrix_elements(spec, spec.vocab_size)
        if checkpointing:  # then a layer's copies are made again
            copied -= matrix_elements(spec, 0) - matrix_elements(replace(spec, num_hidden_layers=0), 0)
        expected += 2 * copied
        # On a CPU the embeddings' own mask is float32, like the embeddings.
        expected += sequences * length * spec.hidden_size * 2 if spec.hidden_dropout_prob else 0
    assert kept_bytes == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("name", CATALOGUE.keys("models"))
def test_parameters_are_counted_as_torch_counts_them(name: str) -> None:
    spec = replace(CATALOGUE.model(name, "test"), vocab_size=30522)
    with torch.device("meta"):
        model = BertForPreTraining(spec)
    assert parameter_count(spec, 30522) == sum(parameter.numel() for parameter in model.parameters())
    products = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert matrix_elements(spec, 30522) == sum(weight.numel() for weight in products)


@pytest.mark.parametrize("recipe", GPU_RECIPES)
@pytest.mark.parametrize("precision", ["half", "single"])
def test_published_micro_batches_fit(recipe: str, precision: str) -> None:
    usual = resolved(recipe).precision
    ampere = not recipe.startswith(("dgx1", "dgx2"))
    spec = resolved(recipe, precision=usual if precision == "half" else "tf32" if ampere else "fp32")
    for phase in spec.phases:
        fitting = fit(spec, phase, spec.model.vocab_size)
        assert fitting
        assert fitting.verdict == FITS, (recipe, precision, fitting)


def test_a_micro_batch_that_does_not_fit_comes_with_one_that_does() -> None:
    spec = resolved("dgx1-32g", "phase1.micro_batch=512", nodes=4, phase=1)
    fitting = fit(spec, spec.phases[0], spec.model.vocab_size)
    assert fitting
    assert fitting.verdict == TOO_LARGE
    assert fitting.micro_batch * fitting.gradient_steps == spec.phases[0].rank_batch
    smaller = resolved("dgx1-32g", f"phase1.micro_batch={fitting.micro_batch}", nodes=4, phase=1)
    assert smaller.phases[0].gradient_steps == fitting.gradient_steps
    again = fit(smaller, smaller.phases[0], smaller.model.vocab_size)
    assert again
    assert again.verdict == FITS
    twice = memory_need(spec, spec.phases[0], 30522, 2 * fitting.micro_batch).total
    assert verdict(twice, 32, ESTIMATE_MARGIN) != FITS


def test_if_not_even_one_sequence_fits_none_is_named() -> None:
    spec = resolved("dgx1-16g", phase=2)
    spec = replace(spec, system=replace(spec.system, gpu_memory_gb=4))
    fitting = fit(spec, spec.phases[0], 30522)
    assert fitting
    assert (fitting.verdict, fitting.micro_batch, fitting.gradient_steps) == (TOO_LARGE, 0, 0)


def test_cpus_unknown_gpus_and_unknown_vocabularies_get_no_estimate() -> None:
    laptop, gpu = resolved("laptop"), resolved("h200")
    assert fit(laptop, laptop.phases[0], 30522) is None
    assert fit(gpu, gpu.phases[0], 0) is None
    unknown = replace(gpu, system=replace(gpu.system, gpu_memory_gb=0))
    assert fit(unknown, gpu.phases[0], 30522) is None


def test_a_measured_peak_counts_only_for_its_own_micro_batch() -> None:
    spec = resolved("dgx1-32g")
    phase = spec.phases[0]
    same = fit(spec, phase, 30522, {1: Peak("run before", phase.micro_batch, 31.0)})
    other = fit(spec, phase, 30522, {1: Peak("run before", phase.micro_batch // 2, 31.0)})
    assert same
    assert other
    assert (same.verdict, same.source, same.need_gb) == (TOO_LARGE, "measured in run before", 33.0)
    assert (other.verdict, other.need_gb) == (FITS, other.need.total)
    assert "estimate, not measured" in other.source


def test_verdicts_leave_room_for_the_error() -> None:
    assert [verdict(gb, 100, 0.1) for gb in (90, 91, 111, 112)] == [FITS, TIGHT, TIGHT, TOO_LARGE]


def test_checkpointing_and_sharded_states_take_less() -> None:
    spec = resolved("dgxa100-80g", nodes=4)
    phase = spec.phases[1]
    plain = memory_need(spec, phase, 30522, 32)
    checkpointing = memory_need(replace(spec, activation_checkpointing=True), phase, 30522, 32)
    sharded = memory_need(replace(spec, optimizer=replace(spec.optimizer, shard_states=True)), phase, 30522, 32)
    assert checkpointing.activations < 0.15 * plain.activations
    assert checkpointing.total < plain.total
    # The word embeddings are one tensor of one rank.
    assert sharded.moments == pytest.approx(8 * 30522 * 1024 / 1e9)


def test_a_teacher_takes_its_weights_its_states_and_its_words(tmp_path: Path) -> None:
    spec = resolved("dgxa100-80g", "distill_hidden=1", phase=1)
    (tmp_path / "config.json").write_text(json.dumps(config_from_model_spec(spec.model)))
    alone, phase = replace(spec, precision="bf16"), spec.phases[0]
    taught = replace(alone, teacher=str(tmp_path))
    without, fitting = fit(alone, phase, 30522), fit(taught, phase, 30522)
    assert without
    assert fitting
    assert without.need.teacher == 0
    assert fitting.need.total == pytest.approx(without.need.total + fitting.need.teacher)
    weights = 4 * parameter_count(spec.model, 30522) / 1e9
    states = 25 * 4 * 1024 * phase.micro_batch * phase.sequence_length / 1e9
    words = 3 * 4 * 30522 * phase.micro_batch * phase.max_predictions / 1e9
    one_layer = (2 * 4 * 1024 + 2 * (3 * 1024 + 2 * 4096)) * phase.micro_batch * phase.sequence_length / 1e9
    assert fitting.need.teacher == pytest.approx(weights + states + words + one_layer, rel=0.01)
    assert teacher_bytes(replace(taught, distill_hidden=0.0), spec.model, 128, 20) == (
        teacher_bytes(taught, spec.model, 128, 20) - 25 * 4 * 1024 * 128
    )


@settings(max_examples=50, deadline=None)
@given(
    recipe=st.sampled_from(GPU_RECIPES),
    precision=st.sampled_from(["fp32", "bf16"]),
    micro_batch=st.integers(1, 1024),
    checkpointing=st.booleans(),
)
def test_a_larger_micro_batch_never_needs_less(
    recipe: str, precision: str, micro_batch: int, checkpointing: bool
) -> None:
    spec = replace(resolved(recipe), precision=precision, activation_checkpointing=checkpointing)
    for phase in spec.phases:
        less, more = (memory_need(spec, phase, 30522, n) for n in (micro_batch, micro_batch + 1))
        assert less.total < more.total
        assert all(part >= 0 for part in vars(less).values())
