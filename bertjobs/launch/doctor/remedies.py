"""What a verdict says about each cause: the sentence, the lines that show it, and the next command to type.

Pure: everything known about an ended attempt is in its `Case`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bertjobs.errors import EXIT_BAD_INPUT
from bertjobs.launch.doctor.containers import advice, first_telling, module_advice, node_of_error
from bertjobs.launch.doctor.evidence import AttemptEvidence, Evidence, PhaseEvidence
from bertjobs.launch.doctor.log_errors import ERROR_LINES, LogError, error_lines, short
from bertjobs.launch.doctor.verdict import Standing, Verdict
from bertjobs.recipe.batch import nearest_divisors
from bertjobs.recipe.spec import PhaseSpec
from bertjobs.run.causes import Cause
from bertjobs.run.foreign import foreign_cause
from bertjobs.slurm.jobs import RUNNING, WAITING, Job
from bertjobs.slurm.launch_failures import launch_failure
from bertjobs.slurm.options import option_words
from bertjobs.slurm.reasons import job_line
from bertjobs.slurm.shell import quote
from bertjobs.slurm.times import doubled
from bertjobs.wording import duration

_NODE = re.compile(r"Node failure on (\S+)|ON (\S+) CANCELLED AT .* DUE TO NODE FAILURE")


@dataclass(frozen=True)
class Case:
    """What is known about an ended attempt."""

    evidence: Evidence
    phase: PhaseEvidence
    job: Job
    attempt: AttemptEvidence | None

    @property
    def spec(self) -> PhaseSpec:
        return self.evidence.spec.phase(self.phase.number)

    @property
    def errors(self) -> tuple[LogError, ...]:
        return self.attempt.errors if self.attempt else ()

    @property
    def is_last(self) -> bool:
        """Whether the job has ended with this attempt."""
        newest = newest_attempt(self.phase, self.job)
        return (newest is None or newest is self.attempt) and self.job.state not in (*WAITING, *RUNNING)

    @property
    def state(self) -> str:
        """Slurm's state of this attempt; "" if it has none."""
        if self.is_last or self.attempt is None:
            return self.job.state
        return self.job.past[self.attempt.number] if self.attempt.number < len(self.job.past) else ""

    @property
    def exit_code(self) -> int | None:
        if self.attempt and self.attempt.exit_code is not None:
            return self.attempt.exit_code
        return self.job.exit_code if self.is_last else None

    @property
    def began_unix_s(self) -> float | None:
        """When the attempt began to train; None if it did not, or if there is none."""
        return self.attempt.attempt.started_unix_s if self.attempt else None

    def is_bad_input(self, error: LogError) -> bool:
        """Whether an error that names no cause, such as a batch script's, was bad input: by the exit code; if that is
        unknown, an error in plain words before training began counts."""
        if self.exit_code is not None:
            return self.exit_code == EXIT_BAD_INPUT
        return self.attempt is not None and self.began_unix_s is None and error.text.startswith("error: ")

    @property
    def where(self) -> str:
        return f"job {self.job.id}" + (
            f", attempt {self.attempt.number}" if self.attempt and self.attempt.number else ""
        )

    def node_of(self, rank: int) -> str:
        """The node that a rank ran on, or "": tasks are laid out node by node."""
        spec = self.evidence.spec
        place = spec.node_of(rank) if rank < spec.world_size else len(self.job.nodes)
        return self.job.nodes[place] if place < len(self.job.nodes) else ""

    def resume(self, *options: str) -> str:
        """The command that continues the run; ``options`` are added if the job is Slurm's."""
        return " ".join([self.evidence.resume, *(options if self.job.backend != "local" else ())])

    def verdict(
        self, cause: Cause | Standing, sentence: str, error: LogError | None, command: str, *more: str
    ) -> Verdict:
        """A verdict with the usual evidence: the error, the job's state, how far the phase is, the last lines."""
        lines = [*error_lines(error), *more, job_line(self.job), *standing(self.evidence, self.phase)]
        if self.attempt and self.attempt.attempt.refusal:
            lines.append(f"not restarted: {self.attempt.attempt.refusal}")
        if self.attempt and self.attempt.log.path:
            lines.append(f"log {self.evidence.folder / self.attempt.log.path}")
        if error is None:
            lines += last_lines(self.attempt)
        return Verdict(cause, sentence, tuple(lines), command)


