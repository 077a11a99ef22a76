"""What submitit gets: its batch script and pickles; and how a rank handles signals and exit codes."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.errors import BertjobsError, InputError
from bertjobs.launch.script import submissions
from bertjobs.launch.submitit.backend import job_parameters, queue_submitit
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.groups import NodeGroup
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.slurm.options import SlurmOptions
from tests.conftest import wait_until
from tests.launch.conftest import Tool
from tests.launch.golden_file import check_golden

SECRET = "hf_4f9a_do_not_write_me"
FOUR_HOURS = SlurmOptions("gpu", "me", "4:00:00", ("--qos=high", "--exclude=node7"))
SBATCH = 'echo "$*" >>"$CALLS"; env >"$CALLS.env"; echo "Submitted batch job $((1 + $(wc -l <"$CALLS")))"'


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    flags = {"recipe": "dgxa100-80g", "nodes": 4, "data": "/lustre/wiki", "run": "first"}
    flags["results"] = str(tmp_path / "runs#1")
    return resolve(load_catalogue([builtin_file()]), flags=flags, environ={}).spec


@pytest.fixture
def directory(spec: RunSpec) -> RunDirectory:
    directory = RunDirectory(Path(spec.results) / spec.run)
    directory.create()
    for phase in spec.phases:
        directory.phase(phase.phase).create()
    return directory


@pytest.fixture
def environ(tool: Tool, tmp_path: Path) -> dict[str, str]:
    """A submit host whose sbatch records what it was given."""
    tool("srun", "exit 1")
    tool("sbatch", SBATCH)
    tool("scancel", 'echo "scancel $*" >>"$CALLS"')
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), "HF_TOKEN": SECRET,
        "SLURM_CPU_BIND": "x", "SLURM_NTASKS": "8", "SLURM_CONF": "/etc/slurm.conf", "LR": "1",
    }  # fmt: skip


def calls(environ: dict[str, str]) -> list[str]:
    return Path(environ["CALLS"]).read_text().splitlines()


def script_of(directory: RunDirectory, job: str) -> str:
    """A batch script as it was given to sbatch, without what differs from test to test."""
    text = (directory.root / "submitit" / f"{job}_submission.sh").read_text()
    return text.replace(str(directory.root.parent.parent), "/lustre").replace(sys.executable, "/opt/python")


def test_the_batch_scripts_of_a_run(spec: RunSpec, directory: RunDirectory, environ: dict[str, str]) -> None:
    jobs = queue_submitit(directory, spec, FOUR_HOURS, environ=environ, after=["17", "18"], chain="chain-1")
    assert jobs == {1: "2", 2: "3"}
    check_golden("submitit-plain.sh", script_of(directory, "2"))
    assert "#SBATCH --dependency=afterany:2\n" in script_of(directory, "3")
    subprocess.run(["bash", "-n"], input=script_of(directory, "2"), text=True, check=True)
    assert [(event["backend"], event["phase"], event["job"], event["chain"]) for event in directory.events()] == [
        ("submitit", 1, "2", "chain-1"), ("submitit", 2, "3", "chain-1"),
    ]  # fmt: skip


def test_a_container_s_batch_script(
    spec: RunSpec, directory: RunDirectory, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = replace(FOUR_HOURS, environment=("WANDB_API_KEY",))
    contained = replace(spec, image="/images/x.sqsh", mounts=("/scratch:/scratch",), init_checkpoint="/lustre/bert")
    queue_submitit(directory, contained, options, environ=environ)
    check_golden("submitit-container.sh", script_of(directory, "2"))


def test_the_job_s_script_is_run_sub_with_submitit_s_loader_as_its_worker(
    spec: RunSpec, directory: RunDirectory, environ: dict[str, str]
) -> None:
    queue_submitit(directory, spec, FOUR_HOURS, environ=environ, chain="chain-1", python="/opt/python")
    script = directory.phase(1).script
    assert script.read_text() == submissions(spec, FOUR_HOURS, "/opt/python", chain="chain-1")[0].script
    (command,) = [line for line in script_of(directory, "2").splitlines() if line.startswith("exec ")]
    quoted = "'/lustre/runs#1/first/phase1/run.sub'"
    assert command == f"exec bash {quoted} -u -m submitit.core._submit '/lustre/runs#1/first/submitit'"


def test_nothing_secret_is_in_any_file_and_no_surrounding_job_leaks(
    spec: RunSpec, directory: RunDirectory, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "8")
    before = dict(os.environ)
    queue_submitit(directory, spec, FOUR_HOURS, environ=environ, chain="chain-1")
    files = [file for file in directory.root.rglob("*") if file.is_file()]
    assert any(file.suffix == ".pkl" for file in files)
    for file in files:
        assert SECRET.encode() not in file.read_bytes(), file
    given = Path(environ["CALLS"] + ".env").read_text()
    assert f"HF_TOKEN={SECRET}\n" in given, "a job has its user's environment"
    assert set(re.findall(r"^(SLURM_\w+|LR)=", given, re.MULTILINE)) == {"SLURM_CONF"}
    assert (directory.root / "submitit").stat().st_mode & 0o777 == 0o700
    assert dict(os.environ) == before


def test_all_or_nothing(spec: RunSpec, directory: RunDirectory, environ: dict[str, str], tool: Tool) -> None:
    tool("sbatch", '[[ -e $CALLS ]] && { echo "sbatch: error: QOSMaxSubmit" >&2; exit 1; }\n' + SBATCH)
    with pytest.raises(InputError, match=r"sbatch refused: .*QOSMaxSubmit"):
        queue_submitit(directory, spec, FOUR_HOURS, environ=environ)
    assert calls(environ)[-1] == "scancel 2"
    assert directory.events() == []
    assert list((directory.root / "submitit").iterdir()) == []


def test_a_controller_that_does_not_answer(
    spec: RunSpec, directory: RunDirectory, environ: dict[str, str], tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertjobs.launch.unanswered.APPEARS_S", 0.0)
    tool("squeue", "exit 0")
    tool("sbatch", "echo 'sbatch: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(BertjobsError, match="could not reach the cluster") as caught:
        queue_submitit(directory, spec, FOUR_HOURS, environ=environ)
    assert caught.value.exit_code == 70


@pytest.mark.parametrize(
    ("time", "limit_s", "minutes", "asked"),
    [
        ("90", None, 90, "90"), ("1-12", None, 2160, "1-12"), ("0:30", None, 1, "0:30"),
        ("infinite", None, math.inf, "infinite"), ("", 3600.0, 60, 60), ("", math.inf, math.inf, "infinite"),
    ],
)  # fmt: skip
def test_submitit_counts_the_time_limit_in_minutes(
    spec: RunSpec, time: str, limit_s: float | None, minutes: float, asked: object
) -> None:
    parameters = job_parameters(spec, 1, SlurmOptions(time=time), (), limit_s)
    assert parameters["time"] == minutes
    assert parameters["additional_parameters"]["time"] == asked


def test_groups_of_nodes_are_one_job_or_refused(spec: RunSpec) -> None:
    alike = replace(spec, groups=(NodeGroup(2, 8, "v100"), NodeGroup(1, 8, "a100")))
    further = job_parameters(alike, 1, SlurmOptions(), (), 3600.0)["additional_parameters"]
    assert further["constraint"] == "[v100*2&a100*1]"
    with pytest.raises(InputError, match="submitit makes no heterogeneous jobs"):
        job_parameters(replace(spec, groups=(NodeGroup(2, 4), NodeGroup(1, 8))), 1, SlurmOptions(), (), 3600.0)


def test_options_that_submitit_cannot_take_are_refused(spec: RunSpec) -> None:
    with pytest.raises(InputError, match="time limit is unknown"):
        job_parameters(spec, 1, SlurmOptions(), (), None)
    with pytest.raises(InputError, match="not a time"):
        job_parameters(spec, 1, SlurmOptions(time="soon"), (), None)
    with pytest.raises(InputError, match="-C a100"):
        job_parameters(spec, 1, SlurmOptions(time="5", extra=("-C a100",)), (), None)


# A worker in place of bertjobs.train: it exits with CODE, or after a signal with AFTER_SIGNAL.
WORKER = """
import os, signal, sys, time
from pathlib import Path
folder = Path(os.environ["FOLDER"])
def stop(number, frame):
    (folder / "heard").write_text(signal.Signals(number).name)
    sys.exit(int(os.environ["AFTER_SIGNAL"]))
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR2, stop)
(folder / "started").touch()
time.sleep(float(os.environ["SLEEP"]))
sys.exit(int(os.environ["CODE"]))
"""
TASK = """
import sys
from pathlib import Path
from bertjobs.launch.submitit.job import RankJob
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmJobEnvironment

