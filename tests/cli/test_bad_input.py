"""Bad input to `bertjobs submit`: one clear error, its exit code, nothing queued, nothing written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import Bertjobs


@pytest.fixture
def no_slurm(tmp_path: Path) -> dict[str, str]:
    """A PATH without sbatch."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return {"PATH": str(folder)}


@pytest.fixture
def refused(inside: Bertjobs, no_slurm: dict[str, str], tmp_path: Path, speeches_data: Path):
    """Checks that a submit is refused with 64, names all of the parts, and leaves this folder as it was."""

    def check(*arguments: object, says: tuple[str, ...], environ: dict[str, str] | None = None, data: object = None):
        before = sorted(tmp_path.rglob("*"))
        words = ["--recipe", "laptop-scratch"] if "--recipe" not in arguments else []
        data_words = ["--data", data or speeches_data]
        done = inside("submit", *words, *data_words, *arguments, environ={**no_slurm, **(environ or {})})
        assert done.returncode == 64, done.stdout + done.stderr
        assert done.stderr.startswith("error: ")
        for part in says:
            assert part in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert sorted(tmp_path.rglob("*")) == before

    return check


def test_an_unknown_recipe(refused) -> None:
    refused("--recipe", "laptop-scrath", says=("unknown recipe 'laptop-scrath'", "'laptop-scratch'"))


def test_an_unknown_key(refused) -> None:
    refused("--set", "phase1.stesp=3", says=("unknown key 'phase1.stesp'", "'steps'"))