def _gpu_memory(case: Case, error: LogError | None) -> Verdict:
    spec = case.spec
    sizes = f"rank batch {spec.rank_batch} = gradient steps {spec.gradient_steps} x micro-batch {spec.micro_batch}"
    sentence = f"{_who(error)} ran out of GPU memory with a micro-batch of {spec.micro_batch} sequences"
    if spec.micro_batch == 1:
        sentence += ", the smallest possible: recompute activations, or train on GPUs with more memory"
        return case.verdict(Cause.GPU_MEMORY, sentence, error, _new_run(case, "activation_checkpointing=true"), sizes)
    more = nearest_divisors(spec.rank_batch, spec.gradient_steps + 1)[-1]
    sentence += f"; {more} gradient steps make it {spec.rank_batch // more} and train the same way"
    return case.verdict(Cause.GPU_MEMORY, sentence, error, _with_gradient_steps(case, more), sizes)


def _with_gradient_steps(case: Case, count: int) -> str:
    """The same run with other gradient steps of this phase, or the way it was queued by hand."""
    run, folder, number = case.evidence.spec, case.evidence.folder, case.phase.number
    if case.job.backend == "local" or case.phase.has_script:
        return f"{case.evidence.resume} --set phase{number}.gradient_steps={count}"
    settings = f"RUN={folder.name} PHASE={number} RESULTS={quote(str(folder.parent))} GRADIENT_STEPS={count}"
    gpus = f" --gpus-per-node={run.gpus_per_node}" if run.gpus else ""
    return f"{settings} sbatch -N{run.nodes} --ntasks-per-node={run.tasks_per_node}{gpus} run.sub"


def _host_memory(case: Case, error: LogError | None) -> Verdict:
    sentence = f"{_who(error, 'a process')} of {case.where} was killed because its node ran out of memory"
    if error is not None and error.rank is not None:
        sentence = f"rank {error.rank} of {case.where} could not get any more memory on its node"
    advice = f"num_workers {case.evidence.spec.num_workers}: threads per rank that build batches; fewer use less memory"
    return case.verdict(Cause.HOST_MEMORY, sentence, error, case.resume(option_words("--mem=0")), advice)


def _hang(case: Case, error: LogError | None) -> Verdict:
    # A rank that had no time to ask the others names none; another may.
    error = next((other for other in case.errors if other.cause is Cause.HANG and other.absent_ranks), error)
    ranks = error.absent_ranks if error else ()
    nodes = list(dict.fromkeys(filter(None, (case.node_of(rank) for rank in ranks))))
    who = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}" if ranks else ""
    place = f" (on {', '.join(nodes)})" if nodes else ""
    sentence = (
        f"the run hung: the others waited for {who}{place}" if who else "the run hung, all ranks at the same point"
    )
    if len(nodes) == len(set(case.job.nodes)):
        nodes = []  # none would be left
    options = [option_words(f"--exclude={','.join(nodes)}")] if nodes else []
    return case.verdict(Cause.HANG, sentence, error, case.resume(*options))


def node_failure(case: Case, error: LogError | None = None) -> Verdict:
    """A node failed: exclude it, if its name is known."""
    naming = error or next((other for other in case.errors if _NODE.search(other.text)), None)
    match = _NODE.search(naming.text) if naming else None
    node = (match[1] or match[2]).rstrip(",.") if match else ""
    sentence = f"node {node} failed under {case.where}" if node else f"a node failed under {case.where}"
    options = [option_words(f"--exclude={node}")] if node else []
    more = [f"its nodes: {', '.join(case.job.nodes)}"] if case.job.nodes else []
    return case.verdict(Cause.NODE_FAILURE, sentence, naming, case.resume(*options), *more)


def _container(case: Case, error: LogError | None) -> Verdict:
    error = first_telling(case.errors) or error
    task = error.rank if error and error.rank is not None else error.task if error else None
    node = (case.node_of(task) if task is not None else "") or node_of_error(error, case.errors)
    remedy = advice(case.evidence.spec, error, node)
    spec = case.evidence.spec
    evidence = f"image {spec.image}, mounts {','.join(spec.mounts) or 'none'}"
    return case.verdict(Cause.CONTAINER, remedy.sentence, error, remedy.command, evidence)


def _module_missing(case: Case, error: LogError | None) -> Verdict:
    node = case.node_of(error.rank) if error and error.rank is not None else ""
    remedy = module_advice(case.evidence.spec, error, node)
    return case.verdict(Cause.MODULE_MISSING, remedy.sentence, error, remedy.command)


def _launch(case: Case, error: LogError | None) -> Verdict:
    """Slurm's own reason, and what shows more of it; else another attempt, without the node to blame."""
    texts = [other.text for other in ([error] if error else []) + list(case.errors)]
    failure = next(filter(None, map(launch_failure, texts)), None)
    if failure is None:
        return case.verdict(Cause.LAUNCH, "Slurm could not start the ranks", error, case.resume())
    option = f"--exclude={failure.exclude}" if failure.exclude else "--mem=0" if failure.memory else ""
    again_words = case.resume(*([option_words(option)] if option else []))
    more = [f"then: {again_words}"] if failure.command else []
    return case.verdict(Cause.LAUNCH, failure.sentence, error, failure.command or again_words, *more)