folder = Path(sys.argv[1])
delayed = DelayedSubmission(RankJob())
delayed.set_timeout(60, 3)
SlurmJobEnvironment()._handle_signals(JobPaths(folder, "7"), delayed)
sys.exit(delayed.result())
"""
Task = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def task(tmp_path: Path, tool: Tool) -> Task:
    """One task of a job under submitit's own signal handler, with a worker that does what the test says."""
    tool("scontrol", f'echo "$*" >{tmp_path}/requeued')
    (tmp_path / "worker.py").write_text(WORKER)

    def start(rank: int = 0, **worker: object) -> subprocess.Popen[str]:
        settings = {"CODE": 0, "SLEEP": 0, "AFTER_SIGNAL": 75, **worker, "FOLDER": tmp_path}
        python = tmp_path / "bin" / "python"  # the task's sys.executable: starts the worker above
        python.write_text(f'#!/bin/bash\nexec {sys.executable} {tmp_path}/worker.py "$@"\n')
        python.chmod(0o755)
        code = TASK.replace("import sys\n", f"import sys\nsys.executable = {str(python)!r}\n", 1)
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
                 "SLURM_PROCID": str(rank), **{name: str(value) for name, value in settings.items()}},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if worker.get("SLEEP"):
            wait_until((tmp_path / "started").exists)
        return process

    return start


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (75, 75), (64, 64), (70, 70), (1, 70)])
def test_a_task_ends_with_its_worker_s_code(task: Task, code: int, expected: int) -> None:
    assert outcome(task(CODE=code))[0] == expected


