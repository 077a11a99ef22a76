"""A run of two phases goes through all that can happen to it, and ends like the run to which nothing happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bertjobs.files.atomic import sha256_of
from bertjobs.run.directory import RunDirectory
from bertjobs.run.journal import read_story
from bertjobs.run.owner import Owners
from tests.cluster.chaos.faults import FAULTS, Fault, MetNobody
from tests.cluster.chaos.run import AttackedRun, Attempt
from tests.cluster.slow_steps import SlowSteps
from tests.cluster.slurm import PATIENCE_S, Cluster
from tests.cluster.unreliable import UnreliableCommands
from tests.conftest import run_bertjobs, wait_until

ASKED = os.environ.get("BERTJOBS_CHAOS_SEED")
FEW = 4  # faults that `make test` draws
SLOW_SEEDS = (5, 11)  # of two runs that share the faults, to take half as long; `make chaos` has all in one
EVERY = 5  # steps between checkpoints
STEP_S = 1.5  # at least, while faults are left: the slowest of them takes 45 s by Slurm's own clocks
NEAR_THE_END = 2 * EVERY  # steps of a phase in which no fault is injected
CLOCKS_S = 0.05  # between the clock of files and that of processes
DISK = "192m"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def steps_for(faults: int) -> dict[int, int]:
    """Steps of each phase, enough for so many faults beside those at a phase's end."""
    return {1: 4 * faults + 8, 2: 9 * faults + 12}


def recipe(steps: Mapping[int, int]) -> dict[str, Any]:
    phases = {
        1: {"steps": steps[1], "checkpoint_every": EVERY, "global_batch": 256},
        2: {"steps": steps[2], "checkpoint_every": EVERY, "global_batch": 32},
    }
    return {"recipes": {"laptop-scratch": {"model": "bert-nano", "restarts_crashed": 9, "phases": phases}}}


@dataclass(frozen=True)
class Outcome:
    """A fault that was injected, and its outcome.

    Attributes:
        phase, step: the newest step at the time.
        cause: the journal's word for the end of the attempt, "" if it survived.
        repeated_steps: how many steps were computed a second time.
        lost_s: seconds until a newer step than that one was done.
    """

    fault: str
    phase: int
    step: int
    cause: str
    repeated_steps: int
    lost_s: float


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system of its own can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def words(folder: Path, data: Path, results: Path, steps: Mapping[int, int], *more: object) -> list[str]:
    """The command that submits the run from ``folder``; it asks for two nodes and nothing else."""
    (folder / "bertjobs.yml").write_text(json.dumps(recipe(steps)))
    asked = ["submit", "--recipe", "laptop-scratch", "--nodes", 2, "--data", data, "--results", results]
    return [str(word) for word in (*asked, "--run", "chaos", *more)]


def submit(
    environment: Mapping[str, str], folder: Path, data: Path, results: Path, steps: Mapping[int, int]
) -> RunDirectory:
    """Queue the run on the cluster."""
    environ = {**environment, **ONE_THREAD, "BERTJOBS_JOIN_TIMEOUT_S": "120"}
    done = run_bertjobs(words(folder, data, results, steps), folder, environ)
    assert done.returncode == 0, done.stderr
    return RunDirectory(results / "chaos")


@dataclass(frozen=True)
class Draw:
    """The seed of a run, the faults that it draws from, and how many it draws."""

    seed: int
    among: tuple[Fault, ...]
    count: int

    @classmethod
    def all_of(cls, seed: int, among: tuple[Fault, ...]) -> Draw:
        return cls(seed, among, len(among))

    def __str__(self) -> str:
        return f"seed-{self.seed}-{self.count}-faults"


@pytest.fixture
def steps(draw: Draw) -> dict[int, int]:
    return steps_for(draw.count)


@pytest.fixture
def quiet(speeches_data: Path, tmp_path: Path, steps: dict[int, int]) -> Iterator[Callable[[], RunDirectory]]:
    """The same run without faults, on this machine, while the other mostly waits; the function waits
    for its end."""
    log, results = tmp_path / "quiet.out", tmp_path / "results"
    command = [sys.executable, "-m", "bertjobs", *words(tmp_path, speeches_data, results, steps, "--backend", "local")]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **ONE_THREAD}, stdout=out, stderr=out)

    def done() -> RunDirectory:
        assert process.wait(timeout=2 * PATIENCE_S) == 0, log.read_text()
        return RunDirectory(results / "chaos")

    yield done
    process.terminate()
    process.wait()


def attack(
    run: AttackedRun, left: list[Fault], steps: Mapping[int, int], random: Random
) -> tuple[Fault, Attempt, tuple[int, int], float]:
    """Inject the first fault of those left that fits the run's place, once the attempt that trains has a checkpoint of
    its own, at a random moment between two others.

    Raises:
        MetNobody: that attempt was over before.
    """
    fitting: list[Fault] = []

    def fits() -> bool:
        phase, step = run.place()
        fitting[:] = [fault for fault in left if fault.at_phase_end == (step > steps[phase] - NEAR_THE_END)]
        return bool(fitting)

    wait_until(lambda: (run.has_gained() and fits()) or run.done())
    assert not run.done(), f"the run was over before {left[0].what}"
    fault, (phase, step) = fitting[0], run.place()
    target = step if fault.at_phase_end else step + random.randrange(EVERY)
    wait_until(lambda: run.place() >= (phase, target) or run.done())
    attempt, place, began = run.attempt(), run.place(), time.monotonic()
    assert attempt is not None
    fault.inject(run, attempt, random)
    return fault, attempt, place, began


