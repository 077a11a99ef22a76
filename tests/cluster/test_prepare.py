"""`bertjobs data prepare --slurm` on a real Slurm: the same bytes as on one machine, whatever fails on the way."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertjobs.data.prepare import PHASES, PrepareOptions, ThisMachine, data_folder, prepare, work_folder
from bertjobs.data.prepare.array_options import ArrayOptions
from bertjobs.data.prepare.on_slurm import SlurmArrays
from bertjobs.data.prepare.work_folder import FOLDER_NAME, WorkFolder
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import EXIT_BAD_INPUT, BertjobsError, InputError
from bertjobs.files.atomic import sha256_of
from bertjobs.slurm.options import SlurmOptions
from tests.cluster import slurm as harness
from tests.cluster.process import Process, environment_of, job_processes
from tests.cluster.slow_steps import with_slow_tasks
from tests.cluster.slurm import PATIENCE_S, Cluster
from tests.data.conftest import quiet

WORDS = (
    *("the", "of", "and", "to", "in", "a", "that", "is", "for", "it", "was", "on", "be", "with", "as", "by", "our"),
    *("government", "people", "country", "nation", "congress", "states", "union", "peace", "war", "treasury"),
)
DOCUMENTS, SENTENCES = 60, 1200
PIECE_BYTES, BUCKET_BYTES = 500_000, 1_000_000
TASK_S = 0.3  # at least, where one is to be met


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About five megabytes of text, with a vocabulary beside it."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(DOCUMENTS):
        sentences = [
            " ".join([f"Speech{number}", *(WORDS[(number * 7 + at * 3 + place * (at % 5 + 1)) % len(WORDS)]
                                          for place in range(5 + at % 17))]) + "."
            for at in range(SENTENCES)
        ]  # fmt: skip
        (folder / f"{number:02}.txt").write_text("\n".join(sentences))
    letters = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789." for prefix in ("", "##")]
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(word for word in WORDS if word not in letters),
        *letters,
    ]
    (folder.parent / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_folder, "PIECE_BYTES", PIECE_BYTES)
        patch.setattr(work_folder, "BUCKET_BYTES", BUCKET_BYTES)
        yield


def options(corpus: Path, output: Path, **given: Any) -> PrepareOptions:
    settings = {"phases": (PHASES[1],), "duplicates": 2, "shards": 4, "format": "ids", **given}
    return PrepareOptions((f"text:{corpus}",), str(corpus.parent / "vocab.txt"), str(output), **settings)


def hashes(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): sha256_of(file) for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def expected(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process on one machine makes."""
    output = tmp_path_factory.mktemp("one") / "data"
    with ThisMachine(1) as machine:
        prepare(options(corpus, output), quiet, machine)
    return hashes(output)


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A cluster whose nodes tests may kill, with arrays of at most four elements, and enforced limits."""
    folder = Path(tempfile.mkdtemp(prefix="bertjobs-slurm-", dir="/tmp"))
    more = "MaxArraySize=4\nAccountingStorageEnforce=associations,limits\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "SLURM_CONF", harness.SLURM_CONF + more)
        cluster = Cluster.boot(folder)
    for words in ("add account prepare", "add user root account=prepare"):
        cluster.run(["sacctmgr", "-i", *words.split()])
    yield cluster
    cluster.stop()
    shutil.rmtree(folder)


def slow_tasks(cluster: Cluster, folder: Path) -> dict[str, str]:
    """An environment for tasks that are to be met in the middle."""
    return with_slow_tasks(folder / "slow", cluster.environment, TASK_S)


class Run:
    """A prepare on a cluster, with the messages that it printed."""

    def __init__(self, cluster: Cluster, output: Path, **asked: Any) -> None:
        self.messages: list[str] = []
        self.output = output
        self._cluster = cluster
        cut = {name: asked.pop(name) for name in ("jobs", "attempts") if name in asked}
        environment = asked.pop("environment", cluster.environment)
        arrays = ArrayOptions(SlurmOptions(**asked), **{"jobs": 4, **cut})
        self._runner = SlurmArrays(arrays, environment, self.messages.append, grace_s=1)

    def __call__(self, options: PrepareOptions, meanwhile: Callable[[], None] = lambda: None) -> bool:
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(self._prepare, options)
            try:
                meanwhile()
                return running.result(timeout=300)
            except BaseException:
                for process in job_processes(self._cluster.folder):
                    process.send(signal.SIGCONT)
                raise

    def _prepare(self, options: PrepareOptions) -> bool:
        with self._runner as runner:
            return prepare(options, quiet, runner)

    def count(self, words: str) -> int:
        return sum(words in line for line in self.messages)


def wait_for(seen: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := seen()):
        assert time.monotonic() < deadline, f"did not happen within {seconds} s"
        time.sleep(0.005)
    return result


def journals(output: Path) -> dict[str, list[dict[str, Any]]]:
    """What each job reported about its tasks; a job whose file was just removed is left out."""
    reports: dict[str, list[dict[str, Any]]] = {}
    for path in (output / FOLDER_NAME / "slurm").glob("*_*.jsonl"):
        with suppress(FileNotFoundError):
            reports[path.stem] = [json.loads(line) for line in path.read_text().splitlines()]
    return reports


def freeze_one(cluster: Cluster, output: Path) -> tuple[str, Process]:
    """Stop a job in the middle of a task, for good: its node, and the process. The task has not written its marker: it
    would be done, and its job have failed at nothing."""

    def in_a_task() -> list[str]:
        return [job for job, lines in journals(output).items() if lines and lines[-1]["event"] == "begin"]

    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for job in wait_for(in_a_task):
            stage, _ = not_done(output)
            for process in job_processes(cluster.folder):
                if is_task_of(process, job):
                    process.send(signal.SIGSTOP)
                    line, (now, numbers) = journals(output)[job][-1], not_done(output)
                    if line["event"] == "begin" and now == stage and line["number"] in numbers:
                        return line["node"], process
                    process.send(signal.SIGCONT)
    raise AssertionError("no job was caught in a task")


def not_done(output: Path) -> tuple[str, list[int]]:
    """The stage that is worked on, "" after the last one, and which of its tasks are not done."""
    work = WorkFolder.read(output)
    return next(((stage, numbers) for stage in work.stages if (numbers := work.missing(stage))), ("", []))


def element_of(process: Process) -> str:
    """The array's element that a process belongs to."""
    variables = environment_of(process)
    return f"{variables.get('SLURM_ARRAY_JOB_ID')}_{variables.get('SLURM_ARRAY_TASK_ID')}"


