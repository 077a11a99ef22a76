"""What submitit is told: its batch script and pickles, and what a rank makes of signals and exit codes."""

from __future__ import annotations

import math
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.errors import BertjobsError, InputError
from bertjobs.launch.script import SlurmOptions
from bertjobs.launch.submitit_backend import job_parameters, queue_submitit, srun_line
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
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
    return directory


@pytest.fixture
def environ(tool: Tool, tmp_path: Path) -> dict[str, str]:
    """A submit host whose sbatch writes down what it was given."""
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


@pytest.mark.parametrize(("code", "terminated", "requeued"), [(75, "", True), (75, "1", False), (64, "", False)])
def test_the_script_requeues_a_job_whose_container_cannot(
    spec: RunSpec, tmp_path: Path, tool: Tool, code: int, terminated: str, requeued: bool
) -> None:
    tool("scontrol", f'echo "$*" >{tmp_path}/requeued')
    teardown = job_parameters(spec, 1, FOUR_HOURS, (), None)
    assert "teardown" not in teardown, "without a container submitit does it"
    lines = job_parameters(replace(spec, image="x"), 1, FOUR_HOURS, (), None)["teardown"]
    script = "\n".join([f"terminated={terminated}", f"(exit {code})", *lines])
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], env={"PATH": path, "SLURM_JOB_ID": "7"}, check=False)
    assert done.returncode == code
    assert (tmp_path / "requeued").exists() == requeued


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


def test_a_controller_that_is_away(spec: RunSpec, directory: RunDirectory, environ: dict[str, str], tool: Tool) -> None:
    tool("sbatch", "echo 'sbatch: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(BertjobsError, match="found no cluster") as caught:
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


def test_options_that_submitit_cannot_take_are_refused(spec: RunSpec) -> None:
    with pytest.raises(InputError, match="time limit is unknown"):
        job_parameters(spec, 1, SlurmOptions(), (), None)
    with pytest.raises(InputError, match="not a time"):
        job_parameters(spec, 1, SlurmOptions(time="soon"), (), None)
    with pytest.raises(InputError, match="-C a100"):
        job_parameters(spec, 1, SlurmOptions(time="5", extra=("-C a100",)), (), None)


def test_a_hostile_path_reaches_srun_whole(spec: RunSpec, tmp_path: Path) -> None:
    hostile = replace(spec, results=f"{tmp_path}/it's $(touch x) #1")
    line = srun_line(hostile, 1, FOUR_HOURS)
    script = f"srun() {{ printf '%s\\n' \"$@\"; }}\ncpus=2 SLURM_JOB_ID=7 SLURM_RESTART_COUNT=3\n{line}"
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert f"--output={hostile.results}/first/phase1/logs/7-3.out" in said
    assert said[-1] == sys.executable


# A worker in place of bertjobs.train: it ends as its last argument says, after a signal as its second says.
WORKER = """
import os, signal, sys, time
from pathlib import Path
folder = Path(os.environ["FOLDER"])
def stop(number, frame):
    (folder / "heard").write_text(signal.Signals(number).name)
    if os.environ["WRITES"] == "1":
        (folder / "run" / "phase1" / "checkpoints" / "step-00000007").mkdir(parents=True)
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
from bertjobs.launch.submitit_job import PhaseJob
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmJobEnvironment

folder = Path(sys.argv[1])
delayed = DelayedSubmission(PhaseJob(folder / "run", 1, dict(word.split("=") for word in sys.argv[2:])))
delayed.set_timeout(60, 3)
SlurmJobEnvironment()._handle_signals(JobPaths(folder, "7"), delayed)
sys.exit(delayed.result())
"""
Task = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def task(tmp_path: Path, tool: Tool) -> Task:
    """One task of a job under submitit's own signal handler, with a worker that does as it is told."""
    tool("scontrol", f'echo "$*" >{tmp_path}/requeued')
    (tmp_path / "worker.py").write_text(WORKER)

    def start(*settings: str, rank: int = 0, **worker: object) -> subprocess.Popen[str]:
        told = {"CODE": 0, "SLEEP": 0, "AFTER_SIGNAL": 75, "WRITES": 1, **worker, "FOLDER": tmp_path}
        words = [*settings, *(f"{name}={value}" for name, value in told.items())]
        python = tmp_path / "bin" / "python"  # what sys.executable of the task is: starts the worker above
        python.write_text(f'#!/bin/bash\nexec {sys.executable} {tmp_path}/worker.py "$@"\n')
        python.chmod(0o755)
        code = TASK.replace("import sys\n", f"import sys\nsys.executable = {str(python)!r}\n", 1)
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), *words],
            env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
                 "SLURM_PROCID": str(rank)},
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


def test_submitit_s_signal_ends_in_a_checkpoint_and_a_requeue(task: Task, tmp_path: Path) -> None:
    process = task(SLEEP=60)
    process.send_signal(signal.SIGUSR2)
    code, output = outcome(process)
    assert (tmp_path / "heard").read_text() == "SIGUSR2"
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert code == 255, output
    again = pickle.loads((tmp_path / "7_submitted.pkl").read_bytes())
    assert again.function.settings["FOLDER"] == str(tmp_path)
    assert again._timeout_countdown in (2, 3)


def test_other_ranks_leave_submitit_s_signal_to_the_first(task: Task, tmp_path: Path) -> None:
    process = task(SLEEP=1, rank=1)
    process.send_signal(signal.SIGUSR2)
    assert outcome(process)[0] == 0
    assert not (tmp_path / "heard").exists()
    assert not (tmp_path / "requeued").exists()


def test_a_term_is_passed_on_and_the_requeue_left_to_slurm(task: Task, tmp_path: Path) -> None:
    process = task(SLEEP=60)
    process.send_signal(signal.SIGTERM)
    assert outcome(process)[0] == 75
    assert (tmp_path / "heard").read_text() == "SIGTERM"
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize(
    ("settings", "worker", "expected"),
    [
        (("STEPS_THIS_RUN=5",), {}, 75),
        ((), {"WRITES": 0}, 70),
        ((), {"AFTER_SIGNAL": 70}, 70),
        ((), {"AFTER_SIGNAL": 0}, 0),
    ],
    ids=["a person wanted so many steps", "no checkpoint", "it failed", "it was done"],
)
def test_what_is_not_requeued(
    task: Task, tmp_path: Path, settings: tuple[str, ...], worker: dict[str, int], expected: int
) -> None:
    process = task(*settings, SLEEP=60, **worker)
    process.send_signal(signal.SIGUSR2)
    assert outcome(process)[0] == expected
    assert not (tmp_path / "requeued").exists()
