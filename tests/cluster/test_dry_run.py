"""`submit --dry-run` and `resume --dry-run`: what they print is what is then written and queued, byte for byte."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bertjobs.run.directory import RunDirectory
from tests.cluster.slurm import Cluster
from tests.conftest import Bertjobs

SLEEP = "#!/bin/bash\nsleep 600\n"


def shown_files(text: str) -> dict[Path, bytes]:
    """The files that a dry run prints: a line with path and size, then that many bytes."""
    raw, files = text.encode(), {}
    for head in re.finditer(rb"^==> (.+) \((\d+) bytes\)\n", raw, re.MULTILINE):
        files[Path(head[1].decode())] = raw[head.end() : head.end() + int(head[2])]
    return files


def shown_commands(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("sbatch ")]


@pytest.fixture
def sleeper(cluster: Cluster, tmp_path: Path) -> str:
    """A job that does not end on its own."""
    script = tmp_path / "sleep.sub"
    script.write_text(SLEEP)
    return str(cluster.submit(["--output=/dev/null", script]))


def queued_as(cluster: Cluster, job: str) -> str:
    """The sbatch call that queued a job, from Slurm's record of it: script and dependency."""
    shown = cluster.run(["scontrol", "show", "job", job]).stdout
    script, waits = re.search(r"Command=(\S+)", shown), re.search(r"Dependency=(\w+:\d+)", shown)
    assert script is not None
    assert waits is not None
    return f"sbatch --parsable --dependency={waits[1]} {script[1]}"


def test_a_submit_writes_and_queues_what_its_dry_run_prints(
    bertjobs: Bertjobs, cluster: Cluster, speeches_data: Path, tmp_path: Path, sleeper: str
) -> None:
    words = (
        *("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--nodes", 2, "--time", "30"),
        *("--sbatch", "comment=first", "--sbatch=--nice=5", "--sbatch", "exclusive", "--after", sleeper),
    )
    dry = bertjobs(*words, "--dry-run", environ=cluster.environment)
    assert dry.returncode == 0, dry.stderr
    assert not (tmp_path / "results").exists(), "nothing is written"
    assert cluster.run(["squeue", "-h", "-o", "%i"]).stdout.split() == [sleeper], "nothing is queued"

    files = shown_files(dry.stdout)
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    scripts = [directory.phase(number).script for number in (1, 2)]
    assert {directory.lockfile, directory.source / "version.json", *scripts} <= set(files)
    for line in ("--comment=first", "--nice=5", "--exclusive", "--time=30", "--nodes=2"):
        assert f"#SBATCH {line}\n".encode() in files[scripts[0]]
    assert f"==> {directory.journal} (a line for each job" in dry.stdout

    submitted = bertjobs(*words, "--json", environ=cluster.environment)
    assert submitted.returncode == 0, submitted.stderr
    printed = json.loads(submitted.stdout)
    assert printed["run_directory"] == str(directory.root)
    assert printed["next"][0] == "bertjobs status laptop-scratch"
    named = {*files, directory.journal}
    if "too long to show" in dry.stdout:
        named.add(directory.source / "dirty.diff")
    written = {file for file in directory.root.rglob("*") if file.is_file() and file.parent != directory.owners}
    assert written == named
    for path, content in files.items():
        assert path.read_bytes() == content, path

    one, two = printed["jobs"]["1"], printed["jobs"]["2"]
    second = queued_as(cluster, two).replace(f"afterany:{one} ", "afterany:phase1 ")
    assert [queued_as(cluster, one), second] == shown_commands(dry.stdout)
    assert f"afterany:{sleeper} " in shown_commands(dry.stdout)[0]


def test_a_dry_run_as_json(bertjobs: Bertjobs, cluster: Cluster, speeches_data: Path, tmp_path: Path) -> None:
    words = ("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--dry-run", "--json")
    printed = json.loads(bertjobs(*words, environ=cluster.environment).stdout)
    assert [words[0] for words in printed["commands"]] == ["sbatch", "sbatch"]
    contents = {Path(file["path"]).name: file["content"] for file in printed["files"]}
    assert contents["run.yml"].startswith("# A run, fully resolved")
    assert contents["jobs.jsonl"] is None
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_resume_changes_what_may_change_and_shows_it_first(
    bertjobs: Bertjobs, cluster: Cluster, speeches_data: Path, tmp_path: Path
) -> None:
    words = ("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--phase", 1, "--steps-this-run", 3)
    submitted = bertjobs(*words, "--json", environ=cluster.environment)
    (job,) = json.loads(submitted.stdout)["jobs"].values()
    assert cluster.wait(job) == "FAILED", "75: to be continued"
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    locked = directory.lockfile.read_bytes()

    refused = bertjobs("resume", "laptop-scratch", "--set", "phase1.lr=1", environ=cluster.environment)
    assert refused.returncode == 64
    assert "started with other settings: phase1.lr" in refused.stderr

    change = ("resume", "laptop-scratch", "--set", "nodes=2", "--set", "keep_checkpoints=1", "--time", "20")
    dry = bertjobs(*change, "--dry-run", environ=cluster.environment)
    assert dry.returncode == 0, dry.stderr
    assert directory.lockfile.read_bytes() == locked, "nothing is written"
    files = shown_files(dry.stdout)
    assert b"keep_checkpoints: 1\n" in files[directory.lockfile]

    resumed = bertjobs(*change, "--json", environ=cluster.environment)
    assert resumed.returncode == 0, resumed.stderr
    (job,) = json.loads(resumed.stdout)["jobs"].values()
    script = directory.phase(1).script
    assert script.read_bytes() == files[script]
    assert cluster.wait(job) == "COMPLETED"
    assert directory.phase(1).done().step == 20
    started = [event for event in directory.events() if event["event"] == "started"]
    assert [event["world_size"] for event in started] == [1, 2]
    assert len(list(directory.phase(1).checkpoints.glob("step-*"))) == 1


def test_submitit_is_a_backend_too(
    bertjobs: Bertjobs, cluster: Cluster, speeches_data: Path, tmp_path: Path, sleeper: str
) -> None:
    words = (
        *("submit", "--recipe", "laptop-scratch", "--data", speeches_data, "--backend", "submitit", "--phase", 1),
        *("--set", "phase1.steps=2", "--time", 10, "--after", sleeper),
    )
    dry = bertjobs(*words, "--dry-run", environ=cluster.environment)
    assert "submitit would queue one job per phase." in dry.stdout
    directory = RunDirectory(tmp_path / "results" / "laptop-scratch")
    assert directory.lockfile in shown_files(dry.stdout)
    assert not directory.root.exists()

    submitted = bertjobs(*words, "--json", environ=cluster.environment)
    assert submitted.returncode == 0, submitted.stderr
    (job,) = json.loads(submitted.stdout)["jobs"].values()
    assert f"afterany:{sleeper}" in cluster.run(["scontrol", "show", "job", job]).stdout
    cluster.run(["scancel", sleeper])
    assert cluster.wait(job) == "COMPLETED"
    assert directory.phase(1).done().step == 2
    # A job that is slow may have queued a spare.
    event = next(event for event in directory.events() if event["event"] == "submitted")
    assert (event["backend"], event["job"]) == ("submitit", job)