def _port(case: Case, error: LogError | None) -> Verdict:
    is_taken = error is not None and foreign_cause(error.text) is Cause.PORT
    why = "another program uses rank 0's port" if is_taken else "the ranks could not reach each other"
    sentence = f"{why}; a new job uses another port"
    return case.verdict(Cause.PORT, sentence, error, case.resume())


def _disk(case: Case, error: LogError | None) -> Verdict:
    is_full = error is not None and foreign_cause(error.text) is Cause.DISK
    what = "the disk is full" if is_full else "writing to the disk failed"
    sentence = f"{what}: free some space, then resume from {case.phase.checkpoint or 'the beginning'}"
    space = f"{_bytes(case.evidence.free_bytes)} free in the file system of {case.evidence.folder}"
    if case.phase.checkpoint_bytes:
        space += f"; a checkpoint takes {_bytes(case.phase.checkpoint_bytes)}"
    return case.verdict(Cause.DISK, sentence, error, case.resume(), space)


def _gradients(case: Case, error: LogError | None) -> Verdict:
    sentence, fixed = "the gradients are no longer finite in any step", case.evidence.spec.loss_scale
    if fixed:
        sentence += f" with the loss scale fixed at {fixed:g}; try dynamic loss scaling in a new run"
        return case.verdict(Cause.GRADIENTS, sentence, error, _new_run(case, "loss_scale=0"))
    sentence += f" at learning rate {case.spec.lr:g}; try half of that in a new run"
    return case.verdict(
        Cause.GRADIENTS, sentence, error, _new_run(case, f"phase{case.phase.number}.lr={case.spec.lr / 2:g}")
    )


def time_limit(case: Case, error: LogError | None) -> Verdict:
    """The time limit: more time if no checkpoint was written within it, else another attempt."""
    limit = f" of {case.job.time_limit}" if case.job.time_limit else ""
    began = case.began_unix_s
    if began is not None and case.phase.checkpoint_unix_s > began:
        sentence = f"{case.where} reached its time limit{limit}; it resumes from {case.phase.checkpoint}"
        return case.verdict(Cause.TIME_LIMIT, sentence, error, case.resume())
    sentence = f"{case.where} reached its time limit{limit} before a checkpoint was written: it needs more time"
    longer = doubled(case.job.time_limit)
    return case.verdict(Cause.TIME_LIMIT, sentence, error, case.resume(f"--time {longer}" if longer else "--time TIME"))


def _unfit_node(case: Case, error: LogError | None) -> Verdict:
    what = error.lines[0].removeprefix("error: ") if error else ""
    sentence = f"the node check before the first step failed: {short(what)}"
    return case.verdict(Cause.UNFIT_NODE, sentence, error, case.resume())


def preempted(case: Case, error: LogError | None) -> Verdict:
    """Preempted: another attempt."""
    sentence = f"{case.where} was preempted"
    return case.verdict(Cause.PREEMPTED, sentence, error, case.resume())


def _cancelled(case: Case, error: LogError | None) -> Verdict:
    job = case.phase.jobs[-1] if case.phase.jobs[-1].state == "CANCELLED" else case.job
    sentence = f"job {job.id} of phase {case.phase.number} was cancelled"
    return case.verdict(Cause.CANCELLED, sentence, error, case.resume())


def bad_input(case: Case, error: LogError | None) -> Verdict:
    """Input was refused: another attempt once it is corrected."""
    what = error.lines[0].removeprefix("error: ") if error else f"{case.where} refused its input (exit code 64)"
    return case.verdict(Cause.BAD_INPUT, f"{what}; correct it, then resume", error, case.resume())


def _damaged_shard(case: Case, error: LogError | None) -> Verdict:
    what = error.lines[0].removeprefix("error: ") if error else "a shard is missing or altered"
    sentence = f"{what}; restore it from a copy, then resume"
    skip = "bertjobs resume RUN --set on_bad_shard=skip leaves its rows out instead"
    return case.verdict(Cause.DAMAGED_SHARD, sentence, error, case.resume(), skip)


def _lost_rank(case: Case, error: LogError | None) -> Verdict:
    """All ranks with an error say that another one is gone: those without one died first."""
    lost = [other for other in case.errors if other.cause is Cause.LOST_RANK]
    survivors = {other.rank for other in lost}
    silent = [rank for rank in range(case.evidence.spec.world_size) if rank not in survivors]
    names = ", ".join(
        f"rank {rank}" + (f" ({case.node_of(rank)})" if case.node_of(rank) else "") for rank in silent[:ERROR_LINES]
    )
    sentence = "the ranks lost contact with each other, and none says why"
    if silent and len(silent) < case.evidence.spec.world_size:
        one = len(silent) == 1
        sentence = (
            f"{names} died first without an error message: "
            f"{'it was' if one else 'they were'} killed, or {'its node' if one else 'their nodes'} went down"
        )
    return case.verdict(Cause.LOST_RANK, sentence, error or (lost[0] if lost else None), case.resume())


