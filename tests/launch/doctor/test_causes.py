"""For each cause, a real worker ends for it, and the doctor, reading only what that left behind, names it and the right
command: from all of it, from the logs alone (the disk was full), and from the journal alone (the logs were deleted)."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from bertjobs.data.check import shard_watch
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.launch.doctor.diagnose import diagnose
from bertjobs.launch.doctor.evidence import collect
from bertjobs.launch.doctor.verdict import Standing, Verdict
from bertjobs.launch.local import free_port, identity, rank_environment
from bertjobs.launch.resume import resumed
from bertjobs.launch.start import write_run
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.run import directory as run_directory
from bertjobs.run.causes import Cause
from bertjobs.run.directory import RunDirectory
from bertjobs.run.journal import read_story
from bertjobs.run.settings import check_unchanged
from bertjobs.slurm.client import Slurm
from bertjobs.train import loop, step
from bertjobs.train.checkpoint import writer as checkpoint_writer
from bertjobs.train.signals import StopRequest
from bertjobs.train.worker import main
from tests.forkserver import CONTEXT, preload
from tests.train.conftest import PHASES, prepared

preload(__name__)
PATIENCE_S = 600.0  # for a busy machine
TOGETHER = 4  # how many scenes are played at the same time
AT = 4  # the step at which a fault strikes
JOB = "local-1"
RESUME = r"bertjobs resume trial --results \S+"
LONG = {"phases": {1: {**PHASES[1], "steps": 5000, "checkpoint_every": 5000, "validate_every": 0}}}

Fault = Callable[[], None]


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def fail() -> None:
    raise ValueError("a batch of another world")


def run_out_of_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.70 GiB.\nSee the documentation.")


def take_all_memory() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def is_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_disk() -> None:
    checkpoint_writer.write_hashed = is_full  # type: ignore[assignment]


def fill_all_disks() -> None:
    """The journal cannot be written either."""
    fill_disk()
    run_directory.append_line = is_full  # type: ignore[assignment]


def leave_no_room() -> None:
    """Before the worker begins: the node check sees a disk that is nearly full."""
    shutil.disk_usage = lambda _: SimpleNamespace(total=10**12, used=10**12 - 1000, free=1000)  # type: ignore


def alter_a_shard() -> None:
    """Another file of the same size takes the first shard's name; what is mapped stays as it was."""
    split = DataManifest.read(os.environ["DATADIR"]).phase(1).train
    shard = split.folder / split.files[0].name
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.with_name("new").write_bytes(content)
    shard.with_name("new").rename(shard)


def watch_shards_closely() -> None:
    shard_watch.ShardWatch.__init__.__defaults__ = (0.05,)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Scene:
    """A run, what happens to ``victim``, and the verdict that is expected.

    Attributes:
        cause: the journal's, None if no journal could be written.
        verdict, sentence, command: the doctor's, the last two as patterns.
        fault: what happens at step `AT`; ``before``: what happens on all ranks before they begin.
        recipe, environ: change the run; ``port``: where rank 0 listens, 0 for any port.
        attempts: how many attempts follow each other, as in one chain.
        in_log: whether the log alone shows it: a stop with a checkpoint is not an error.
    """

    cause: Cause | None
    verdict: Cause | Standing
    sentence: str
    command: str = RESUME
    fault: Fault | None = None
    before: Fault | None = None
    victim: int = 0
    ranks: int = 1
    recipe: Mapping[str, object] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    attempts: int = 1
    in_log: bool = True


GPU_MEMORY = "rank 1 ran out of GPU memory with a micro-batch of 2 sequences; 6 gradient steps make it 1"
GRADIENT_STEPS = rf"{RESUME} --set phase1\.gradient_steps=6"


