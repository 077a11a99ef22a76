"""What `resume` says about a recipe file that was edited since the run began."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjobs.launch.resume import edit_problems, edits
from bertjobs.launch.start import absolute, write_run
from bertjobs.recipe.catalogue import catalogue_files, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.run.directory import RunDirectory

RECIPE = """\
recipes:
  mine:
    system: cpu-node
    model: bert-tiny
    vocabulary: any
    precision: fp32
    seed: {seed}
    nodes: {nodes}
    data: shards
    optimizer: {{beta1: {beta1}}}
    phases:
      1: {{global_batch: 64, steps: {steps}, lr: 1e-3, micro_batch: {micro}}}
models:
  bert-tiny: {{num_hidden_layers: {layers}}}
"""
AS_IT_WAS = {"seed": 1, "nodes": 1, "beta1": 0.9, "steps": 20, "micro": 16, "layers": 2}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run of the recipe as it was, started with another seed than the recipe's."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, seed=7)
    catalogue = load_catalogue(catalogue_files({}, tmp_path))
    spec = resolve(catalogue, flags={"recipe": "mine", "results": str(tmp_path / "results")}, environ={}).spec
    made = write_run(absolute(spec))
    write(tmp_path, seed=7)
    return made


def write(folder: Path, **changes: object) -> None:
    (folder / "bertjobs.yml").write_text(RECIPE.format(**{**AS_IT_WAS, **changes}))


def test_a_recipe_that_was_not_edited_is_not_mentioned(directory: RunDirectory, tmp_path: Path) -> None:
    assert edits(directory, {}, tmp_path) == []
    assert edit_problems(directory, {}, tmp_path) == []
    (tmp_path / "bertjobs.yml").unlink()
    assert edits(directory, {}, tmp_path) == []


def test_each_edited_setting_is_named_with_both_values(directory: RunDirectory, tmp_path: Path) -> None:
    write(tmp_path, seed=8, nodes=2, beta1=0.95, steps=30, micro=8, layers=4)
    different = {edit.path: (edit.now, edit.of_the_run) for edit in edits(directory, {}, tmp_path)}
    assert different == {
        "seed": (8, 7),
        "nodes": (2, 1),
        "optimizer.beta1": (0.95, 0.9),
        "phase1.steps": (30, 20),
        "phase1.micro_batch": (8, 16),
        "model.num_hidden_layers": (4, 2),
    }


def test_the_warning_says_that_run_yml_wins_and_what_to_type(directory: RunDirectory, tmp_path: Path) -> None:
    write(tmp_path, seed=7, steps=30)
    (problem,) = edit_problems(directory, {}, tmp_path)
    text = problem.render()
    assert text.startswith("warning: your recipe file differs from run.yml, which wins: phase1.steps 30 (the run has")
    assert "bertjobs.yml, line 12: recipes.mine.phases.1.steps" in text
    assert "--set phase1.steps=VALUE" in text
    assert "bertjobs submit --recipe mine --run mine-2" in text


INDIVISIBLE = RECIPE.format(**{**AS_IT_WAS, "nodes": 3})


@pytest.mark.parametrize("text", ["recipes: [", "recipes: {mine: {sytem: x}}", INDIVISIBLE])
def test_a_recipe_that_cannot_be_read_any_more_does_not_stop_a_run(
    directory: RunDirectory, tmp_path: Path, text: str
) -> None:
    (tmp_path / "bertjobs.yml").write_text(text)
    (problem,) = edit_problems(directory, {}, tmp_path)
    assert problem.is_warning
    assert "is continued with its run.yml" in problem.what


def test_a_recipe_that_is_gone_does_not_stop_a_run(directory: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "bertjobs.yml").write_text("recipes: {}\n")
    assert edit_problems(directory, {}, tmp_path) == []