def _crashed(case: Case, error: LogError | None) -> Verdict:
    last = error.lines[-1] if error and error.lines[0].startswith("Traceback") else error.lines[0] if error else ""
    sentence = f"{_who(error)} failed first: {short(last.strip().removeprefix('error: '))}"
    command = f"bertjobs logs {case.evidence.target} --phase {case.phase.number}"
    return case.verdict(Cause.CRASHED, sentence, error, command)


def unknown(case: Case) -> Verdict:
    """Nothing says why: look at the log."""
    sentence = f"nothing says why {case.where} of phase {case.phase.number} ended; the last lines of its log may"
    command = f"bertjobs logs {case.evidence.target} --phase {case.phase.number}"
    return case.verdict(Standing.UNKNOWN, sentence, None, command)


TELL: dict[Cause, Callable[[Case, LogError | None], Verdict]] = {
    Cause.CONTAINER: _container,
    Cause.LAUNCH: _launch,
    Cause.MODULE_MISSING: _module_missing,
    Cause.NODE_FAILURE: node_failure,
    Cause.UNFIT_NODE: _unfit_node,
    Cause.GPU_MEMORY: _gpu_memory,
    Cause.HOST_MEMORY: _host_memory,
    Cause.HANG: _hang,
    Cause.DISK: _disk,
    Cause.PORT: _port,
    Cause.GRADIENTS: _gradients,
    Cause.TIME_LIMIT: time_limit,
    Cause.PREEMPTED: preempted,
    Cause.CANCELLED: _cancelled,
    Cause.BAD_INPUT: bad_input,
    Cause.DAMAGED_SHARD: _damaged_shard,
    Cause.LOST_RANK: _lost_rank,
    Cause.CRASHED: _crashed,
}
"""The verdict of each cause that ends an attempt for good; `diagnose` judges a stop with a checkpoint."""


def newest_attempt(phase: PhaseEvidence, job: Job) -> AttemptEvidence | None:
    """The last of a job's attempts; None before the first."""
    return next((attempt for attempt in reversed(phase.attempts) if attempt.job == job.id), None)


def _who(error: LogError | None, other: str = "a rank") -> str:
    return f"rank {error.rank}" if error and error.rank is not None else other


def again(evidence: Evidence) -> str:
    """Commands that cancel all of the run's jobs and queue the run again."""
    return f"bertjobs cancel {evidence.target} && {evidence.resume}"


def _new_run(case: Case, setting: str) -> str:
    """The command for a new run with another setting, since the settings of a run that has begun stay."""
    spec, lockfile = case.evidence.spec, quote(str(Path(case.evidence.folder) / "run.yml"))
    return f"bertjobs submit --recipes {lockfile} --recipe {spec.recipe} --run {spec.run}-2 --set {setting}"


def last_lines(attempt: AttemptEvidence | None) -> list[str]:
    """The last lines of an attempt's log, as evidence."""
    return [f"| {short(line)}" for line in attempt.log.last_lines] if attempt else []


def standing(evidence: Evidence, phase: PhaseEvidence) -> tuple[str, ...]:
    """How far a phase is."""
    words = f"phase {phase.number}: step {phase.step:,} of {phase.steps:,}"
    if phase.step_unix_s is not None:
        words += f", {duration(evidence.now_unix_s - phase.step_unix_s)} ago"
    more = [*_damaged(phase), *_slow(evidence, phase)]
    silence = (f"Slurm gave no answer: {evidence.silence}",) if evidence.silence else ()
    return (f"{words}; newest checkpoint {phase.checkpoint or 'none'}", *more, *silence)


def _slow(evidence: Evidence, phase: PhaseEvidence) -> list[str]:
    """Which ranks of the newest attempt were slow, and how to deal around them."""
    slow = phase.attempts[-1].attempt.slow_ranks if phase.attempts else ()
    lines = [str(rank) for rank in slow]
    spec = evidence.spec
    if slow and spec.is_unpadded and not (spec.task or spec.rebalance):
        lines.append(f"to give fast ranks more of the packs: {again(evidence)} --set rebalance=true")
    return lines


def _damaged(phase: PhaseEvidence) -> tuple[str, ...]:
    """Which attempts did not begin at the newest checkpoint, because it was damaged."""
    begun = [one.attempt for one in phase.attempts if one.attempt.damaged_step]
    return tuple(
        f"attempt {attempt.job}-{attempt.number} "
        + (f"continued from step {attempt.first_step:,}" if attempt.first_step else "started the phase over")
        + f": the newest checkpoint, of step {attempt.damaged_step:,}, was damaged"
        for attempt in begun
    )


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