def scenes(taken: int) -> dict[str, Scene]:
    chain = {"BERTJOBS_CHAIN": "chain-1"}
    return {
        "killed": Scene(
            Cause.LOST_RANK, Cause.LOST_RANK, "rank 1 died first without an error message: it was killed, or its node",
            fault=partial(send, signal.SIGKILL), victim=1, ranks=2,
        ),
        "failed": Scene(
            Cause.CRASHED, Cause.CRASHED, "rank 1 failed first: .*ValueError: a batch of another world",
            r"bertjobs logs trial --results \S+ --phase 1", fault=fail, victim=1, ranks=2,
        ),
        "gpu memory": Scene(
            Cause.GPU_MEMORY, Cause.GPU_MEMORY, GPU_MEMORY, GRADIENT_STEPS, run_out_of_gpu_memory, victim=1, ranks=2
        ),
        "budget": Scene(
            Cause.NOT_RESTARTED, Cause.GPU_MEMORY, GPU_MEMORY, GRADIENT_STEPS, run_out_of_gpu_memory, victim=1, ranks=2,
            recipe={"restarts_out_of_memory": 0}, environ=chain, attempts=2,
        ),
        "host memory": Scene(
            Cause.HOST_MEMORY, Cause.HOST_MEMORY, "rank 0 of job local-1 could not get any more memory",
            fault=take_all_memory,
        ),
        "hang": Scene(
            Cause.HANG, Cause.HANG, "the run hung: the others waited for rank 1", fault=partial(send, signal.SIGSTOP),
            victim=1, ranks=2, recipe={"hang_timeout_s": 5},
        ),
        "disk": Scene(
            Cause.DISK, Cause.DISK, "the disk is full: free some space, then resume from the beginning", fault=fill_disk
        ),
        "all disks": Scene(None, Cause.DISK, "the disk is full", fault=fill_all_disks),
        "gradients": Scene(
            Cause.GRADIENTS, Cause.GRADIENTS,
            "the gradients are no longer finite in any step with the loss scale fixed at 2e",
            r"bertjobs submit .* --run trial-2 --set loss_scale=0", recipe={"precision": "fp16", "loss_scale": 2e9},
        ),
        "unfit": Scene(
            Cause.UNFIT_NODE, Cause.UNFIT_NODE, "the node check before the first step failed: refusing to train on ",
            before=leave_no_room,
        ),
        "damaged": Scene(
            Cause.DAMAGED_SHARD, Cause.DAMAGED_SHARD, "shard train/.* was altered: .*; restore it from a copy, then",
            before=alter_a_shard,
        ),
        "skipped": Scene(
            Cause.BAD_SHARD, Standing.STOPPED, r"local-1 stopped with a checkpoint \(bad shard\): step-",
            fault=alter_a_shard, before=watch_shards_closely, recipe={**LONG, "on_bad_shard": "skip"}, in_log=False,
        ),
        "refused": Scene(
            None, Cause.BAD_INPUT, "/nowhere.*; correct it, then resume", environ={"DATADIR": "/nowhere"}
        ),
        "port": Scene(
            None, Cause.PORT, "a new job uses another port", environ={"BERTJOBS_JOIN_TIMEOUT_S": "2"}, ranks=2,
            port=taken,
        ),
        "done": Scene(
            Cause.DONE, Standing.DONE, "phase 1 is done", r"bertjobs report trial --results \S+",
            recipe={"phases": {1: {**PHASES[1], "steps": 3}}},
        ),
        "as asked": Scene(
            Cause.STEPS_THIS_RUN, Standing.STOPPED, r"\(STEPS_THIS_RUN\): step-00000005",
            environ={"STEPS_THIS_RUN": "5"}, in_log=False,
        ),
        "time limit near": Scene(
            Cause.SIGUSR2, Cause.TIME_LIMIT, "reached its time limit; it resumes from step-00000004",
            fault=partial(send, signal.SIGUSR2), in_log=False,
        ),
        "terminated": Scene(
            Cause.SIGTERM, Standing.STOPPED, r"stopped with a checkpoint \(SIGTERM\): step-00000004",
            fault=partial(send, signal.SIGTERM), in_log=False,
        ),
        "terminal closed": Scene(
            Cause.SIGHUP, Standing.STOPPED, r"stopped with a checkpoint \(SIGHUP\): step-00000004",
            fault=partial(send, signal.SIGHUP), in_log=False,
        ),
    }  # fmt: skip


ELSEWHERE = {
    Cause.NODE_FAILURE: "only Slurm sees a node fail: tests/launch/doctor/test_diagnose.py, by what it prints",
    Cause.TIME_LIMIT: "only Slurm kills at a time limit: tests/cluster/test_doctor.py",
    Cause.PREEMPTED: "only Slurm preempts: tests/cluster/test_doctor.py",
    Cause.REQUEUED: "only Slurm requeues: tests/cluster/test_chain.py",
    Cause.CANCELLED: "only Slurm's accounting distinguishes it from other signals: tests/cluster/test_doctor.py",
    Cause.LAUNCH: "only Slurm launches: tests/cluster/test_other_clusters.py, tests/slurm/test_launch_failures.py",
    Cause.CONTAINER: "needs a container: tests/cluster/test_containers.py, tests/launch/doctor/test_containers.py",
    Cause.MODULE_MISSING: "no worker that lacks a module writes a journal: tests/cluster/test_containers.py",
    Cause.BAD_INPUT: "played ('refused'), but before there is a job whose journal could name it",
    Cause.PORT: "played ('port'), but before there is a job whose journal could name it",
}
"""Causes that no scene's journal names, and why."""


