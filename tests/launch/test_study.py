"""A study on this machine, and the script of its array."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.launch.start import next_chain
from bertjobs.launch.study import array_submission, exit_code_of
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.checkpoints import last_written
from bertjobs.run.directory import RunDirectory
from bertjobs.run.study import Study
from bertjobs.slurm.jobs import name_in_array
from bertjobs.slurm.options import SlurmOptions
from tests.conftest import Bertjobs, wait_until

NANO = ("--backend", "local", "--recipe", "laptop-scratch", "--model", "bert-nano", "--phase", "1", "--run", "st")
SHORT = ("--set", "phase1.steps=2", "--set", "phase1.validate_every=2")


def specs(results: Path, **changes: object) -> list[RunSpec]:
    spec = resolve(load_catalogue([builtin_file()]), flags={"recipe": "laptop-scratch"}, environ={}).spec
    spec = replace(spec, results=str(results), data="/data")
    return [replace(spec, run="st-1"), replace(spec, run="st-3", **changes)]  # type: ignore[arg-type]


def test_one_script_serves_all_elements(tmp_path: Path) -> None:
    study = Study.of(tmp_path, "st", [{"seed": str(seed)} for seed in range(3)])
    job = array_submission(study, specs(tmp_path), SlurmOptions(), chain="chain-2", at_once=1, after=("7",))
    assert job.command({}) == ["sbatch", "--parsable", "--dependency=afterany:7", str(study.script)]
    lines = job.script.splitlines()
    assert "#SBATCH --array=1,3%1" in lines
    assert "#SBATCH --job-name=st-phase1" in lines
    assert f"#SBATCH --output={tmp_path}/st-%a/phase1/logs/slurm-%A_%a.out" in lines
    assert "export RUN=st-$SLURM_ARRAY_TASK_ID" in lines
    assert "export BERTJOBS_PHASES=1,2" in lines
    assert "export BERTJOBS_CHAIN=chain-2" in lines
    assert not [line for line in lines if line.startswith("export RUN=st-1")]


def test_runs_that_need_other_jobs_cannot_be_one_array(tmp_path: Path) -> None:
    study = Study.of(tmp_path, "st", [{"nodes": str(nodes)} for nodes in (1, 2, 3)])
    with pytest.raises(InputError, match=r"need different jobs.*nodes=1.*nodes=2"):
        array_submission(study, specs(tmp_path, nodes=2), SlurmOptions(), chain="chain-1")


def test_an_element_is_called_as_its_run_s_own_jobs_are() -> None:
    assert name_in_array("17_3", "st-phase1") == "st-3-phase1"
    assert name_in_array("17", "st-phase1") == "st-phase1"
    assert name_in_array("17_[1-3]", "st-phase1") == "st-phase1"


def test_a_chain_of_several_runs_is_new_to_all(tmp_path: Path) -> None:
    one, two = RunDirectory(tmp_path / "one"), RunDirectory(tmp_path / "two")
    for directory, chain in ((one, "chain-1"), (two, "chain-1"), (two, "chain-4")):
        directory.create()
        directory.record("submitted", backend="slurm", phase=1, job="7", chain=chain)
    assert next_chain(one) == "chain-2"
    assert next_chain(one, two) == "chain-5"


def test_the_exit_code_is_that_of_the_first_failure() -> None:
    assert exit_code_of({"a": 0, "b": 0}, is_over=False) == 0
    assert exit_code_of({"a": 75, "b": 64, "c": 70}, is_over=False) == 64
    assert exit_code_of({"a": 0, "b": 75}, is_over=False) == 75
    assert exit_code_of({"a": 70}, is_over=True) == 75


def test_a_run_that_fails_does_not_stop_the_others(bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path) -> None:
    words = ("submit", *NANO, *SHORT, "--data", speeches_data)
    refused = bertjobs(*words, "--sweep", "lr=1e-3,high")
    assert refused.returncode == 64, refused.stdout
    assert "not 'high'" in refused.stderr
    assert "flag --sweep phase1.lr" in refused.stderr
    assert not (tmp_path / "results").exists(), "all or nothing"

    done = bertjobs(*words, "--sweep", "precision=tf32,fp32")
    assert done.returncode == 64, done.stdout + done.stderr
    assert "study st: 1 of 2 runs done" in done.stdout
    assert "st-1 failed: bad input: " in done.stdout
    assert "a CPU does not support tf32" in done.stdout
    rows = json.loads(bertjobs("study", "st", "--json").stdout)["members"]
    assert [(row["state"], row["has_failed"]) for row in rows] == [("FAILED", True), ("DONE", False)]
    assert [row["run"] for row in json.loads(bertjobs("doctor", "st", "--json").stdout)] == ["st-1", "st-2"]
    again = bertjobs(*words, "--seeds", "2")
    assert again.returncode == 64
    assert "a study named 'st' exists" in again.stderr
    run = bertjobs(*words)
    assert run.returncode == 64
    assert "a study named 'st' exists" in run.stderr


@pytest.mark.slow
def test_a_study_that_was_stopped_is_resumed(bertjobs: Bertjobs, speeches_data: Path) -> None:
    done = bertjobs("submit", *NANO, *SHORT, "--data", speeches_data, "--seeds", "2", "--set", "steps_this_run=1")
    assert done.returncode == 75, done.stdout + done.stderr
    assert "study st: 0 of 2 runs done" in done.stdout
    assert "continue with: bertjobs resume st --results" in done.stdout

    again = bertjobs("resume", "st", "--json")
    assert again.returncode == 0, again.stdout + again.stderr
    result = json.loads(again.stdout)
    assert [one["state"] for one in result["members"]] == ["DONE", "DONE"]
    assert [one["settings"] for one in result["members"]] == [{"seed": "42"}, {"seed": "43"}]
    (spread,) = result["spreads"]
    values = [one["value"] for one in result["members"]]
    assert spread["mean"] == pytest.approx(sum(values) / 2)
    assert values[0] != values[1]
    assert json.loads(bertjobs("study", "st", "--json").stdout)["spreads"] == [spread]
    nothing = bertjobs("resume", "st")
    assert nothing.returncode == 64
    assert "has no run to resume" in nothing.stderr
    assert "'st' is a study of 2 runs" in bertjobs("logs", "st").stderr


@pytest.fixture
def off_slurm(tmp_path: Path, unhurried: dict[str, str]) -> dict[str, str]:
    """An environment in which there is no Slurm to ask, and runs do not hurry."""
    (tmp_path / "bin").mkdir()
    for name in ("sed", "git"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    return {**unhurried, "PATH": str(tmp_path / "bin")}


@contextmanager
def endless_study(data: Path, folder: Path, environ: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A study of two runs that train for ever, from when the first one does."""
    endless = ("--set", "phase1.steps=100000", "--set", "phase1.checkpoint_every=5")
    words = ("submit", *NANO, *endless, "--data", str(data), "--seeds", "2")
    command = [sys.executable, "-m", "bertjobs", *words]
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_until(RunDirectory(folder / "results" / "st-1").phase(1).metrics.exists)
        yield process
    finally:
        process.kill()
        process.wait()