@pytest.mark.parametrize(("after", "expected"), [(75, 75), (70, 70), (0, 0), (3, 70)])
def test_submitit_s_signal_ends_in_a_checkpoint_and_what_comes_next_is_left_to_the_script(
    task: Task, tmp_path: Path, after: int, expected: int
) -> None:
    process = task(SLEEP=60, AFTER_SIGNAL=after)
    process.send_signal(signal.SIGUSR2)
    code, output = outcome(process)
    assert (tmp_path / "heard").read_text() == "SIGUSR2"
    assert code == expected, output
    assert not (tmp_path / "requeued").exists()


def test_other_ranks_leave_submitit_s_signal_to_the_first(task: Task, tmp_path: Path) -> None:
    process = task(SLEEP=1, rank=1)
    process.send_signal(signal.SIGUSR2)
    assert outcome(process)[0] == 0
    assert not (tmp_path / "heard").exists()
    assert not (tmp_path / "requeued").exists()


def test_a_term_is_passed_on_and_the_requeue_is_left_to_slurm(task: Task, tmp_path: Path) -> None:
    process = task(SLEEP=60)
    process.send_signal(signal.SIGTERM)
    assert outcome(process)[0] == 75
    assert (tmp_path / "heard").read_text() == "SIGTERM"
    assert not (tmp_path / "requeued").exists()
