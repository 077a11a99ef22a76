"""A prepare as a Slurm job: its script, its sbatch options, and the lock that an earlier start left behind."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bertjobs.data.prepare.array_options import ArrayOptions
from bertjobs.data.prepare.queue_job import JOB_NAME, log_file, release_own_lock, sbatch_words, script
from bertjobs.data.prepare.work_folder import FOLDER_NAME
from bertjobs.errors import InputError
from bertjobs.files.lock import LOCK_NAME
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.options import SlurmOptions
from tests.data.prepare.conftest import Tool

HOSTILE = ["a b", "it's", 'say "hi"', "two\nlines", "$(touch x)", "`id`", "a;b", "back\\slash", "{x}", "*", ""]


def test_the_command_survives_the_script(tmp_path: Path) -> None:
    text = script(["printf", "%s\\0", *HOSTILE])
    done = subprocess.run(["bash"], input=text.encode(), capture_output=True, check=True, cwd=tmp_path)
    assert done.stdout.decode().split("\0")[:-1] == HOSTILE
    assert not list(tmp_path.iterdir())


def test_the_script_ends_as_the_command_does() -> None:
    assert subprocess.run(["bash"], input=script(["sh", "-c", "exit 64"]), text=True).returncode == 64


def test_the_signal_before_the_time_limit_requeues_the_job(tmp_path: Path) -> None:
    """scontrol is a stand-in: a real job is requeued in tests/cluster/test_after.py."""
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@" >called\n')
    (tmp_path / "scontrol").chmod(0o755)
    command = ["bash", "-c", "trap 'touch $0; exit 1' TERM; kill -USR2 $PPID; sleep 10 & wait", "terminated"]
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "17"}
    done = subprocess.run(["bash"], input=script(command), text=True, cwd=tmp_path, env=environ, timeout=300)
    assert done.returncode == 75
    assert (tmp_path / "called").read_text() == "requeue 17\n"
    assert (tmp_path / "terminated").exists(), "it is not left behind"


def test_the_job_is_small_whatever_the_arrays_ask_for() -> None:
    asked = SlurmOptions(
        partition="p", account="a", qos="q", time="2:00:00", memory="0", cpus=64,
        extra=("--exclusive", "--nodes=1", "--constraint=c"),
    )  # fmt: skip
    arrays = ArrayOptions(asked, jobs=4)
    words = sbatch_words(arrays, Path("/d/x y.prepare-%j.log"))
    assert words[:2] == ["sbatch", "--parsable"]
    assert set(words[2:]) == {
        "--partition=p", "--account=a", "--qos=q", "--time=2:00:00", "--constraint=c", "--cpus-per-task=1",
        "--requeue", f"--job-name={JOB_NAME}", "--nodes=1", "--ntasks=1", "--signal=B:USR2@60",
        "--open-mode=append", "--output=/d/x y.prepare-%j.log",
    }  # fmt: skip


def test_the_log_lies_beside_the_output(tmp_path: Path) -> None:
    assert log_file(tmp_path / "data") == tmp_path / "data.prepare-%j.log"
    with pytest.raises(InputError, match="'%' in the path"):
        log_file(tmp_path / "100%j")


@pytest.mark.parametrize(
    ("changed", "is_released"),
    [({}, True), ({"SLURM_RESTART_COUNT": "0"}, False), ({"SLURM_JOB_ID": "18"}, False),
     ({"SLURM_JOB_NAME": "interactive"}, False)],
)  # fmt: skip
def test_a_start_takes_over_only_the_lock_of_the_same_job_s_earlier_start(
    tmp_path: Path, changed: dict[str, str], is_released: bool
) -> None:
    lock = tmp_path / FOLDER_NAME / LOCK_NAME
    lock.parent.mkdir()
    lock.write_text(json.dumps({"host": "another", "process": 1, "job": "17"}))
    environ = {"SLURM_JOB_NAME": JOB_NAME, "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1", **changed}
    release_own_lock(tmp_path, environ)
    assert lock.exists() is not is_released
    release_own_lock(tmp_path / "nowhere", environ)


@pytest.mark.parametrize(("printed", "cpus"), [("64\n128\n", 64), ("16+\n32\n", 16), ("", 1)])
def test_whole_nodes_have_the_cpus_of_the_smallest(tool: Tool, tmp_path: Path, printed: str, cpus: int) -> None:
    tool("sinfo", f'[[ $* == "--noheader --exact --format=%c --partition=p" ]] && printf "{printed}"')
    slurm = Slurm({"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    options = ArrayOptions(SlurmOptions(partition="p", extra=("--qos=high",)))
    whole = options.on_whole_nodes(4, slurm)
    assert (whole.jobs, whole.processes, whole.slurm.memory) == (4, cpus, "0")
    assert whole.slurm.extra == ("--qos=high", "--nodes=1", "--exclusive")


def test_less_than_a_whole_node_may_be_asked_for() -> None:
    options = ArrayOptions(SlurmOptions(memory="8G", cpus=8))
    whole = options.on_whole_nodes(1, Slurm({"PATH": "/nowhere"}))
    assert (whole.processes, whole.slurm.memory) == (8, "8G")
    with pytest.raises(InputError, match="at least 1"):
        options.on_whole_nodes(0, Slurm({"PATH": "/nowhere"}))
