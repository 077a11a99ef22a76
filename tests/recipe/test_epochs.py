"""Steps from epochs, of a task and of pretraining."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.recipe.catalogue import Catalogue, builtin_file, load_catalogue
from bertjobs.recipe.resolve import Resolved, resolve


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue([builtin_file()])


def resolved(catalogue: Catalogue, rows: int | None, *sets: str, nodes: int | None = None) -> Resolved:
    return resolve(catalogue, flags={"recipe": "finetune"}, environ={}, sets=sets, nodes=nodes, training_rows=rows)


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_epochs_do_not_depend_on_the_number_of_ranks(catalogue: Catalogue, nodes: int) -> None:
    run = resolved(catalogue, 1000, nodes=nodes)
    (phase,) = run.spec.phases
    assert run.spec.world_size == nodes
    assert (phase.steps, phase.validate_every, phase.checkpoint_every) == (94, 32, 32)  # 3 x 1,000 / 32, and an epoch
    assert run.provenance["phase1.steps"].origin == "3 epochs of 1,000 sequences / 32"


def test_what_the_user_sets_wins_over_epochs(catalogue: Catalogue) -> None:
    (phase,) = resolved(catalogue, 1000, "phase1.steps=7", "phase1.validate_every=2").spec.phases
    assert (phase.steps, phase.validate_every) == (7, 2)
    (phase,) = resolved(catalogue, 10, "phase1.epochs=0.1").spec.phases
    assert phase.steps == 1


OWN = """
recipes:
  mine:
    system: cpu-node
    model: bert-tiny
    phases:
      1: {global_batch: 32, epochs: 2, lr: 1.0e-3, warmup: 0.1, micro_batch: 8}
      2: {global_batch: 16, steps: 50, lr: 1.0e-3, warmup: 0.1, micro_batch: 8, checkpoint_every: 7}
  both:
    system: cpu-node
    model: bert-tiny
    phases:
      1: {global_batch: 32, epochs: 2, steps: 5, lr: 1.0e-3, warmup: 0.1, micro_batch: 8}
"""


def pretrained(folder: Path, recipe: str, *sets: str, rows: dict[int, int] | None = None) -> Resolved:
    (folder / "own.yml").write_text(OWN)
    files = load_catalogue([builtin_file(), folder / "own.yml"])
    by_phase = {1: 320, 2: 160} if rows is None else rows
    known = by_phase.__getitem__ if by_phase else None
    return resolve(files, flags={"recipe": recipe}, environ={}, sets=sets, training_rows=known)


def test_epochs_of_a_recipe_win_over_the_steps_that_recipes_share(tmp_path: Path) -> None:
    one, two = pretrained(tmp_path, "mine").spec.phases
    assert (one.steps, one.validate_every, one.checkpoint_every) == (20, 10, 200)
    assert (two.steps, two.validate_every, two.checkpoint_every) == (50, 0, 7)


@pytest.mark.parametrize(
    ("recipe", "sets", "steps"),
    [
        ("both", (), 5),  # in the same place, steps
        ("both", ("phase1.epochs=3",), 30),
        ("both", ("phase1.epochs=3", "phase1.steps=4"), 4),
        ("mine", ("phase1.steps=4",), 4),
        ("mine", ("phase1.epochs=0.5",), 5),
        ("mine", ("phase1.epochs=0",), 7038),  # those of NVIDIA's phase 1, which recipes share
    ],
)
def test_the_stronger_of_steps_and_epochs_counts(
    tmp_path: Path, recipe: str, sets: tuple[str, ...], steps: int
) -> None:
    assert pretrained(tmp_path, recipe, *sets).spec.phases[0].steps == steps


def test_the_steps_of_pretraining_are_open_until_its_data_are_known(tmp_path: Path) -> None:
    one, two = pretrained(tmp_path, "mine", "phase1.keep_best=true", rows={}).spec.phases
    assert (one.steps, two.steps) == (0, 50)
    one, _ = pretrained(tmp_path, "mine", "phase1.keep_best=true").spec.phases
    assert one.validate_every == 10


def test_steps_are_open_until_the_data_are_known(catalogue: Catalogue) -> None:
    assert resolved(catalogue, None).spec.phases[0].steps == 0


def test_a_recipe_needs_steps_or_epochs(tmp_path: Path) -> None:
    own = tmp_path / "own.yml"
    phase = "1: {sequence_length: 64, global_batch: 8, lr: 1.0e-4, warmup: 0.1, micro_batch: 8}"
    own.write_text(
        f"recipes:\n  mine:\n    system: laptop\n    model: bert-tiny\n    task: sst2\n    phases:\n      {phase}\n"
    )
    files = load_catalogue([builtin_file(), own])
    with pytest.raises(InputError, match="mine sets neither steps nor epochs for phase 1"):
        resolve(files, flags={"recipe": "mine"}, environ={}, training_rows=10)


def test_punctuation_is_tagged_with_its_published_settings(catalogue: Catalogue) -> None:
    spec = resolve(catalogue, flags={"recipe": "punctuation"}, environ={}, training_rows=12_800).spec
    (phase,) = spec.phases
    assert (spec.task, spec.model.name, spec.precision, spec.world_size) == ("tagging", "bert-large", "fp16", 4)
    assert (phase.sequence_length, phase.rank_batch, phase.global_batch, phase.lr) == (128, 32, 128, 5e-5)
    assert (phase.epochs, phase.steps, phase.warmup) == (10, 1000, 0.1)