def survive(run: AttackedRun, attempt: Attempt, fault: Fault) -> int:
    """Wait until the run is beyond where it was; how many steps were computed a second time."""
    farthest = run.place()

    def goes_on() -> bool:
        nonlocal farthest
        if run.attempt() != attempt or not fault.causes:
            return True
        farthest = max(farthest, run.place())
        return False

    wait_until(lambda: goes_on() or run.done())
    again = run.attempt()
    assert again is not None
    wait_until(lambda: run.place() > farthest or run.done())
    followed = again != attempt and again.phase == attempt.phase
    return run.last_step(attempt) - again.from_step if followed else 0


@pytest.mark.parametrize(
    "draw",
    [
        Draw.all_of(int(ASKED), FAULTS) if ASKED else Draw(1, FAULTS, FEW),
        *(
            pytest.param(Draw.all_of(seed, FAULTS[place :: len(SLOW_SEEDS)]), marks=pytest.mark.slow)
            for place, seed in enumerate(SLOW_SEEDS)
        ),
    ],
    ids=str,
)
def test_a_run_survives_all_faults_together_and_ends_as_if_there_had_been_none(
    cluster: Cluster,
    speeches_data: Path,
    tmp_path: Path,
    disk: Path,
    quiet: Callable[[], RunDirectory],
    draw: Draw,
    steps: dict[int, int],
) -> None:
    random = Random(draw.seed)
    commands = UnreliableCommands(tmp_path / "commands", cluster.environment)
    slow = SlowSteps(tmp_path / "slow", commands.environment, STEP_S)
    run = AttackedRun(
        cluster, submit(slow.environment, tmp_path, speeches_data, disk / "results", steps), disk, commands
    )
    left, injected = random.sample(draw.among, draw.count), []
    while left:
        try:
            fault, attempt, (phase, step), began = attack(run, left, steps, random)
        except MetNobody:
            continue
        repeated = survive(run, attempt, fault)
        if fault.causes and run.missed(attempt):
            continue
        left.remove(fault)
        outcome = Outcome(fault.what, phase, step, "", repeated, round(time.monotonic() - began, 1))
        injected.append((fault, attempt, outcome))
        print(outcome, flush=True)
    slow.release()
    wait_until(run.done)
    story = read_story(run.directory.events())
    outcomes = []
    for fault, at, outcome in injected:
        cause = (story.attempt(at.phase, at.job, at.number).counts_as or "") if fault.causes else ""
        outcomes.append(replace(outcome, cause=cause))
        assert not fault.causes or cause in fault.causes, outcomes[-1]
    write_table(outcomes)
    for phase, count in steps.items():
        lines = run.directory.phase(phase).metrics.read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, count + 1))
    assert_one_owner_at_a_time(run)
    for name, what in (("squeue", "`squeue`"), ("sbatch", "`sbatch`")):
        assert commands.has_failed(name) == any(what in fault.what for fault, _, _ in injected)
    wait_until(lambda: not cluster.run(["squeue", "-h", "-o", "%i"]).stdout.strip())

    for phase in steps:
        assert weights_of(run.directory, phase) == weights_of(quiet(), phase)


def assert_one_owner_at_a_time(run: AttackedRun) -> None:
    """Each attempt's signs of life, and what it wrote into the journal, lie between its taking the run and the next
    owner's doing so."""
    owners = Owners(run.directory.owners).all()
    ends = [owner.taken_unix_s for owner in owners[1:]] + [time.time()]
    window = {(owner.job, owner.attempt): (owner.taken_unix_s, end) for owner, end in zip(owners, ends, strict=True)}
    assert len(window) == len(owners), "an attempt owned the run twice"
    assert ends == sorted(ends)
    own = [(event["job"], event["attempt"], event["time_unix_s"]) for event in run.directory.events()
           if event["event"] in ("started", "ended") and "told_by" not in event]  # fmt: skip
    beats = [(owner.job, owner.attempt, beat.stat().st_mtime) for owner in owners
             if (beat := run.directory.owners / f"{owner.job}-{owner.attempt}.beat").exists()]  # fmt: skip
    assert len(beats) == len(owners)
    for job, attempt, seen in own + beats:
        began, ended = window[job, attempt]
        assert began - CLOCKS_S <= seen <= ended + CLOCKS_S, (job, attempt, seen, owners)


def weights_of(directory: RunDirectory, phase: int) -> str:
    done = directory.phase(phase).done()
    assert done is not None
    return sha256_of(directory.phase(phase).checkpoints / done.checkpoint / "model.safetensors")


def write_table(outcomes: list[Outcome]) -> None:
    """Where BERTJOBS_CHAOS_TABLE says, for docs/."""
    rows = [
        f"| {o.fault} | {o.phase} | {o.step} | {o.cause or 'continues'} | {o.repeated_steps} | {o.lost_s:.0f} |"
        for o in outcomes
    ]
    head = ["| fault | phase | at step | journal | steps repeated | seconds lost |", "|---|---|---|---|---|---|"]
    text = "\n".join([*head, *rows]) + "\n"
    print(text, file=sys.stderr)
    if path := os.environ.get("BERTJOBS_CHAOS_TABLE"):
        Path(path).write_text(text)
