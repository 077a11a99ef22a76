"""run.yml resolves to exactly the run that it was written for."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertjobs.errors import InputError
from bertjobs.recipe.catalogue import Catalogue, builtin_file, load_catalogue
from bertjobs.recipe.lockfile import difference, lockfile, read_lockfile, recipe_hash, with_phases_of
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec

RECIPES = load_catalogue([builtin_file()]).keys("recipes")


def resolved(catalogue: Catalogue, recipe: str, *sets: str, **flags: object) -> RunSpec:
    return resolve(catalogue, flags={"recipe": recipe, **flags}, sets=sets, environ={}, training_rows=1000).spec


def reread(folder: Path, spec: RunSpec) -> RunSpec:
    (folder / "run.yml").write_text(lockfile(spec), encoding="utf-8")
    return read_lockfile(folder / "run.yml")


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_a_lockfile_alone_reproduces_the_run(tmp_path: Path, catalogue: Catalogue, recipe: str, nodes: int) -> None:
    spec = resolved(catalogue, recipe, nodes=nodes, run="a-name", mounts="/a:/b,/c:/d:ro", image="x#y:z")
    assert reread(tmp_path, spec) == spec


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60, deadline=None
)
@given(
    lr=st.floats(1e-12, 1e3),
    warmup=st.floats(0, 1),
    rank_batch=st.integers(1, 300),
    divisor=st.integers(1, 300),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    phase=st.sampled_from(["1", "2"]),
    data=st.sampled_from(["yes", "1e3", "~", "Bücher/本", "12:30", "#x", "=", "0x1F", "null", "..."]),
)
def test_odd_values_survive(
    tmp_path: Path,
    catalogue: Catalogue,
    lr: float,
    warmup: float,
    rank_batch: int,
    divisor: int,
    name: str,
    phase: str,
    data: str,
) -> None:
    steps = divisor if rank_batch % divisor == 0 else None
    flags = {"lr": lr, "rank_batch": rank_batch, "gradient_steps": steps, "run": name, "data": data}
    spec = resolved(catalogue, "dgx1-16g", f"phase{phase}.warmup={warmup!r}", phase=phase, **flags)
    assert reread(tmp_path, spec) == spec


def test_a_lockfile_over_the_catalogue_wins(tmp_path: Path, catalogue: Catalogue) -> None:
    spec = resolved(catalogue, "dgxa100-80g", "phase1.micro_batch=8", model="bert-nano", precision="bf16")
    (tmp_path / "run.yml").write_text(lockfile(spec))
    again = load_catalogue([builtin_file(), tmp_path / "run.yml"])
    assert resolved(again, "dgxa100-80g") == spec


def test_the_nodes_of_a_locked_run_can_change(tmp_path: Path, catalogue: Catalogue) -> None:
    spec = resolved(catalogue, "dgx1-32g", nodes=4)
    (tmp_path / "run.yml").write_text(lockfile(spec))
    locked = load_catalogue([tmp_path / "run.yml"])
    moved = resolve(locked, flags={"recipe": "dgx1-32g"}, environ={}, nodes=8, tasks_per_node=4).spec
    assert (moved.nodes, moved.tasks_per_node, moved.gpus) == (8, 4, 4)
    assert moved.phase(1).global_batch == 65536
    assert difference(spec, moved) == []


def test_a_lockfile_is_one_plain_recipe(catalogue: Catalogue) -> None:
    content = yaml.safe_load(lockfile(resolved(catalogue, "laptop")))
    assert [list(content[section]) for section in ("systems", "models", "recipes")] == [
        ["laptop"],
        ["bert-minilm-l6"],
        ["laptop"],
    ]


def test_a_file_of_several_recipes_is_not_a_lockfile() -> None:
    with pytest.raises(InputError, match=r"one recipe, but this file has \d+"):
        read_lockfile(builtin_file())


def test_phases_started_one_by_one_come_together(catalogue: Catalogue) -> None:
    first = resolved(catalogue, "laptop", phase="1")
    second = resolved(catalogue, "laptop", phase="2")
    assert with_phases_of(second, first) == resolved(catalogue, "laptop")
    assert with_phases_of(second, second) == second


@pytest.mark.parametrize(
    ("sets", "changed"),
    [
        (["phase1.lr=0.5"], ["phase1.lr"]),
        (["precision=bf16", "seed=1"], ["precision", "seed"]),
        (["optimizer.beta1=0.8"], ["optimizer.beta1"]),
        (["phase2.global_batch=8"], ["phase2.global_batch"]),
        (["model=bert-tiny"], ["model.hidden_size", "model.num_hidden_layers"]),
        (["init_checkpoint=/x"], ["init_checkpoint"]),
        (["vocabulary=any"], ["vocabulary"]),
        (["next_sentence=false"], ["next_sentence"]),
    ],
)
def test_decisive_settings_tell_runs_apart(catalogue: Catalogue, sets: list[str], changed: list[str]) -> None:
    spec, other = resolved(catalogue, "laptop"), resolved(catalogue, "laptop", *sets)
    differences = difference(spec, other)
    assert set(changed) <= set(differences)
    assert sets[0].startswith("model=") or set(differences) == set(changed)
    phases = {int(name[5]) for name in changed if name.startswith("phase")} or {1, 2}
    for phase in (1, 2):
        assert (recipe_hash(spec, phase) != recipe_hash(other, phase)) == (phase in phases)


@pytest.mark.parametrize(
    "sets",
    [
        ["nodes=2"],
        ["gpus=1"],
        ["phase1.micro_batch=2", "phase2.gradient_steps=4"],
        ["results=/elsewhere", "data=/moved", "image=x.sqsh", "mounts=a:b", "run=other"],
        ["phase1.checkpoint_every=1", "phase1.validate_every=7", "steps_this_run=3", "num_workers=0"],
    ],
)
def test_other_settings_do_not_tell_runs_apart(catalogue: Catalogue, sets: list[str]) -> None:
    spec, other = resolved(catalogue, "laptop"), resolved(catalogue, "laptop", *sets)
    assert spec != other
    assert difference(spec, other) == []
    assert [recipe_hash(spec, n) for n in (1, 2)] == [recipe_hash(other, n) for n in (1, 2)]


def test_a_vocab_size_filled_in_later_makes_no_difference(catalogue: Catalogue) -> None:
    spec = resolved(catalogue, "laptop-scratch")
    filled = replace(spec, model=replace(spec.model, vocab_size=5000))
    assert difference(spec, filled) == []
    assert recipe_hash(spec, 1) == recipe_hash(filled, 1)
    assert len(recipe_hash(spec, 1)) == 64


def test_a_phase_of_one_run_only_is_not_compared(catalogue: Catalogue) -> None:
    one, both = resolved(catalogue, "laptop", phase="1"), resolved(catalogue, "laptop")
    assert difference(one, both) == []
    assert recipe_hash(one, 1) == recipe_hash(both, 1)
    with pytest.raises(KeyError):
        recipe_hash(one, 2)


HASHES = {
    "dgx1-16g": ("7287cba78cb893eb", "4d3c49744fa06563"),
    "dgx1-32g": ("7287cba78cb893eb", "4d3c49744fa06563"),
    "dgx2-32g": ("7287cba78cb893eb", "4d3c49744fa06563"),
    "dgxa100-40g": ("a29ec229a4cd3e8e", "eb061320a9fbf419"),
    "dgxa100-80g": ("7287cba78cb893eb", "4d3c49744fa06563"),
    "dgxh100-80g": ("a29ec229a4cd3e8e", "eb061320a9fbf419"),
    "h200": ("a29ec229a4cd3e8e", "eb061320a9fbf419"),
    "laptop": ("9fdc1bf05cbe9b43", "4b0c9792070654d6"),
    "laptop-scratch": ("9a09f13cf0707878", "18a88265e1af3a0b"),
    "laptop-masked": ("c481f979ccc9c183",),
}
"""The recipe hash of each phase, its beginning. Runs that exist have them in DONE.json: another one ends them."""


@pytest.mark.parametrize("recipe", HASHES)
def test_the_hash_of_a_recipe_never_changes(catalogue: Catalogue, recipe: str) -> None:
    spec = resolved(catalogue, recipe)
    assert tuple(recipe_hash(spec, phase.phase)[:16] for phase in spec.phases) == HASHES[recipe]


def test_a_run_yml_of_an_earlier_version_is_read(catalogue: Catalogue, tmp_path: Path) -> None:
    file = Path(__file__).with_name("run.yml")
    spec = read_lockfile(file)
    given = resolved(
        catalogue, "laptop", "optimizer.beta2=0.98", "phase2.gradient_steps=4", run="before", mounts="/a:/b:ro"
    )
    assert spec == given
    assert recipe_hash(spec, 1).startswith("b73ec69b9bafcf8d")
    assert recipe_hash(spec, 2).startswith("7e2938061d5d696b")
    content = yaml.safe_load(file.read_text())
    del content["recipes"]["laptop"]["hang_timeout_s"]  # from before this was a setting
    (tmp_path / "older.yml").write_text(yaml.safe_dump(content))
    assert read_lockfile(tmp_path / "older.yml") == given