def test_yaml_that_does_not_parse(refused, tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text("recipes:\n  mine: {system: [laptop\n")
    refused("--recipes", file, says=("mine.yml", "line "))


def test_all_mistakes_of_a_recipe_file(refused, tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text("recipes:\n  mine:\n    sytem: laptop\n    seed: x\n    phases: {1: {warmup: 2}}\n")
    places = ("line 3: recipes.mine.sytem", "line 4: recipes.mine.seed", "line 5: recipes.mine.phases.1.warmup")
    refused("--recipes", file, says=("did you mean 'system'?", *(f"{file}, {place}" for place in places)))


def test_a_line_that_is_indented_wrongly(refused, tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text("recipes:\n  mine:\n    system: laptop\n   model: bert-tiny\n")
    refused("--recipes", file, says=("line 4 is indented by 3 spaces, but the keys above it by 0, 2 and 4",))


def test_a_global_batch_that_the_world_size_does_not_divide(refused) -> None:
    refused("--nodes", 3, says=("64", "3", "hint"))


def test_batchsize_not_divisible_by_gradient_steps(refused) -> None:
    refused(environ={"BATCHSIZE": "32", "GRADIENT_STEPS": "5", "PHASE": "1"}, says=("32", "5", "GRADIENT_STEPS"))


def test_phase_3(refused) -> None:
    refused(environ={"PHASE": "3"}, says=("no phase 3", "its phases: 1, 2"))


def test_a_missing_data_folder(refused, tmp_path: Path) -> None:
    refused(data=tmp_path / "nothing", says=("does not exist", "bertjobs data prepare"))


def test_an_empty_data_folder(refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(data=tmp_path / "empty", says=("is empty",))


def test_a_half_written_data_folder(refused, speeches_data: Path, tmp_path: Path) -> None:
    shutil.copytree(speeches_data, tmp_path / "half")
    (tmp_path / "half" / "MANIFEST.json").unlink()
    refused(data=tmp_path / "half", says=("half-written",))


def test_a_shard_that_is_missing(refused, speeches_data: Path, tmp_path: Path) -> None:
    shutil.copytree(speeches_data, tmp_path / "lost")
    (tmp_path / "lost" / "phase1" / "train" / "shard-0.safetensors_1").unlink()
    refused(data=tmp_path / "lost", says=("shard-0.safetensors_1", "missing"))


def test_shards_of_another_vocabulary(refused) -> None:
    refused("--recipe", "laptop", says=("made with another vocabulary", "07eced375cec"))


@pytest.mark.parametrize("kind", ["a file", "a read-only file system"])
def test_a_results_folder_that_cannot_be_written(refused, tmp_path: Path, kind: str) -> None:
    if kind == "a file":
        (tmp_path / "file").write_text("")
        refused("--results", tmp_path / "file" / "results", says=("cannot be written", str(tmp_path / "file")))
    else:
        refused("--results", "/proc/results", says=("cannot be written", "/proc"))


def test_a_run_name_that_exists(refused, tmp_path: Path) -> None:
    (tmp_path / "results" / "laptop-scratch").mkdir(parents=True)
    (tmp_path / "results" / "laptop-scratch" / "run.yml").write_text("")
    refused(says=("a run named 'laptop-scratch' exists", "bertjobs resume laptop-scratch"))


HOSTILE = ["a b", "a'b", 'a"b', "a\nb", "$(touch x)", "`id`", "a;b", "a,b", "a%jb", "a\\b", "a&b", "*"]


@pytest.mark.parametrize("name", [*HOSTILE, "../up", "-n", "."])
def test_a_hostile_run_name(refused, name: str) -> None:
    refused(f"--run={name}", says=("run",))


@pytest.mark.parametrize("path", ["a\nb", "a\x1b[2Jb", "a\u202eb", "a\\b"])
@pytest.mark.parametrize("setting", ["results", "data", "init-checkpoint"])
def test_a_path_that_no_script_could_hold(refused, setting: str, path: str) -> None:
    refused(f"--{setting}={path}", says=(setting.replace("-", "_"), "not allowed in a path"))


def test_a_working_directory_that_no_script_could_hold(
    inside: Bertjobs, no_slurm: dict[str, str], tmp_path: Path, speeches_data: Path
) -> None:
    folder = tmp_path / "my\nruns"
    folder.mkdir()
    done = inside("submit", "--recipe", "laptop-scratch", "--data", speeches_data, environ=no_slurm, cwd=folder)
    assert done.returncode == 64
    assert "my\\nruns" in done.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("path", ["a b", "a:b", "a,b", "it's", "$(touch x)", "a%j"])
def test_a_container_cannot_mount_what_pyxis_cannot_write(refused, tmp_path: Path, path: str) -> None:
    words = ("--backend", "slurm", "--image", "nvcr.io#nvidia/pytorch:26.01-py3", f"--results={tmp_path}/{path}")
    refused(*words, says=(f"results: {f'{tmp_path}/{path}'!r} cannot be mounted", "it contains"))


def test_sbatch_is_missing(refused) -> None:
    refused("--backend", "slurm", says=("sbatch was not found", "--backend local"))


def test_a_gpu_recipe_without_slurm(refused) -> None:
    refused("--recipe", "dgx1-32g", says=("sbatch was not found",))


def test_an_initial_checkpoint_that_does_not_exist(refused, tmp_path: Path) -> None:
    refused("--init-checkpoint", tmp_path / "nowhere", says=("config.json of the initial checkpoint",))


def test_an_initial_checkpoint_of_another_shape(refused, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 256}))
    refused("--init-checkpoint", folder, says=("hidden_size 256", "bert-tiny has 128"))


def test_an_initial_checkpoint_that_is_truncated(refused, tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    os.truncate(folder / "model.safetensors", 100_000)
    refused("--init-checkpoint", folder, says=("weights cannot be read", "model.safetensors"))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, speeches_data: Path) -> Path:
    """A bert-tiny as a Hugging Face folder."""
    from dataclasses import replace

    from bertjobs.model.bert import BertForPreTraining
    from bertjobs.model.huggingface import save_pretrained
    from bertjobs.recipe.catalogue import builtin_file, load_catalogue

    spec = replace(load_catalogue([builtin_file()]).model("bert-tiny", "test"), vocab_size=2000)
    folder = tmp_path_factory.mktemp("weights")
    save_pretrained(BertForPreTraining(spec), speeches_data / "vocab.txt", folder, lowercase=True)
    return folder
