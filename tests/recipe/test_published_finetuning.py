"""The published settings of fine-tuning are those of the catalogue."""

from __future__ import annotations

import pytest

from bertjobs.errors import InputError
from bertjobs.recipe.catalogue import Catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.tasks.task import TASKS

# recipe, precision ("" for the recipe's own), GPUs, examples per GPU, gradient steps, micro-batch
PUBLISHED_SIZES = [
    ("mrpc-dgx1-32g", "", 8, 16, 1, 16),
    ("mrpc-dgx1-32g", "fp32", 8, 16, 1, 16),
    ("mrpc-dgx1-32g", "", 1, 128, 1, 128),
    ("mrpc-dgx1-32g", "fp32", 1, 128, 2, 64),
    ("mrpc-dgxa100-80g", "", 8, 16, 1, 16),
    ("mrpc-dgxa100-80g", "tf32", 1, 128, 1, 128),
    ("sst2-dgx1-32g", "", 8, 128, 1, 128),
    ("sst2-dgx1-32g", "", 2, 512, 4, 128),
    ("sst2-dgxa100-80g", "", 8, 128, 1, 128),
    ("sst2-dgxa100-80g", "", 1, 1024, 4, 256),
    ("sst2-dgxa100-80g", "tf32", 4, 256, 2, 128),
    ("qqp", "", 4, 32, 1, 32),
    ("agnews", "", 8, 160, 2, 80),
]
# recipe, task, model, tokens, epochs, learning rate, warm-up, global batch
PUBLISHED_RATES = [
    ("mrpc-dgx1-32g", "mrpc", "bert-large", 128, 3, 1.8e-5, 0.3, 128),
    ("mrpc-dgxa100-80g", "mrpc", "bert-large", 128, 3, 1.8e-5, 0.3, 128),
    ("sst2-dgx1-32g", "sst2", "bert-large", 128, 3, 1e-5, 0.1, 1024),
    ("sst2-dgxa100-80g", "sst2", "bert-large", 128, 3, 1e-5, 0.1, 1024),
    ("qqp", "qqp", "bert-large", 128, 3, 2e-5, 0.1, 128),
    ("agnews", "agnews", "bert-base", 256, 4, 5.657e-5, 0.25, 1280),
]


def resolved(catalogue: Catalogue, recipe: str, *sets: str, **flags: object) -> RunSpec:
    return resolve(catalogue, flags={"recipe": recipe, **flags}, environ={}, sets=sets, training_rows=10_000).spec


@pytest.mark.parametrize(("recipe", "precision", "gpus", "rank_batch", "steps", "micro_batch"), PUBLISHED_SIZES)
def test_sizes_per_gpu(
    catalogue: Catalogue, recipe: str, precision: str, gpus: int, rank_batch: int, steps: int, micro_batch: int
) -> None:
    spec = resolved(catalogue, recipe, precision=precision or None, gpus=gpus)
    (phase,) = spec.phases
    assert spec.world_size == gpus
    assert (phase.rank_batch, phase.gradient_steps, phase.micro_batch) == (rank_batch, steps, micro_batch)


@pytest.mark.parametrize(
    ("recipe", "task", "model", "tokens", "epochs", "lr", "warmup", "global_batch"), PUBLISHED_RATES
)
def test_rates(
    catalogue: Catalogue,
    recipe: str,
    task: str,
    model: str,
    tokens: int,
    epochs: int,
    lr: float,
    warmup: float,
    global_batch: int,
) -> None:
    spec = resolved(catalogue, recipe)
    (phase,) = spec.phases
    assert (spec.task, spec.model.name, spec.decay, spec.optimizer.name) == (task, model, "linear", "adamw")
    assert (phase.sequence_length, phase.lr, phase.warmup, phase.global_batch) == (tokens, lr, warmup, global_batch)
    assert phase.steps == -(-epochs * 10_000 // global_batch)


def test_sst2_in_fp32_on_dgx1_has_a_smaller_batch(catalogue: Catalogue) -> None:
    (phase,) = resolved(catalogue, "sst2-dgx1-32g", "phase1.global_batch=512", precision="fp32").phases
    assert (phase.rank_batch, phase.micro_batch, phase.gradient_steps) == (64, 64, 1)


def test_the_recipes_of_tasks_name_tasks(catalogue: Catalogue) -> None:
    tasks = {name: catalogue.find("recipes", name, "task") for name in catalogue.keys("recipes")}
    chosen = {name: provenance.value for name, provenance in tasks.items() if provenance is not None}
    assert {name for name, *_ in PUBLISHED_RATES} <= chosen.keys()
    assert set(chosen.values()) <= TASKS.keys()


def test_a_batch_that_the_gpus_do_not_divide_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(InputError, match="global"):
        resolved(catalogue, "qqp", gpus=3)
