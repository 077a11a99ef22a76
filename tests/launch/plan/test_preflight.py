"""What is checked before anything is queued: every problem at once."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import bertjobs
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.manifest_form import hashed_text
from bertjobs.errors import InputError, InputErrors
from bertjobs.launch.plan.preflight import (
    Circumstances,
    after_problems,
    check_backend,
    check_safetensors,
    data_problems,
    epoch_problems,
    inspect,
    preflight,
    torch_problems,
)
from bertjobs.launch.plan.problem import Problem
from bertjobs.launch.plan.queue import Queue, ask_queue, queue_problems
from bertjobs.launch.plan.resources import (
    checkpoints_bytes,
    container_problems,
    held_bytes,
    memory_problems,
    results_problems,
)
from bertjobs.launch.start import write_run
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import decisive_settings, lockfile, recipe_hash
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.checkpoints import seal
from bertjobs.run.directory import Done, RunDirectory
from bertjobs.run.settings import check_unchanged
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.cluster import Partition, parse_sinfo
from bertjobs.slurm.start_estimate import StartEstimate, parse_start_estimate
from tests.launch.conftest import Tool

CATALOGUE = load_catalogue([builtin_file()])
NO_SLURM = Slurm({"PATH": ""})
SINFO = (
    "batch*|up|1-00:00:00|n/a|4|16|4000|gpu:8|REQUEUE|1\n"
    "short|up|30:00|10:00|2|16|4000|gpu:a100:4|OFF|10\n"
    "closed|inact|infinite|n/a|9|16|4000|(null)|OFF|1\n"
)
PARTITIONS = parse_sinfo(SINFO)


def resolved(recipe: str, *sets: str, **flags: object) -> RunSpec:
    return resolve(CATALOGUE, flags={"recipe": recipe, **flags}, environ={}, sets=sets).spec


@pytest.fixture
def spec(tmp_path: Path, speeches_data: Path) -> RunSpec:
    """A run without problems."""
    enough = "phase1.steps=40"  # all of the text is read
    return resolved("laptop-scratch", enough, data=str(speeches_data), results=str(tmp_path / "results"))


class Starting(Slurm):
    """A cluster that starts containers in these ways."""

    def __init__(self, *ways: str) -> None:
        super().__init__({})
        self._ways = ways

    @property
    def present(self) -> bool:
        return True

    def has_pyxis(self) -> bool:
        return "pyxis" in self._ways

    def has_apptainer(self) -> bool:
        return "apptainer" in self._ways


def words(problems: list[Problem]) -> str:
    return "\n".join(problem.render() for problem in problems)


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


def test_space_for_the_checkpoints(tmp_path: Path) -> None:
    spec = resolved("h200", results=str(tmp_path / "results" / "deeper"))
    # BERT-large: 336 M parameters, float32, with two moments; three checkpoints of each phase, and one being written.
    assert checkpoints_bytes(spec) == 336_226_108 * 12 * 7
    assert results_problems(replace(spec, keep_checkpoints=1, phases=spec.phases[:1])) == []
    (problem,) = results_problems(replace(spec, keep_checkpoints=10**6))
    assert "GB are free" in problem.what
    assert problem.where == str(tmp_path)


def test_a_folder_that_cannot_be_written_is_reported_once() -> None:
    (problem,) = results_problems(resolved("h200", "keep_checkpoints=1000000", results="/proc/results"))
    assert "cannot be written" in problem.what


def test_images_and_mounts(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.sqsh", tmp_path / "bad.sqsh"
    good.write_bytes(b"hsqs" + bytes(100))
    bad.write_bytes(b"hs")

    def image_problems_of(image: str, *mounts: str, **more: str) -> str:
        return words(
            container_problems(resolved("h200", image=image, mounts=",".join(mounts), **more), Starting("pyxis"))
        )

    assert image_problems_of(str(good), f"{tmp_path}:/data:ro", "tmpfs:/scratch", "/nosuch:/x:ro+nofail") == ""
    assert image_problems_of("nvcr.io#nvidia/pytorch:26.01-py3") == ""
    assert image_problems_of("") == ""
    assert "not a squashfs file" in image_problems_of(str(bad))
    assert "cannot be read: No such file" in image_problems_of("here.sqsh")
    assert "cannot be read: Is a directory" in image_problems_of(str(tmp_path))
    text = image_problems_of(str(good), "/nosuch:/x:ro", "/tmp:relative")
    assert "add the flag nofail: /nosuch:/x:ro+nofail" in text
    assert "must be an absolute path, not 'relative'" in text
    assert "pyxis cannot start a .sif file" in image_problems_of("/images/x.sif")


def test_images_and_mounts_for_apptainer(tmp_path: Path) -> None:
    sif, bad, sandbox = tmp_path / "good.sif", tmp_path / "bad.sif", tmp_path / "sandbox"
    sif.write_bytes(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0" + bytes(100))
    bad.write_bytes(b"hsqs" + bytes(100))
    sandbox.mkdir()

    def problems_of(image: object, *mounts: str, **more: str) -> str:
        spec = resolved("h200", image=str(image), mounts=",".join(mounts), **more)
        return words(container_problems(spec, Starting("apptainer")))

    assert problems_of(sif, f"{tmp_path}:/data:ro") == ""
    assert "not a SIF file" in problems_of(bad)
    assert "it has no bin/sh" in problems_of(sandbox)
    (sandbox / "bin").mkdir()
    (sandbox / "bin" / "sh").touch()
    assert problems_of(sandbox) == ""
    assert "docker://nvcr.io/nvidia/pytorch:26.01-py3" in problems_of("nvcr.io#nvidia/pytorch:26.01-py3")
    (warning,) = container_problems(resolved("h200", image="docker://python:3.12"), Starting("apptainer"))
    assert warning.is_warning
    assert "apptainer build IMAGE.sif docker://python:3.12" in str(warning.hint)
    text = problems_of(sif, "/nosuch:/x:ro+nofail", "/nosuch:/y")
    assert "Apptainer has no mount flags 'ro+nofail'" in text
    assert "there is nothing to mount at /nosuch" in text
    assert "nofail: " not in text


def test_what_starts_an_image_must_be_there() -> None:
    def problems_of(container: str, *ways: str) -> str:
        spec = resolved("h200", image="docker://python", container=container)
        return words([problem for problem in container_problems(spec, Starting(*ways)) if not problem.is_warning])

    assert problems_of("auto", "pyxis") == problems_of("auto", "apptainer") == problems_of("pyxis", "pyxis") == ""
    assert problems_of("apptainer") == "", "the nodes may have it"
    assert "no pyxis (--container-image), and neither apptainer nor singularity is on the PATH" in problems_of("auto")
    assert "no pyxis (--container-image)" in problems_of("pyxis", "apptainer")


def test_code_that_cannot_be_mounted_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = resolved("h200", image="docker://python")
    for file, says in (
        (tmp_path / "bertjobs.zip" / "bertjobs" / "__init__.py", "runs from an archive"),
        (tmp_path / "a:b" / "bertjobs" / "__init__.py", "contains ':'"),
        (tmp_path / "a b" / "bertjobs" / "__init__.py", "contains ' '"),
    ):
        if "archive" not in says:
            file.parent.mkdir(parents=True)
            file.touch()
        monkeypatch.setattr(bertjobs, "__file__", str(file))
        assert says in words(container_problems(spec, Starting("pyxis")))
    monkeypatch.undo()
    assert container_problems(spec, Starting("pyxis")) == []


def test_a_micro_batch_that_does_not_fit_comes_with_the_gradient_steps_that_do() -> None:
    (problem,) = memory_problems(resolved("dgx1-32g", "phase1.micro_batch=512"))
    assert not problem.is_warning
    assert "phase 1: a micro-batch of 512 takes about" in problem.what
    assert "estimate, not measured" in problem.what
    assert problem.hint == "--set phase1.micro_batch=128, which makes GRADIENT_STEPS=64"
    again = resolved("dgx1-32g", "phase1.micro_batch=128")
    assert again.phases[0].gradient_steps == 64
    assert memory_problems(again) == []


def test_gpus_that_the_installed_torch_has_no_code_for_are_a_warning() -> None:
    (problem,) = torch_problems(resolved("dgx1-16g"), "2.13.0+cu130")
    assert problem.is_warning
    assert problem.what == "this environment's torch has no code for V100-SXM2-16GB: the run would end with code 64"
    assert "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126" in str(problem.hint)
    assert torch_problems(resolved("dgx1-16g"), "2.13.0+cu126") == []
    assert torch_problems(resolved("dgx1-16g", image="nvcr.io#nvidia/pytorch"), "2.13.0+cu130") == []
    assert torch_problems(resolved("dgx1-16g", gpus=0), "2.13.0+cu130") == []
    assert torch_problems(resolved("h200"), "2.13.0+cu130") == []


def test_a_micro_batch_that_may_fit_is_a_warning() -> None:
    (problem,) = memory_problems(resolved("dgx1-32g", "phase2.micro_batch=32", "system=dgx1-32g", precision="fp32"))
    assert problem.is_warning
    assert ": tight (" in problem.what


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "sbatch: Job 2 to start at 2026-11-21T18:25:23 using 2 processors on nodes node[1-2] in partition batch\n",
            StartEstimate("2026-11-21T18:25:23", "node[1-2]"),
        ),
        ("Job 7 to start at 2026-11-22T01:02:03 using 64 processors on n1", StartEstimate("2026-11-22T01:02:03", "n1")),
        (
            "sbatch: error: NOTE from the site\nsbatch: Job 2 to start at 2026-01-01T00:00:00 using 2 processors on n1",
            StartEstimate("2026-01-01T00:00:00", "n1"),
        ),
        (
            "allocation failure: Requested node configuration is not available\n",
            StartEstimate(refusal="Requested node configuration is not available"),
        ),
        (
            "sbatch: error: invalid partition specified: x\nallocation failure: Invalid partition name specified\n",
            StartEstimate(refusal="invalid partition specified: x; Invalid partition name specified"),
        ),
        (
            "sbatch: unrecognized option '--nosuch=1'\nTry \"sbatch --help\" for more information\n",
            StartEstimate(refusal="unrecognized option '--nosuch=1'"),
        ),
        ("allocation failure: Unable to contact slurm controller (connect failure)", StartEstimate()),
        ("", StartEstimate()),
    ],
)  # fmt: skip
def test_the_output_of_sbatch_test_only(text: str, expected: StartEstimate) -> None:
    """As Slurm 22.05 wrote them."""
    assert parse_start_estimate(text) == expected


@pytest.mark.parametrize(
    ("sets", "partition", "time", "says"),
    [
        ({"nodes": 4}, "", "", []),
        ({"nodes": 4}, "", "1-00:00:00", []),
        ({"nodes": 8}, "", "", ["the run asks for 8 nodes, but partition batch has 4"]),
        ({"nodes": 4}, "", "1-00:00:01", ["allows 1-00:00:00: the job would wait forever", "set --time 1-00:00:00"]),
        ({"nodes": 4}, "", "0", ["would wait forever"]),
        ({"nodes": 4}, "", "soon", ["not a time as Slurm writes it: 'soon'"]),
        ({"nodes": 1}, "shrt", "", ["no partition 'shrt'", "'short'"]),
        ({"nodes": 1}, "short", "", ["8 GPUs per node, but nodes of partition short have 4"]),
        ({"nodes": 1, "gpus": 4}, "short", "", []),
        ({"nodes": 1, "gpus": "a100:4"}, "short", "", []),
        (
            {"nodes": 1, "gpus": "h100:4"},
            "short",
            "",
            ["no GPUs of type 'h100'; its types: a100 (4 per node)", "--gpus a100:4"],
        ),
        ({"nodes": 1, "gpus": "a100:8"}, "short", "", ["asks for 8 a100 GPUs per node, but nodes of partition short"]),
        ({"nodes": 1, "gpus": "a100:8"}, "batch", "", ["its types: none", "leave the type out"]),
        (
            {"nodes": 4, "gpus": 4},
            "short",
            "60",
            ["4 nodes, but partition short has 2", "partition short allows 0:30:00"],
        ),
        ({"nodes": 4}, "short,batch", "60", []),
        ({"nodes": 1, "gpus": 0}, "closed", "", ["partition closed is down"]),
    ],
)
def test_a_partition_that_would_never_start_the_job(
    sets: dict[str, int], partition: str, time: str, says: list[str]
) -> None:
    spec = resolved("dgxa100-80g", **sets)
    text = words(queue_problems(spec, Queue(partition, time, PARTITIONS, StartEstimate())))
    assert bool(text) == bool(says)
    for part in says:
        assert part in text


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ("2x4/partition=short,1x8", []),
        ("2xa100:4/partition=short,2x4", []),
        ("2x8/partition=short,4x4", ["8 GPUs per node, but nodes of partition short have 4", "2x8/partition=short"]),
        ("3x4/partition=short,1x4", ["the run asks for 3 nodes, but partition short has 2"]),
        ("2xh100:4/partition=short,2x4", ["partition short has no GPUs of type 'h100'"]),
        ("2x4/partition=shrt,2x4", ["no partition 'shrt'", "where: groups", "'short'"]),
    ],
)
def test_each_group_of_nodes_is_seen_in_its_own_partition(groups: str, says: list[str]) -> None:
    text = words(queue_problems(resolved("dgxa100-80g", groups=groups), Queue("batch", "", PARTITIONS)))
    assert bool(text) == bool(says)
    for part in says:
        assert part in text


def test_sbatch_s_refusal_is_reported_unless_the_reason_is_known_already() -> None:
    spec = resolved("h200")
    refused = StartEstimate(refusal="Invalid account")
    (problem,) = queue_problems(spec, Queue("", "", PARTITIONS, refused))
    assert problem.what == "sbatch refuses: Invalid account"
    assert "Invalid account" not in words(queue_problems(spec, Queue("nosuch", "", PARTITIONS, refused)))


def test_nodes_that_are_drained_are_a_warning_and_nodes_that_do_not_exist_are_not() -> None:
    """sbatch itself queues a job for drained nodes, and refuses one that no node can ever run."""
    drained = StartEstimate(refusal="Requested node configuration is not available")
    (problem,) = queue_problems(resolved("dgxa100-80g", nodes=4), Queue("", "", PARTITIONS, drained))
    assert problem.is_warning
    assert "not all of them can be used now" in problem.what
    too_many = queue_problems(resolved("dgxa100-80g", nodes=8), Queue("", "", PARTITIONS, drained))
    assert [one.is_warning for one in too_many] == [False]


def test_nothing_is_known_of_nodes_where_the_cluster_has_no_default_partition() -> None:
    refused = StartEstimate(refusal="Requested node configuration is not available")
    others = tuple(partition for partition in PARTITIONS if not partition.default)
    (problem,) = queue_problems(resolved("dgxa100-80g"), Queue("", "", others, refused))
    assert not problem.is_warning


def test_the_time_limit_that_a_job_gets() -> None:
    def limit(partition: str, time: str, partitions: tuple[Partition, ...] = PARTITIONS) -> float | None:
        return Queue(partition, time, partitions).limit_s

    assert limit("", "") == 86400
    assert limit("short", "") == 600
    assert limit("short", "20") == 1200
    assert limit("closed", "") == math.inf
    assert limit("short", "unlimited") == math.inf
    assert limit("nosuch", "") is None
    assert limit("", "", ()) is None
    assert limit("", "2:00:00", ()) == 7200


def test_slurm_is_asked_without_the_variables_of_a_surrounding_job(tmp_path: Path, tool: Tool) -> None:
    tool("sinfo", f"echo 'sinfo: some warning' >&2; printf '%s' '{SINFO}'")
    tool(
        "sbatch", 'while read -r line; do [[ $line ]] && echo "error: $line $1 ${SLURM_JOB_ID-none}"; done >&2; exit 1'
    )
    environ = {"PATH": f"{tmp_path / 'bin'}", "SLURM_JOB_ID": "7"}
    queue = ask_queue("the script\n", "batch", "60", environ)
    assert queue == Queue("batch", "60", PARTITIONS, StartEstimate(refusal="the script --test-only none"))


def test_if_slurm_is_absent_or_its_output_odd_nothing_is_known(tmp_path: Path, tool: Tool) -> None:
    environ = {"PATH": str(tmp_path / "bin")}
    assert ask_queue("", "", "", environ) == Queue()
    tool("sinfo", "echo nonsense")
    tool("sbatch", "echo 5")
    assert ask_queue("", "", "", environ) == Queue()


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


def test_weights_are_compared_with_the_size_that_their_header_says(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(100, dtype=np.float32)}, file)
    whole = file.read_bytes()
    check_safetensors(file)
    for content, reason in (
        (whole[:-1], f"the file has {len(whole) - 1} bytes, but its header says {len(whole)}"),
        (whole + b"x", f"the file has {len(whole) + 1} bytes, but its header says {len(whole)}"),
        (whole[:20], "do not begin with a header"),
        (b"PAR1" * 100, "do not begin with a header"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=f"the weights cannot be read: .*{reason}"):
            check_safetensors(file)


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