def is_task_of(process: Process, job: str) -> bool:
    """Whether it is the Python process that runs a job's tasks."""
    try:
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        return element_of(process) == job and b"submitit.core._submit" in command
    except OSError:
        return False


def lose(cluster: Cluster, node: str) -> None:
    """Kill a node's daemon and all that runs there, as a power cut does, and let Slurm notice it."""
    daemon = f"slurmd\0-D\0-N\0{node}\0".encode()
    for entry in Path("/proc").glob("[1-9]*"):
        with suppress(OSError):
            if (entry / "cmdline").read_bytes().endswith(daemon) and (entry / "cwd").readlink() == cluster.folder:
                os.kill(int(entry.name), signal.SIGKILL)
    for process in job_processes(cluster.folder):
        with suppress(OSError):
            if environment_of(process).get("SLURMD_NODENAME") == node:
                parent = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
                if Path(f"/proc/{parent}/comm").read_text() == "slurmstepd\n":
                    os.kill(parent, signal.SIGKILL)
                process.send(signal.SIGKILL)
    cluster.run(["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost"])


def test_the_bytes_are_those_of_one_machine_even_below_a_hostile_path(
    cluster: Cluster, corpus: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    run = Run(cluster, tmp_path / 'it\'s "my" $data; #1 (new)')
    assert run(options(corpus, run.output))
    assert hashes(run.output) == expected
    assert [line.split(":")[0] for line in run.messages] == ["tokenise", "pairs", "shards"]
    assert not run(options(corpus, run.output))


def test_job_arrays_drop_the_duplicates_that_one_process_drops(cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    """In a stage of one task, which waits for the first stage and which the others wait for."""
    copies = tmp_path / "copies"
    copies.mkdir()
    for name in ("03.txt", "40.txt"):
        shutil.copy(corpus / name, copies / name)
    given = {"drop_duplicates": "near", "held_out": 0.2}
    run, alone = Run(cluster, tmp_path / "data"), tmp_path / "alone"

    def both(output: Path) -> PrepareOptions:
        one = options(corpus, output, **given)
        return replace(one, corpora=(*one.corpora, f"text:{copies}"))

    with ThisMachine(1) as machine:
        prepare(both(alone), quiet, machine)
    assert run(both(run.output))
    assert hashes(run.output) == hashes(alone)
    assert [line.split(":")[0] for line in run.messages] == ["tokenise", "duplicates", "pairs", "shards"]
    assert [counts.dropped for counts in DataManifest.read(run.output).sources][1] == 2


@pytest.mark.parametrize("how", ["process", "scancel"])
def test_a_task_that_is_killed_midway_is_run_again(
    cluster: Cluster, corpus: Path, expected: dict[str, str], tmp_path: Path, how: str
) -> None:
    run = Run(cluster, tmp_path / "data", environment=slow_tasks(cluster, tmp_path))

    def kill() -> None:
        _, process = freeze_one(cluster, run.output)
        if how == "process":
            process.send(signal.SIGKILL)
        else:
            cluster.run(["scancel", "--full", "--signal=KILL", element_of(process)])

    assert run(options(corpus, run.output), kill)
    assert run.count("failed in job") == 1
    assert hashes(run.output) == expected


@pytest.mark.parametrize(
    "sbatch",
    [
        pytest.param((), id="slurm-requeues", marks=pytest.mark.slow),
        pytest.param(("--no-requeue",), id="prepare-queues-again"),
    ],
)
def test_a_node_lost_midway_changes_nothing(
    own_cluster: Cluster, corpus: Path, expected: dict[str, str], tmp_path: Path, sbatch: tuple[str, ...]
) -> None:
    run = Run(own_cluster, tmp_path / "data", extra=sbatch, environment=slow_tasks(own_cluster, tmp_path))

    def cut() -> None:
        node, _ = freeze_one(own_cluster, run.output)
        lose(own_cluster, node)

    assert run(options(corpus, run.output), cut)
    assert bool(run.count("failed in job")) == bool(sbatch)
    assert hashes(run.output) == expected


def test_a_node_that_fails_twice_is_left_out(
    cluster: Cluster, corpus: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    run = Run(cluster, tmp_path / "data", environment=slow_tasks(cluster, tmp_path))

    def kill_all_on_one_node() -> None:
        while not run.count("node node1 is left out"):
            for job, lines in journals(run.output).items():
                for process in job_processes(cluster.folder):
                    if lines and lines[-1]["node"] == "node1" and is_task_of(process, job):
                        process.send(signal.SIGKILL)
            time.sleep(0.005)

    assert run(options(corpus, run.output), kill_all_on_one_node)
    assert hashes(run.output) == expected


@pytest.mark.slow
def test_the_only_node_is_used_again_after_failures(
    cluster: Cluster, corpus: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    slow = slow_tasks(cluster, tmp_path)
    run = Run(cluster, tmp_path / "data", extra=("--nodelist=node2",), environment=slow)

    def kill_twice() -> None:
        while (times := run.count("failed in job")) < 2:
            freeze_one(cluster, run.output)[1].send(signal.SIGKILL)
            wait_for(lambda times=times: run.count("failed in job") > times)

    assert run(options(corpus, run.output), kill_twice)
    assert hashes(run.output) == expected
    assert run.count("node node2 is left out") == run.count("node2: used again") == 1


def test_arrays_are_no_larger_than_slurm_allows(
    own_cluster: Cluster, corpus: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    run = Run(own_cluster, tmp_path / "data", jobs=10)
    assert run(options(corpus, run.output))
    tokenise = next(line for line in run.messages if line.startswith("tokenise"))
    assert "in 10 Slurm jobs" in tokenise
    assert tokenise.count(",") >= 2, "three arrays"
    assert hashes(run.output) == expected


def test_a_limit_on_queued_jobs_delays_but_does_not_stop_the_work(
    own_cluster: Cluster, corpus: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    run = Run(own_cluster, tmp_path / "data", jobs=4)
    own_cluster.run(["sacctmgr", "-i", *["modify", "user", "root", "set", "MaxSubmitJobs=3"]])
    try:
        assert run(options(corpus, run.output))
    finally:
        own_cluster.run(["sacctmgr", "-i", *["modify", "user", "root", "set", "MaxSubmitJobs=-1"]])
    assert "in 2 Slurm jobs" in run.messages[0]
    assert run.count("AssocMaxSubmitJobLimit") >= 1
    assert hashes(run.output) == expected


class Tokenises(ThisMachine):
    """Runs the first stage, and is then killed."""

    def run(self, work: WorkFolder, stage: str, numbers: list[int], done: Callable[[int], None]) -> None:
        if stage != "tokenise":
            raise KeyboardInterrupt
        super().run(work, stage, numbers, done)


def test_a_task_that_always_fails_ends_in_an_error_that_names_it_and_its_log(
    cluster: Cluster, corpus: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    run = Run(cluster, tmp_path / "data")
    with pytest.raises(KeyboardInterrupt), Tokenises(1) as machine:
        prepare(options(corpus, run.output), quiet, machine)
    chunk = run.output / FOLDER_NAME / "tokenise" / "000001.00000.safetensors"
    chunk.rename(tmp_path / "aside")
    with pytest.raises(BertjobsError, match=r"of the stage 'pairs' failed 3 times(.|\n)*000001\.00000") as caught:
        run(options(corpus, run.output))
    assert caught.value.where is not None
    assert Path(caught.value.where.split(",")[0]).read_text().count("000001.00000") >= 1
    assert run.count("cancelled") == 1
    assert not cluster.run(["squeue", "-h"]).stdout
    (tmp_path / "aside").rename(chunk)
    again = Run(cluster, run.output)
    assert again(options(corpus, run.output))
    assert not again.count("tokenise:"), "nothing is lost"
    assert hashes(run.output) == expected


def test_bad_input_has_its_own_words_and_exit_code_and_is_not_tried_again(
    cluster: Cluster, corpus: Path, tmp_path: Path
) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    (tmp_path / "vocab.txt").write_bytes((corpus.parent / "vocab.txt").read_bytes())
    # Cut off where only a task that reads it all notices.
    whole = gzip.compress(random.Random(1).randbytes(1_500_000).hex(" ").encode(), 1)
    (tmp_path / "corpus" / "99.txt.gz").write_bytes(whole[:-50_000])
    run = Run(cluster, tmp_path / "data", attempts=3)
    with pytest.raises(BertjobsError, match=r"failed once(.|\n)*99\.txt\.gz") as caught:
        run(options(tmp_path / "corpus", run.output))
    assert caught.value.exit_code == EXIT_BAD_INPUT


DRIVER = """
import os, sys
from bertjobs.data.prepare import PHASES, PrepareOptions, data_folder, prepare, work_folder
from bertjobs.data.prepare.array_options import ArrayOptions
from bertjobs.data.prepare.on_slurm import SlurmArrays
from bertjobs.errors import BertjobsError
data_folder.PIECE_BYTES, work_folder.BUCKET_BYTES = 500_000, 1_000_000
corpus, vocabulary, output = sys.argv[1:]
options = PrepareOptions((f"text:{corpus}",), vocabulary, output, phases=(PHASES[1],), duplicates=2, shards=4,
                         format="ids")
try:
    with SlurmArrays(ArrayOptions(jobs=4, attempts=1), os.environ, grace_s=1) as runner:
        prepare(options, lambda *_: None, runner)
except BertjobsError as error:
    sys.exit(error.render())
"""


@pytest.fixture
def start(cluster: Cluster, corpus: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a prepare in a process of its own, perhaps as the argument of another command."""
    started = []

    def begin(output: Path, *before: str) -> subprocess.Popen[str]:
        words = [*before, sys.executable, "-c", DRIVER, str(corpus), str(corpus.parent / "vocab.txt"), str(output)]
        environment = slow_tasks(cluster, tmp_path)
        started.append(subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_ctrl_c_cancels_the_jobs_and_the_same_command_resumes(
    cluster: Cluster, corpus: Path, expected: dict[str, str], tmp_path: Path, start: Callable[..., Any]
) -> None:
    driver = start(tmp_path / "data")
    freeze_one(cluster, tmp_path / "data")
    driver.send_signal(signal.SIGINT)
    errors = driver.communicate(timeout=300)[1]
    assert "Slurm jobs cancelled" in errors
    assert not cluster.run(["squeue", "-h"]).stdout
    run = Run(cluster, tmp_path / "data")
    assert run(options(corpus, run.output))
    assert hashes(run.output) == expected


def test_the_jobs_continue_when_the_command_is_killed_and_the_next_one_takes_them_over(
    cluster: Cluster, corpus: Path, expected: dict[str, str], tmp_path: Path, start: Callable[..., Any]
) -> None:
    driver = start(tmp_path / "data")
    _, process = freeze_one(cluster, tmp_path / "data")
    driver.kill()
    driver.wait()
    process.send(signal.SIGCONT)
    work = WorkFolder.read(tmp_path / "data")
    wait_for(lambda: not work.missing("tokenise") and not work.missing("pairs"))
    run = Run(cluster, tmp_path / "data")
    assert run(options(corpus, run.output))
    assert not run.count("tokenise:") + run.count("pairs:") + run.count("shards:")
    assert hashes(run.output) == expected


def test_an_output_that_the_nodes_do_not_see_is_reported(tmp_path: Path, start: Callable[..., Any]) -> None:
    script = 'mount -t tmpfs none "$0" && exec "$@"'
    driver = start(tmp_path / "data", "unshare", "--mount", "sh", "-c", script, str(tmp_path))
    errors = driver.communicate(timeout=300)[1]
    assert driver.returncode == 1
    assert "do all nodes see this folder" in errors


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("data", {"partition": "nowhere"}, "sbatch refused: .*invalid partition specified: nowhere"),
        ("100%j", {}, "sbatch cannot write logs .* there is a '%' in the path"),
    ],
)
def test_what_sbatch_refuses_leaves_nothing_behind(
    cluster: Cluster, corpus: Path, tmp_path: Path, name: str, asked: dict[str, str], words: str
) -> None:
    run = Run(cluster, tmp_path / name, **asked)
    with pytest.raises(InputError, match=words):
        run(options(corpus, run.output))
    assert not run.output.exists()


def test_a_surrounding_job_does_not_leak(
    cluster: Cluster, corpus: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaking = {"SBATCH_PARTITION": "nowhere", "SLURM_CPU_BIND": "mask_cpu:0x1", "SLURM_JOB_ID": "77"}
    monkeypatch.setattr(cluster, "environment", {**cluster.environment, **leaking})
    before = dict(os.environ)
    run = Run(cluster, tmp_path / "data", cpus=2, jobs=2)
    assert run(options(corpus, run.output))
    assert hashes(run.output) == expected
    assert dict(os.environ) == before
