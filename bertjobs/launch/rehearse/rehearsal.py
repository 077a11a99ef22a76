"""A small run of a recipe on this machine, undisturbed and under faults, to see that it survives them."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE, EXIT_DONE, EXIT_FAILURE, BertjobsError, InputError
from bertjobs.files.json_lines import read_lines
from bertjobs.launch.decision import Decision, End, Next, decide, has_advanced, recorded
from bertjobs.launch.local import free_port, rank_environment
from bertjobs.launch.plan.preflight import check_data, check_task, check_teacher
from bertjobs.launch.rehearse.faults import FILL_DISK, Fault, Moment, Strike, draw_moment, on_small_disk
from bertjobs.launch.rehearse.miniature import EXAMPLES, NAME, made_small, sample_data
from bertjobs.launch.rehearse.outcome import Ending, Survival, survival_of, unfinished
from bertjobs.recipe.size import checkpoint_bytes
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.checkpoints import last_written
from bertjobs.run.directory import PhaseDirectory, RunDirectory
from bertjobs.run.restarts import close_attempt
from bertjobs.run.settings import write_settings
from bertjobs.slurm.environment import clean_environment
from bertjobs.tasks.prepared import MANIFEST, PreparedTask
from bertjobs.tasks.sample import sample_task

PATIENCE_S = 900.0  # with one attempt: the machine may be busy, the disk slow
GRACE_S = 60.0  # from one rank's end to that of all: srun's --wait in run.sub
POLL_S = 0.003
ATTEMPTS = 5
TRIES = 3  # at striking before the run is over
SPACE = 32_000_000  # bytes on a small disk for everything except checkpoints


@dataclass(frozen=True)
class Rehearsal:
    """The rehearsals of one recipe.

    Attributes:
        spec: the small run; each rehearsal gets its own results folder.
        folder: where everything is written.
        python: the interpreter of the workers.
        environ: their environment.
    """

    spec: RunSpec
    folder: Path
    python: str
    environ: Mapping[str, str]

    @property
    def reference(self) -> RunDirectory:
        return RunDirectory(self.folder / "reference" / NAME)

    def undisturbed(self) -> float:
        """Run it without a fault; returns the seconds that it took.

        Raises:
            InputError: the worker refuses the recipe or the data.
            BertjobsError: the run does not reach its end.
        """
        began = time.monotonic()
        endings = self._run(self.reference, None)
        if problem := unfinished(self.reference, endings):
            kind = InputError if endings[-1].exit_code == EXIT_BAD_INPUT else BertjobsError
            raise kind(f"the run does not reach its end even undisturbed: {problem}", where=str(self.reference.root))
        return time.monotonic() - began

    def under(self, fault: Fault, *, keep: bool) -> Survival:
        """Run it under a fault, to its end; if it survived, its files are deleted unless ``keep`` is set."""
        draw = random.Random(f"{self.spec.seed} {fault.name}")
        folder = self.folder / fault.name.replace(" ", "-")
        survival = self._on_its_disk(fault, draw_moment(self.spec, draw), folder, keep)
        for _ in range(TRIES - 1):
            if survival.phase:
                break
            shutil.rmtree(folder)
            survival = self._on_its_disk(fault, draw_moment(self.spec, draw), folder, keep)
        if survival.survived and not keep:
            shutil.rmtree(folder)
        return survival

    def _on_its_disk(self, fault: Fault, moment: Moment, folder: Path, keep: bool) -> Survival:
        directory = RunDirectory(folder / NAME)
        folder.mkdir()
        if fault != FILL_DISK:
            return self._under(fault, moment, directory, directory, None)
        disk = folder / "disk"
        disk.mkdir()
        spec = self.spec
        one = checkpoint_bytes(spec.model, spec.model.vocab_size)
        size = SPACE + 2 * one * (spec.keep_checkpoints + 2) * len(spec.phases)

        def work() -> Survival:
            there = RunDirectory(disk / NAME)
            survival = self._under(fault, moment, there, directory, disk)
            if keep or not survival.survived:
                shutil.copytree(there.root, directory.root, symlinks=True)
            return survival

        outcome = on_small_disk(disk, size, work)
        disk.rmdir()
        if outcome.result:
            return outcome.result
        words = f"no file over half a checkpoint, by RLIMIT_FSIZE: cannot mount a small disk ({outcome.why_not})"
        return replace(self._under(fault, moment, directory, directory, None), words=words)

    def _under(
        self, fault: Fault, moment: Moment, directory: RunDirectory, kept: RunDirectory, disk: Path | None
    ) -> Survival:
        strike = Strike(fault, moment, directory.phase(moment.phase), disk)
        endings = self._run(directory, strike)
        return survival_of(fault, self.reference, directory, endings, kept)

    def _run(self, directory: RunDirectory, strike: Strike | None) -> list[Ending]:
        """Run all phases to their ends, or up to the first that is not continued; those before a strike are copied from
        the undisturbed run."""
        spec = replace(self.spec, results=str(directory.root.parent))
        directory.root.parent.mkdir(exist_ok=True)
        directory.create()
        write_settings(directory, spec)
        endings: list[Ending] = []
        for phase in spec.phases:
            folder = directory.phase(phase.phase)
            if strike and phase.phase < strike.moment.phase:
                shutil.copytree(self.reference.phase(phase.phase).root, folder.root)
                continue
            folder.create()
            for attempt in range(ATTEMPTS):
                here = strike if strike and not attempt and strike.moment.phase == phase.phase else None
                before = last_written(folder.checkpoints)
                endings.append(self._attempt(spec, folder, attempt, here))
                told_to_end = bool(here and here.step and here.fault.exit_code == EXIT_CONTINUE)
                decision = _decide(spec, directory, endings[-1], before=before, told_to_end=told_to_end)
                if not is_continued(decision, endings[-1].exit_code):
                    break
            if endings[-1].exit_code != EXIT_DONE:
                break
        return endings

    def _attempt(self, spec: RunSpec, folder: PhaseDirectory, attempt: int, strike: Strike | None) -> Ending:
        """Start all ranks and wait for their ends."""
        environ, port = clean_environment(self.environ), free_port()
        ranks: list[subprocess.Popen[bytes]] = []
        name = f"{NAME}-{attempt}.out"
        with open(folder.logs / name, "ab") as log:
            try:
                for rank in range(spec.world_size):
                    own = rank_environment(environ, spec, folder.number, rank, port=port, job=NAME)
                    own |= {"BERTJOBS_ATTEMPT": str(attempt), "BERTJOBS_CHAIN": NAME}
                    command = [self.python, "-m", "bertjobs.train"]
                    ranks.append(
                        subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                    )  # fmt: skip
                codes = _wait(ranks, strike)
            finally:
                for process in ranks:
                    process.kill()
                    process.wait()
        last = read_lines(folder.metrics)[-1:] or [{}]
        if strike:
            strike.end()
        struck_at = strike.step if strike else None
        return Ending(folder.number, attempt, exit_code(codes), tuple(codes), name, struck_at, last[0], time.time())


def _wait(ranks: Sequence[subprocess.Popen[bytes]], strike: Strike | None) -> list[int]:
    """The ranks' exit codes. As under srun, when one fails, the others are killed a little later."""
    deadline = time.monotonic() + PATIENCE_S
    failed = False
    while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
        if not failed and any(process.poll() for process in ranks):
            failed, deadline = True, min(deadline, time.monotonic() + GRACE_S)
        if strike and not failed:
            strike.watch([process.pid for process in ranks])
        time.sleep(POLL_S)
    for process in ranks:
        process.kill()
    return [process.wait() for process in ranks]


