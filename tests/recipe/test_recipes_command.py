"""`bertjobs recipes` and the arguments that plan and submit share."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bertjobs.cli import arguments as shared
from bertjobs.cli import recipes
from bertjobs.errors import InputError
from bertjobs.recipe.catalogue import builtin_file
from bertjobs.recipe.schema import SETTINGS


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    recipes.register(parser.add_subparsers())
    args = parser.parse_args(["recipes", *words])
    return int(args.handler(args))


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    shared.add_recipe_arguments(parser)
    return parser.parse_args(words)


def test_the_list_has_every_recipe_with_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    (line,) = [line for line in lines if line.startswith("dgx2-32g")]
    for part in ("V100-SXM3-32GB", " 16 ", "fp16", "bert-large", "65536, 32768", "DGX-2"):
        assert part in line
    assert len([line for line in lines if "bert-" in line]) == 10


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 0
    rows = {row["recipe"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["dgxa100-80g"]["global_batches"] == [65536, 32768]
    assert rows["laptop"]["gpus_per_node"] == 0


def test_one_recipe_shows_the_published_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "dgxa100-80g") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["1", "8", "fp16", "8192/32", "4096/128"] in rows
    assert ["32", "256", "fp16", "256/1", "128/4"] in rows
    assert ["32", "256", "tf32", "256/2", "128/8"] in rows
    assert ["1", "128", "20", "65536", "7038", "0.006", "0.2843"] in rows


@pytest.mark.parametrize("words", [("show", "dgx1-16g", "--json"), ("--json", "show", "dgx1-16g")])
def test_one_recipe_as_json(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert run(*words) == 0
    shown = json.loads(capsys.readouterr().out)
    row = next(r for r in shown["nodes"] if (r["nodes"], r["precision"]) == (4, "fp16"))
    assert row["world_size"] == 32
    assert row["phases"][0] == {"phase": 1, "rank_batch": 2048, "gradient_steps": 128, "micro_batch": 16}


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'laptop'") as error:
        run("show", "lptop")
    assert error.value.exit_code == 64


def test_a_recipe_file_of_the_user_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.yml"
    own.write_text("recipes: {mine: {system: laptop, model: bert-tiny, phases: {1: {micro_batch: 8}}}}")
    assert run("--recipes", str(own)) == 0
    assert "mine" in capsys.readouterr().out
    assert run("--recipes", str(own), "show", "mine") == 0
    (tmp_path / "bertjobs.yml").write_text(own.read_text().replace("mine", "beside"))
    assert run() == 0
    assert "beside" in capsys.readouterr().out


def test_one_recipe_that_cannot_be_resolved_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.yml"
    own.write_text("recipes: {odd: {system: h200, phases: {1: {global_batch: 100}}}}")
    assert run("--recipes", str(own)) == 0
    printed = capsys.readouterr()
    assert "laptop-scratch" in printed.out
    assert "odd " not in printed.out
    assert "recipe odd" in printed.err


def test_every_flag_of_the_schema_is_accepted_and_resolved() -> None:
    words = ["--recipe", "dgx1-32g", "--nodes", "4", "--phase", "1", "--batchsize", "64", "--lr", "1e-3"]
    words += ["--gradient-steps", "2", "--precision", "fp32", "--data", "/d", "--set", "seed=3"]
    words += ["--set", "phase1.steps=5"]
    spec = shared.resolve_arguments(arguments(*words), {"SEED": "9", "RESULTS": "/r"}).spec
    phase = spec.phase(1)
    assert (phase.global_batch, phase.micro_batch, phase.lr, phase.steps) == (64 * 32, 32, 1e-3, 5)
    assert (spec.precision, spec.data, spec.results, spec.seed) == ("fp32", "/d", "/r", 3)
    every = [word for s in SETTINGS if s.flag for word in (s.flag, "x")]
    assert {f"setting_{s.key}" for s in SETTINGS if s.flag} <= vars(arguments(*every)).keys()


def test_a_bad_flag_value_is_an_input_error() -> None:
    with pytest.raises(InputError, match="flag --nodes"):
        shared.resolve_arguments(arguments("--recipe", "laptop", "--nodes", "two"), {})


def test_a_value_is_named_for_what_it_is() -> None:
    parser = argparse.ArgumentParser()
    shared.add_recipe_arguments(parser)
    metavars = {action.dest.removeprefix("setting_"): action.metavar for action in parser._actions}
    for setting in SETTINGS:
        if setting.kind == "switch" and setting.flag:
            assert metavars[setting.key] == "true|false"
    assert metavars["phase"] == "PHASE"
    assert metavars["loss_normalization"] == "global|seed"
    text = parser.format_help()
    for setting in SETTINGS:
        if setting.listed:
            assert f"[{setting.env}]" in text if setting.env else setting.flag in text


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, bertjobs.cli.recipes; early = 'yaml' in sys.modules;"
        "import bertjobs.recipe.resolve, bertjobs.recipe.lockfile;"
        "print(early, {'torch', 'numpy', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=builtin_file().parent
    )
    assert done.stdout.strip() == "False set()"
