"""What is checked before anything is queued: every problem at once."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.manifest_form import hashed_text
from bertjobs.errors import InputError, InputErrors
from bertjobs.launch.plan.preflight import (
    Circumstances,
    after_problems,
    check_backend,
    check_init_checkpoint,
    check_teacher,
    data_problems,
    epoch_problems,
    inspect,
    preflight,
    torch_problems,
)
from bertjobs.launch.plan.queue import Queue
from bertjobs.launch.plan.resources import (
    held_bytes,
    results_problems,
)
from bertjobs.launch.start import write_run
from bertjobs.recipe.lockfile import decisive_settings, lockfile, recipe_hash
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.checkpoints import seal
from bertjobs.run.directory import Done, RunDirectory
from bertjobs.run.settings import check_unchanged
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.start_estimate import StartEstimate
from tests.launch.conftest import Tool
from tests.launch.plan.runs import PARTITIONS, resolved, words

NO_SLURM = Slurm({"PATH": ""})


@pytest.fixture
def spec(tmp_path: Path, speeches_data: Path) -> RunSpec:
    """A run without problems."""
    enough = "phase1.steps=40"  # all of the text is read
    return resolved("laptop-scratch", enough, data=str(speeches_data), results=str(tmp_path / "results"))


def test_a_run_without_problems(spec: RunSpec, tmp_path: Path) -> None:
    before = list(tmp_path.iterdir())
    data, warnings = preflight(spec, "local", NO_SLURM)
    assert data.folder == Path(spec.data)
    assert warnings == []
    assert list(tmp_path.iterdir()) == before


def test_all_problems_are_reported_at_once(spec: RunSpec, tmp_path: Path, speeches_data: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(speeches_data, data)
    next((data / "phase1" / "train").glob("*")).unlink()
    next((data / "phase2" / "validation").glob("*")).write_bytes(b"")
    (tmp_path / "results" / "laptop-scratch").mkdir(parents=True)
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("[1]")
    spec = replace(
        spec, data=str(data), masking="static", vocabulary="0" * 64, init_checkpoint=str(weights),
        image=str(tmp_path / "image.sqsh"), mounts=("/nosuch:/x",),
    )  # fmt: skip
    with pytest.raises(InputErrors) as caught:
        preflight(spec, "slurm", NO_SLURM)
    assert caught.value.exit_code == 64
    text = caught.value.render()
    for part in (
        "the run's folder exists: laptop-scratch",
        "sbatch was not found",
        "made with another vocabulary",
        "masking is static",
        "is missing",
        "has 0 bytes, the manifest says",
        "config.json of the initial checkpoint cannot be read",
        "the image cannot be read",
        "there is nothing to mount at /nosuch",
    ):
        assert text.count(part) == 1, part
    assert text.count("error: ") == 9
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


def test_a_single_problem_is_an_ordinary_error(spec: RunSpec, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist") as caught:
        preflight(replace(spec, data=str(tmp_path / "nowhere")), "local", NO_SLURM)
    assert type(caught.value) is InputError
    assert caught.value.hint


def test_data_without_pairs_are_refused_where_next_sentences_are_predicted(
    spec: RunSpec, speeches_data: Path, tmp_path: Path
) -> None:
    """With both remedies; pairs suit a run that predicts masked words alone."""
    data = tmp_path / "data"
    shutil.copytree(speeches_data, data)
    assert preflight(replace(spec, next_sentence=False, data=str(data)), "local", NO_SLURM)[1] == []
    content = json.loads((data / "MANIFEST.json").read_text())
    content["settings"] |= {"next_sentence": False, "across_documents": False}
    (data / "MANIFEST.json").write_text(hashed_text(content))
    with pytest.raises(InputError) as caught:
        preflight(replace(spec, data=str(data)), "local", NO_SLURM)
    for part in ("without next-sentence pairs", "--set next_sentence=false", "without --no-next-sentence", str(data)):
        assert part in caught.value.render()
    assert preflight(replace(spec, next_sentence=False, data=str(data)), "local", NO_SLURM)[1] == []


def test_data_read_too_often_are_a_warning(spec: RunSpec) -> None:
    data = DataManifest.read(spec.data)
    rows = data.training_sequences(1)
    often = replace(spec, phases=(replace(spec.phases[0], steps=rows * 41, global_batch=1),))
    enough = replace(spec, phases=(replace(spec.phases[0], steps=rows * 40, global_batch=1),))
    assert epoch_problems(enough, data) == []
    (problem,) = epoch_problems(often, data)
    assert problem.is_warning
    assert "reads its text 41 times" in problem.what
    assert f"phase1.steps={40 * rows}" in str(problem.hint)
    assert problem.render().startswith("warning: ")
    assert preflight(often, "local", NO_SLURM)[1] == [problem]


def test_data_of_which_a_part_is_never_read_are_a_warning(spec: RunSpec) -> None:
    data = DataManifest.read(spec.data)
    rows = data.training_sequences(1)
    few = replace(spec, phases=(replace(spec.phases[0], steps=1, global_batch=rows // 2),))
    (problem,) = epoch_problems(few, data)
    assert problem.is_warning
    assert problem.what.startswith("phase 1 reads 50.0% of its text")
    assert f"phase1.steps={2 + rows % 2} would read it once" in str(problem.hint)
    assert epoch_problems(replace(few, init_checkpoint="/lustre/bert"), data) == []
    second = replace(few.phases[0], phase=2)
    assert epoch_problems(replace(few, phases=(second,)), data) == [], "phase 1 has read it"


def test_each_document_counts_once_however_often_the_shards_hold_it(spec: RunSpec) -> None:
    data = DataManifest.read(spec.data)
    assert data.settings["duplicates"] == 1
    fivefold = replace(data, settings={**data.settings, "duplicates": 5})
    rows = data.training_sequences(1)
    phase = replace(spec.phases[0], steps=rows * 9, global_batch=1)
    (problem,) = epoch_problems(replace(spec, phases=(phase,)), fivefold)
    assert "reads its text 45 times" in problem.what
    assert epoch_problems(replace(spec, phases=(replace(phase, steps=rows // 5 + 1),)), fivefold) == []


def test_shards_that_may_be_bad_are_not_checked(spec: RunSpec, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(spec.data, data)
    next((data / "phase1" / "train").glob("*")).unlink()
    assert len(data_problems(replace(spec, data=str(data)))[1]) == 1
    assert data_problems(replace(spec, data=str(data), on_bad_shard="skip"))[1] == []


def test_a_model_with_too_few_tokens_is_reported_too(spec: RunSpec) -> None:
    problems = data_problems(replace(spec, model=replace(spec.model, vocab_size=100)))[1]
    assert "has 100 tokens" in words(problems)


def test_gpus_that_the_installed_torch_has_no_code_for_are_a_warning() -> None:
    (problem,) = torch_problems(resolved("dgx1-16g"), "2.13.0+cu130")
    assert problem.is_warning
    assert problem.what == "this environment's torch has no code for V100-SXM2-16GB: the run would end with code 64"
    assert "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126" in str(problem.hint)
    assert torch_problems(resolved("dgx1-16g"), "2.13.0+cu126") == []
    assert torch_problems(resolved("dgx1-16g", image="nvcr.io#nvidia/pytorch"), "2.13.0+cu130") == []
    assert torch_problems(resolved("dgx1-16g", gpus=0), "2.13.0+cu130") == []
    assert torch_problems(resolved("h200"), "2.13.0+cu130") == []


def test_a_local_run_is_not_checked_against_the_queue(spec: RunSpec) -> None:
    queue = Queue("nosuch", "", PARTITIONS, StartEstimate(refusal="x"))
    assert preflight(spec, "local", NO_SLURM, Circumstances(queue))[1] == []


class AnsweringSlurm(Slurm):
    """A stand-in that reports these states; tests/cluster/test_after.py asks the real Slurm."""

    def __init__(self, **states: str):
        super().__init__({"PATH": ""})
        self._states = {name.removeprefix("job"): state for name, state in states.items()}

    def states(self, jobs: Sequence[str]) -> tuple[dict[str, str], str]:
        wanted = {job.split("_")[0] for job in jobs}
        return {name: state for name, state in self._states.items() if name.split("_")[0] in wanted}, "sacct"


def test_jobs_to_wait_for() -> None:
    slurm = AnsweringSlurm(job7="RUNNING", job8="COMPLETED", job9_0="COMPLETED", job9_1="PENDING", job10="FAILED")
    awaited, problems = after_problems(["7", "8", "9", "10", "9_0", "11", "1"], "slurm", slurm)
    assert awaited == ["7", "9"]
    assert [problem.what for problem in problems] == ["Slurm does not know job 11", "Slurm does not know job 1"]
    assert after_problems([], "local", slurm) == ([], [])
    (problem,) = after_problems(["7"], "local", slurm)[1]
    assert "cannot wait" in problem.what


def test_data_that_a_job_will_make_are_a_warning_and_wrong_data_stay_an_error(spec: RunSpec, tmp_path: Path) -> None:
    (problem,) = data_problems(replace(spec, data=str(tmp_path / "later")), ["7", "9"])[1]
    assert problem.is_warning
    assert "does not exist" in problem.what
    assert "waits for jobs 7, 9" in str(problem.hint)

    half = tmp_path / "half"
    shutil.copytree(spec.data, half)
    next((half / "phase1" / "train").glob("*")).unlink()
    half_problems = data_problems(replace(spec, data=str(half), masking="static"), ["7"])[1]
    assert [problem.is_warning for problem in half_problems] == [False, True]
    assert "masking is static" in half_problems[0].what

    data, all_problems = inspect(
        replace(spec, data=str(tmp_path / "later")), "slurm", AnsweringSlurm(job7="PENDING"), Circumstances(after=["7"])
    )
    assert data is None
    errors = [problem for problem in all_problems if not problem.is_warning]
    assert [error.what for error in errors] == ["sbatch was not found on the PATH: this machine cannot queue jobs"]


def test_a_phase_that_has_begun_keeps_its_settings(spec: RunSpec) -> None:
    directory = RunDirectory(Path(spec.results) / spec.run)
    directory.create()
    directory.write_lockfile(lockfile(spec))
    other = replace(spec, seed=7, phases=tuple(replace(phase, lr=1.0) for phase in spec.phases))
    check_unchanged(other, directory)
    directory.phase(1).create()
    check_unchanged(other, directory)
    (directory.phase(1).checkpoints / "step-00000001").mkdir()
    (directory.phase(1).checkpoints / "step-00000001" / "MANIFEST.json").write_text("{}")
    with pytest.raises(InputError, match=r"phase 1 .* seed, phase1\.lr\n") as caught:
        check_unchanged(other, directory)
    assert "phase2" not in caught.value.what
    check_unchanged(replace(spec, nodes=4, keep_checkpoints=1), directory)


def test_a_resumed_run_has_some_of_its_checkpoints_already(spec: RunSpec) -> None:
    directory = RunDirectory(Path(spec.results) / spec.run)
    for number in (1, 2):
        folder = directory.phase(number).checkpoints / "step-00000001"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(bytes(1000))
    assert held_bytes(directory) == 2000
    directory.phase(1).done_file.write_text("{}")
    assert held_bytes(directory) == 1000
    assert len(results_problems(replace(spec, keep_checkpoints=10**9))) == 1
    assert results_problems(replace(spec, keep_checkpoints=10**9), held=10**20) == []


def test_weights_to_start_from_and_a_teacher_must_be_there(spec: RunSpec, tmp_path: Path) -> None:
    shape = {name: value for name, value in asdict(spec.model).items() if name != "name"}
    (tmp_path / "config.json").write_text(json.dumps({**shape, "vocab_size": 30522}))
    data, folder = DataManifest.read(Path(spec.data)), str(tmp_path)
    with pytest.raises(InputError, match="the initial checkpoint has no weights: neither"):
        check_init_checkpoint(replace(spec, init_checkpoint=folder), data)
    (tmp_path / "config.json").write_text("{}")
    taught = resolved("distill", data=spec.data, teacher=folder)
    with pytest.raises(InputError, match="the teacher has no weights"):
        check_teacher(taught, data)


@pytest.fixture
def stopped(spec: RunSpec) -> RunDirectory:
    """A run with a checkpoint of phase 1, trained with its settings."""
    directory = write_run(spec)
    folder = directory.phase(1).checkpoints / "step-00000010"
    folder.mkdir()
    shape = {name: value for name, value in asdict(spec.model).items() if name != "name"}
    (folder / "config.json").write_text(json.dumps(shape))
    shutil.copy(Path(spec.data) / "vocab.txt", folder)
    seal(folder, phase=1, step=10, recipe_hash=recipe_hash(spec, 1), settings=decisive_settings(spec, 1))
    return directory


def test_a_run_is_compared_with_its_checkpoint_before_it_is_queued_again(spec: RunSpec, stopped: RunDirectory) -> None:
    around = Circumstances(resumed=stopped)
    assert inspect(spec, "local", NO_SLURM, around)[1] == []
    larger = replace(spec, model=replace(spec.model, num_hidden_layers=3), optimizer=replace(spec.optimizer, beta1=0.5))
    stopped.write_lockfile(lockfile(larger))  # edited by hand
    text = words(inspect(larger, "local", NO_SLURM, around)[1])
    assert "the checkpoint was trained with other settings: model.num_hidden_layers 2 (here 3), optimizer.beta1" in text


def test_a_checkpoint_of_an_older_format_is_compared_by_its_shape_and_vocabulary(
    spec: RunSpec, stopped: RunDirectory
) -> None:
    folder = stopped.phase(1).checkpoints / "step-00000010"
    (folder / "config.json").write_text(json.dumps({"hidden_size": 256}))
    (folder / "MANIFEST.json").write_text(
        json.dumps({"format_version": 1, "phase": 1, "step": 10, "recipe_hash": "0", "files": {}})
    )
    around = Circumstances(resumed=stopped)
    assert "the checkpoint has hidden_size 256, but model bert-tiny has 128" in words(
        inspect(spec, "local", NO_SLURM, around)[1]
    )
    (folder / "config.json").write_text(json.dumps(asdict(spec.model)))
    (folder / "vocab.txt").write_text("other\n")
    assert "trained with another vocabulary" in words(inspect(spec, "local", NO_SLURM, around)[1])


def test_a_phase_whose_beginning_is_gone_is_refused_before_it_is_queued(spec: RunSpec, stopped: RunDirectory) -> None:
    stopped.phase(1).write_done(Done(1, 20, "step-00000020", "", "", 0.0))
    second = replace(spec, phases=(spec.phase(2),))
    problems = words(inspect(second, "local", NO_SLURM, Circumstances(resumed=stopped))[1])
    assert "phase 2 begins from the result of phase 1: step-00000020 is missing" in problems
    assert str(stopped.phase(1).done_file) in problems


def test_submitit_cannot_have_a_percent_sign_in_a_folder(spec: RunSpec, tool: Tool, tmp_path: Path) -> None:
    tool("sbatch", "exit 0")
    with pytest.raises(InputError, match="submitit takes every %") as caught:
        check_backend(replace(spec, results="/data/100%j"), "submitit", Slurm({"PATH": str(tmp_path / "bin")}))
    assert "--backend slurm" in str(caught.value.hint)