def test_one_run_is_cancelled_and_the_study_trains_the_next(
    bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path, off_slurm: dict[str, str]
) -> None:
    first, second = (RunDirectory(tmp_path / "results" / f"st-{number}") for number in (1, 2))
    with endless_study(speeches_data, tmp_path, off_slurm) as process:
        cancelled = bertjobs("cancel", "st-1", "--json", environ=off_slurm)
        assert cancelled.returncode == 0, cancelled.stderr
        assert json.loads(cancelled.stdout) == {"run": "st-1", "cancelled": ["local-1"]}
        wait_until(second.phase(1).metrics.exists)
        rows = json.loads(bertjobs("study", "st", "--json", environ=off_slurm).stdout)["members"]
        assert [(row["state"], row["is_active"]) for row in rows] == [("CANCELLED", False), ("RUNNING", True)]
        assert rows[0]["why"] == "cancelled: job local-1 of phase 1 was cancelled"
        assert rows[0]["command"].startswith("bertjobs resume st-1 ")
        assert last_written(first.phase(1).checkpoints)

        whole = bertjobs("cancel", "st", environ=off_slurm)
        assert whole.returncode == 0, whole.stderr
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 75, output
    assert "st-2 cancelled: " in output
    assert "Traceback" not in output


def test_a_study_that_is_cancelled_begins_no_other_run(
    bertjobs: Bertjobs, speeches_data: Path, tmp_path: Path, off_slurm: dict[str, str]
) -> None:
    with endless_study(speeches_data, tmp_path, off_slurm) as process:
        whole = bertjobs("cancel", "st", environ=off_slurm)
        assert whole.returncode == 0, whole.stderr
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 75, output
    assert not RunDirectory(tmp_path / "results" / "st-2").phase(1).metrics.exists()
    assert "st-2 not started: it has not begun" in output