def test_each_cause_is_played_or_has_a_reason_why_not() -> None:
    played = {scene.cause for scene in scenes(0).values() if scene.cause}
    assert played | ELSEWHERE.keys() == set(Cause)
    assert not played & ELSEWHERE.keys()


def run_rank(environ: Mapping[str, str], log: Path, fault: Fault | None, before: Fault | None) -> None:
    """One rank, as the local launcher starts it; all write one log."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.clear()
    os.environ.update(environ)
    if before is not None:
        before()
    if fault is not None:
        original, calls = step.train_step, []

        def trapped(*args: object) -> object:
            calls.append(1)
            if len(calls) == AT:
                fault()
            return original(*args)  # type: ignore[arg-type]

        loop.train_step = trapped  # type: ignore[assignment]
    stop = StopRequest()
    stop.listen()
    code = main(os.environ, stop)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@dataclass
class Stage:
    """A scene in progress: its ranks, and the attempts that are still to come."""

    scene: Scene
    spec: RunSpec
    directory: RunDirectory
    data: Path
    attempt: int = -1
    ranks: list[multiprocessing.process.BaseProcess] = field(default_factory=list)

    def start(self) -> None:
        """Start the next attempt."""
        self.attempt += 1
        port = self.scene.port or free_port()
        log = self.directory.phase(1).logs / f"{JOB}-{self.attempt}.out"
        self.ranks = []
        for rank in range(self.scene.ranks):
            base = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
            environ = rank_environment(base, self.spec, 1, rank, port=port, job=JOB, attempt=self.attempt)
            environ |= {"DATADIR": str(self.data), "OMP_NUM_THREADS": "1", **self.scene.environ}
            fault = self.scene.fault if rank == self.scene.victim else None
            process = CONTEXT.Process(target=run_rank, args=(environ, log, fault, self.scene.before))
            process.start()
            self.ranks.append(process)

    @property
    def is_over(self) -> bool:
        """Whether the attempt has ended, except for a rank that was stopped."""
        alive = [rank for rank, process in enumerate(self.ranks) if process.is_alive()]
        return not alive or (self.scene.cause is Cause.HANG and alive == [self.scene.victim])


def prepare_stage(folder: Path, scene: Scene, data: Path) -> Stage:
    folder.mkdir()
    if alter_a_shard in (scene.fault, scene.before):
        data = shutil.copytree(data, folder / "data")
    recipe = {"system": "cpu-node", "model": "bert-nano", "precision": "fp32", "phases": PHASES, **scene.recipe}
    (folder / "recipes.yml").write_text(yaml.safe_dump({"recipes": {"trial": recipe}}))
    flags = {"recipe": "trial", "results": str(folder / "results"), "data": str(data), "nodes": str(scene.ranks)}
    spec = resolve(load_catalogue([builtin_file(), folder / "recipes.yml"]), flags=flags, environ={}).spec
    directory = write_run(spec)
    directory.record("submitted", backend="local", phase=1, job=JOB, **identity() | {"pid": 1})
    return Stage(scene, spec, directory, data)


def play(stages: list[Stage]) -> None:
    """Play some scenes at the same time, until all have ended."""
    deadline = time.monotonic() + PATIENCE_S
    for stage in stages:
        stage.start()
    playing = list(stages)
    try:
        while playing and time.monotonic() < deadline:
            for stage in [stage for stage in playing if stage.is_over]:
                if stage.attempt + 1 < stage.scene.attempts:
                    stage.start()
                else:
                    playing.remove(stage)
            time.sleep(0.05)
    finally:
        for process in (process for stage in stages for process in stage.ranks):
            process.kill()
    assert not playing, "not over:\n" + "\n".join(
        f"{stage.directory.root}: {[process.exitcode for process in stage.ranks]}\n{log.read_text()[-3000:]}"
        for stage in playing
        for log in stage.directory.phase(1).logs.iterdir()
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """All scenes, played."""
    folder = tmp_path_factory.mktemp("scenes")
    data = prepared(slice(0, 4), folder / "speeches").folder
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        named = scenes(listener.getsockname()[1])
        stages = {name: prepare_stage(folder / name.replace(" ", "-"), scene, data) for name, scene in named.items()}
        for batch in batched(stages.values(), TOGETHER):
            play(batch)
    return stages


def batched(stages: Iterable[Stage], size: int) -> list[list[Stage]]:
    ordered = list(stages)
    return [ordered[first : first + size] for first in range(0, len(ordered), size)]


def verdict_on(directory: RunDirectory) -> Verdict:
    target = f"trial --results {directory.root.parent}"
    return diagnose(collect(directory, Slurm({"PATH": ""}), target, time.time()))


def check(verdict: Verdict, scene: Scene) -> None:
    assert verdict.cause is scene.verdict, verdict
    assert re.search(scene.sentence, verdict.sentence), verdict
    assert re.fullmatch(scene.command, verdict.command), verdict


@pytest.mark.parametrize("name", scenes(0))
def test_the_doctor_names_the_cause_and_the_command(played: dict[str, Stage], name: str) -> None:
    stage = played[name]
    check(verdict_on(stage.directory), stage.scene)
    story = read_story(stage.directory.events())
    assert (story.attempts[-1].cause if story.attempts else None) is stage.scene.cause
    if stage.scene.cause:
        assert story.attempts[-1].exit_code == stage.scene.cause.exit_code


@pytest.mark.parametrize("name", [name for name, scene in scenes(0).items() if scene.in_log])
def test_the_log_alone_is_enough(played: dict[str, Stage], name: str, tmp_path: Path) -> None:
    stage = played[name]
    directory = RunDirectory(shutil.copytree(stage.directory.root, tmp_path / "results" / stage.directory.name))
    directory.journal.unlink()
    check(verdict_on(directory), stage.scene)


@pytest.mark.parametrize("name", [name for name, scene in scenes(0).items() if scene.cause])
def test_the_journal_alone_is_enough(played: dict[str, Stage], name: str, tmp_path: Path) -> None:
    stage = played[name]
    directory = RunDirectory(shutil.copytree(stage.directory.root, tmp_path / "results" / stage.directory.name))
    for log in directory.phase(1).logs.iterdir():
        log.unlink()
    check(verdict_on(directory), stage.scene)


def test_the_sentence_of_an_error_is_not_read(played: dict[str, Stage], tmp_path: Path) -> None:
    """Reworded errors with the same fields get the same verdicts."""
    for name in ("killed", "budget", "hang", "disk", "gradients", "unfit", "damaged"):
        stage = played[name]
        directory = RunDirectory(shutil.copytree(stage.directory.root, tmp_path / name / stage.directory.name))
        directory.journal.unlink()
        for log in directory.phase(1).logs.iterdir():
            log.write_text(re.sub(r"(?m)^((?:rank \d+: )?error: ).*", r"\1in other words", log.read_text()))
        verdict = verdict_on(directory)
        assert verdict.cause is stage.scene.verdict, verdict
        assert re.fullmatch(stage.scene.command, verdict.command), verdict


def test_a_spent_budget_names_both_what_is_refused_and_what_spent_it(played: dict[str, Stage]) -> None:
    stage = played["budget"]
    verdict = verdict_on(stage.directory)
    words = "job local-1 was not restarted: 1 attempt ran out of memory; the recipe allows no restarts"
    assert any(words in line for line in verdict.evidence), verdict
    assert "OutOfMemoryError" in verdict.evidence[0]
    first, refused = read_story(stage.directory.events()).attempts
    assert (first.cause, refused.cause, refused.spent_by) == (Cause.GPU_MEMORY, Cause.NOT_RESTARTED, Cause.GPU_MEMORY)
    assert first.failure is not None
    assert first.failure.rank == 1, "rank 0 only sees that rank 1 is gone"


def test_suggested_gradient_steps_are_accepted(played: dict[str, Stage]) -> None:
    stage = played["gpu memory"]
    setting = verdict_on(stage.directory).command.split()[-1]
    spec = resumed(stage.directory, [setting]).spec
    assert (spec.phase(1).gradient_steps, spec.phase(1).micro_batch) == (6, 1)
    check_unchanged(spec, stage.directory, [1])


def test_the_evidence_is_from_the_failing_rank_itself(played: dict[str, Stage]) -> None:
    evidence = {name: verdict_on(stage.directory).evidence for name, stage in played.items()}
    assert evidence["killed"][0].startswith("rank 0: error: another rank is gone")
    assert evidence["failed"][0] == "rank 1: ValueError: a batch of another world"
    assert "DefaultCPUAllocator" in evidence["host memory"][0]
    assert "rank 1 did not arrive" in evidence["hang"][0]
    assert any("and no longer answers" in line for line in evidence["hang"])
    assert "No space left on device" in evidence["disk"][0]
    assert any("free in the file system of" in line for line in evidence["disk"])
    assert "25 steps in a row" in evidence["gradients"][0]
    assert any("MASTER_PORT=" in line for line in evidence["port"])
    assert not any("--mem" in verdict_on(stage.directory).command for stage in played.values()), "Slurm's alone"


def test_if_the_disk_takes_no_journal_the_cause_is_still_in_the_log(played: dict[str, Stage]) -> None:
    stage = played["all disks"]
    assert "ended" not in {json.loads(line)["event"] for line in stage.directory.journal.read_text().splitlines()}
    log = stage.directory.phase(1).logs / f"{JOB}-0.out"
    assert "  cause: disk\n" in log.read_text()