def exit_code(codes: Sequence[int]) -> int:
    """An attempt's exit code, from those of its ranks, as run.sub passes it on."""
    failed = {code for code in codes if code}
    if failed - {EXIT_BAD_INPUT, EXIT_CONTINUE}:
        return EXIT_FAILURE
    return max(failed, key=lambda code: code == EXIT_BAD_INPUT, default=EXIT_DONE)


def _decide(spec: RunSpec, directory: RunDirectory, ending: Ending, *, before: str, told_to_end: bool) -> Decision:
    """What comes next, as a link decides and records it; ``before`` is the last checkpoint written before it began."""
    phase, code = ending.phase, ending.exit_code
    if code not in (EXIT_DONE, EXIT_CONTINUE) and not told_to_end:
        close_attempt(directory, phase, NAME, code, source="launcher")
    attempt = recorded(directory, phase, NAME, ending.attempt)
    advanced = has_advanced(attempt, directory.phase(phase).checkpoints, before)
    end = End(code, told_to_end=told_to_end, advanced=advanced, cause=attempt.cause)
    return decide(directory, attempt, NAME, end, spec.restarts)


def is_continued(decision: Decision, code: int) -> bool:
    """Whether another attempt follows an end with ``code``: nothing comes from a job that was told to end, but Slurm
    itself requeues it."""
    if decision.next is Next.NOTHING_HERE:
        return code in (EXIT_CONTINUE, EXIT_FAILURE)
    return decision.next is Next.RESTART


def rehearsal(spec: RunSpec, folder: Path, python: str, environ: Mapping[str, str]) -> Rehearsal:
    """Prepare the rehearsals of ``spec`` in ``folder``, which is empty.

    Raises:
        InputError: the data are missing, incomplete, or not what the recipe needs; or the teacher is, as in
            `check_teacher`.
    """
    if spec.task:
        return _rehearsal_of_task(spec, folder, python, environ)
    data = DataManifest.read(Path(spec.data))
    small = replace(made_small(spec, data), results=str(folder))
    check_data(small)
    check_teacher(small, data)
    if small.loader == "bertjobs":  # LDDL's loader reads whole folders
        sample_data(data, folder / "data", [phase.phase for phase in small.phases])
        small = replace(small, data=str(folder / "data"))
    if spec.local_copy:
        small = replace(small, local_copy=str(folder / "copy"))
    return Rehearsal(replace(small, data=str(Path(small.data).absolute())), folder, python, environ)


def _rehearsal_of_task(spec: RunSpec, folder: Path, python: str, environ: Mapping[str, str]) -> Rehearsal:
    """Of a run on a task, on the first of its task's prepared examples."""
    if not (Path(spec.data) / MANIFEST).is_file():
        raise InputError(
            f"the data of task {spec.task} are not prepared",
            where=spec.data,
            hint="bertjobs finetune --dry-run with --from and --data prepares them and names their folder; give that "
            "as --data",
        )
    prepared = PreparedTask.read(Path(spec.data))
    sample_task(prepared, folder / "data", EXAMPLES)
    small = replace(made_small(spec, prepared), results=str(folder), data=str(folder / "data"))
    check_task(small)
    check_teacher(small, None)
    return Rehearsal(small, folder, python, environ)
