"""A setting is written once: every other place is derived from its field, and the reference explains it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import bertjobs
from bertjobs.errors import InputError
from bertjobs.recipe import reference
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.schema import SETTINGS, Setting
from tests.conftest import Bertjobs
from tests.hermetic import SETTINGS as OURS

ROOT = Path(__file__).parents[2]
ALL = [setting for section in reference.SECTIONS for setting in section.settings.values()]
NEW_FIELDS = {
    ("data.py", "    data: Annotated["): """\
    patience: Annotated[
        int,
        Setting("bad validations before the run stops", unit="validations", env="PATIENCE", minimum=1, example="3"),
    ] = 7
""",
    ("phase.py", "    checkpoint_every: Annotated["): """\
    cooldown: Annotated[
        float, Setting("part of the steps after the last warm restart", unit="share", decisive=True, maximum=1)
    ] = 0.25
""",
}
"""The file in recipe/settings/ and the line in it that a new field goes before -> the field."""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which two fields were added to two specs, and nothing else was changed."""
    folder = tmp_path_factory.mktemp("extended")
    package = Path(bertjobs.__file__).parent
    shutil.copytree(package, folder / "bertjobs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(builtin_file(), folder / "configurations.yml")
    shutil.copy(ROOT / "run.sub", folder / "run.sub")
    for (name, line), field in NEW_FIELDS.items():
        file = folder / "bertjobs" / "recipe" / "settings" / name
        text = file.read_text()
        assert text.count(line) == 1
        file.write_text(text.replace(line, field + line))
    (folder / "own.yml").write_text("recipes: {laptop-scratch: {patience: 2, phases: {1: {cooldown: 0.5}}}}\n")
    return folder


def in_copy(folder: Path, *words: str, **environ: str) -> str:
    """What the copy prints, run with these arguments of `python`."""
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    clean |= {"PYTHONPATH": str(folder), "XDG_CONFIG_HOME": str(folder), "PATH": str(folder), **environ}
    done = subprocess.run(
        [sys.executable, "-P", *words], cwd=folder, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def planned(folder: Path, *words: str, **environ: str) -> dict[str, Any]:
    words = ("-m", "bertjobs", "plan", "--recipe", "laptop-scratch", "--backend", "slurm", "--json", *words)
    provenance = json.loads(in_copy(folder, *words, **environ))["provenance"]
    return {key: tuple(provenance[key].values()) for key in ("patience", "phase1.cooldown", "phase2.cooldown")}


def test_a_new_field_is_read_from_every_layer_and_planned(extended: Path) -> None:
    assert planned(extended) == {
        "patience": (7, "default"),
        "phase1.cooldown": (0.25, "default"),
        "phase2.cooldown": (0.25, "default"),
    }
    file = ("--recipes", "own.yml")
    assert planned(extended, *file)["patience"] == (2, "own.yml: recipes.laptop-scratch")
    assert planned(extended, *file)["phase1.cooldown"] == (0.5, "own.yml: recipes.laptop-scratch.phases.1")
    assert planned(extended, *file, PATIENCE="4")["patience"] == (4, "environment PATIENCE")
    sets = ("--set", "patience=5", "--set", "phase2.cooldown=0.75")
    assert planned(extended, *file, *sets, PATIENCE="4")["patience"] == (5, "flag --set patience")
    assert planned(extended, *file, *sets)["phase2.cooldown"] == (0.75, "flag --set phase2.cooldown")
    assert planned(extended, *sets, "--patience", "6")["patience"] == (6, "flag --patience")


def test_a_new_field_is_in_the_lockfile_and_the_hash(extended: Path) -> None:
    code = """
from dataclasses import replace
from pathlib import Path
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import difference, lockfile, read_lockfile
from bertjobs.recipe.resolve import resolve
sets = ("patience=5", "phase2.cooldown=0.75")
spec = resolve(load_catalogue([builtin_file()]), flags={"recipe": "laptop"}, environ={}, sets=sets).spec
Path("locked.yml").write_text(lockfile(spec))
assert read_lockfile("locked.yml") == spec, "it does not come back"
changed = replace(spec, patience=1, phases=tuple(replace(phase, cooldown=1.0) for phase in spec.phases))
print(difference(spec, changed))
"""
    assert in_copy(extended, "-c", code).strip() == "['phase1.cooldown', 'phase2.cooldown']"
    recipe = yaml.safe_load((extended / "locked.yml").read_text())["recipes"]["laptop"]
    assert recipe["patience"] == 5
    assert recipe["phases"][2]["cooldown"] == 0.75


def test_a_new_field_is_in_the_reference(extended: Path) -> None:
    page = in_copy(extended, "-m", "bertjobs", "recipes", "settings", "--markdown")
    cells = ["`patience`", "bad validations before the run stops", "validations", "`7`", "a whole number of at least 1"]
    assert "| " + " | ".join([*cells, "`3`", "`--patience`", "`PATIENCE`", ""]) + " |" in page
    assert "| `cooldown` | part of the steps after the last warm restart | share | `0.25` |" in page
    assert "--set phase1.cooldown=0.25" in in_copy(extended, "-m", "bertjobs", "recipes", "settings", "cooldown")
    assert "--patience" not in in_copy(extended, "-m", "bertjobs", "plan", "--help"), "help lists only what people use"


def test_the_page_is_generated_from_the_fields() -> None:
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == reference.markdown(), "update it: make docs-settings"


@pytest.mark.parametrize("setting", ALL, ids=lambda setting: setting.path)
def test_a_setting_is_explained(setting: Setting) -> None:
    text = reference.example_text(setting)
    assert text
    value = yaml.safe_load(f"{setting.key}: {text}")[setting.key]
    setting.parse(value, "the example")
    assert setting.help
    assert not setting.help.endswith(".")
    assert setting in reference.find(setting.path)
    assert f"{setting.path}: {setting.help}" in reference.detail(setting)
    assert f"\n  {setting.key} " in reference.table(100)
    if setting.env:
        assert setting in reference.find(setting.env)


def test_every_key_of_the_catalogue_is_explained() -> None:
    content = yaml.safe_load(builtin_file().read_text())

    def keys(entry: dict[Any, Any]) -> Iterator[str]:
        for key, value in entry.items():
            if key in ("optimizer", "phases", 1, 2):
                yield from keys(value)
            else:
                yield key

    used = {key for entries in content.values() for entry in entries.values() for key in keys(entry)}
    assert {"micro_batch", "warmup", "sha256", "hidden_size", "gpu", "checkpoint_every"} <= used
    assert used <= {setting.key for setting in ALL}


def test_the_example_file_is_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "own.yml").write_text(reference.EXAMPLE)
    flags = {"recipe": "ours", "nodes": 2}
    spec = resolve(load_catalogue([builtin_file(), tmp_path / "own.yml"]), flags=flags, environ={}).spec
    assert (spec.world_size, spec.phase(1).rank_batch, spec.optimizer.weight_decay) == (8, 2048, 0.02)


@pytest.mark.parametrize(
    ("word", "paths"),
    [
        ("lr", ["phaseN.lr"]),
        ("phase1.lr", ["phaseN.lr"]),
        ("recipes.mine.phases.2.lr", ["phaseN.lr"]),
        ("BATCHSIZE", ["phaseN.rank_batch"]),
        ("--loss-scale", ["loss_scale"]),
        ("loss-scale", ["loss_scale"]),
        ("recipes.mine.description", ["description"]),
        ("models.bert-base.hidden_size", ["model.hidden_size"]),
        ("tasks_per_node", ["tasks_per_node", "system.tasks_per_node"]),
        ("systems.ours.tasks_per_node", ["system.tasks_per_node"]),
    ],
)
def test_a_setting_is_found_by_its_names(word: str, paths: list[str]) -> None:
    assert [setting.path for setting in reference.find(word)] == paths


@pytest.mark.parametrize(
    ("word", "hint"), [("checkpoint_evry", "'checkpoint_every'"), ("LRR", "'LR'"), ("optimizer.lr", "'lr'"), ("", "")]
)
def test_an_unknown_setting_names_the_nearest(word: str, hint: str) -> None:
    with pytest.raises(InputError, match="unknown setting") as error:
        reference.find(word)
    assert hint in str(error.value.hint)


def test_the_command_explains_one_or_all(bertjobs: Bertjobs) -> None:
    one = bertjobs("recipes", "settings", "checkpoint_every")
    assert one.returncode == 0
    for part in (
        "optimizer steps",
        "default",
        "200",
        "--set phase1.checkpoint_every=500",
        "a whole number of at least",
    ):
        assert part in one.stdout
    table = bertjobs("recipes", "settings", environ={"COLUMNS": "100"}).stdout
    assert {setting.key for setting in ALL} <= set(table.split())
    assert max(map(len, table.splitlines())) <= 100
    rows = json.loads(bertjobs("recipes", "settings", "--json").stdout)
    assert [row["key"] for row in rows] == [setting.path for setting in ALL]
    assert bertjobs("recipes", "settings", "--markdown").stdout == reference.markdown()
    unknown = bertjobs("recipes", "settings", "wieght_decay")
    assert unknown.returncode == 64
    assert "did you mean 'weight_decay'?" in unknown.stderr


@pytest.mark.parametrize("verb", ["submit", "plan"])
def test_help_fits_a_screen(bertjobs: Bertjobs, verb: str) -> None:
    text = bertjobs(verb, "--help", environ={"COLUMNS": "80"}).stdout
    assert len(text.splitlines()) <= 45
    assert "`bertjobs recipes settings [KEY]`" in text
    listed = set(re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE))
    settings = {setting.flag for setting in SETTINGS if setting.listed}
    assert {"--recipe", "--run", "--phase", "--nodes", "--gpus", "--precision", "--data", "--results"} <= settings
    assert settings <= listed
    assert not {setting.flag for setting in SETTINGS if not setting.listed} & listed
    assert "1|2" not in text


def test_flags_that_help_does_not_list_are_accepted(bertjobs: Bertjobs) -> None:
    words = ["--recipe", "laptop", "--backend", "local", "--unpad", "false", "--keep-checkpoints", "5", "--json"]
    provenance = json.loads(bertjobs("plan", *words).stdout)["provenance"]
    assert provenance["unpad"] == {"value": False, "from": "flag --unpad"}
    assert provenance["keep_checkpoints"] == {"value": 5, "from": "flag --keep-checkpoints"}
