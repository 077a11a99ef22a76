"""What a verdict says of each cause: the sentence, the lines that show it, and the next command to type.

Pure: everything known of an ended attempt is in its `Case`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertjobs.errors import EXIT_BAD_INPUT
from bertjobs.launch.doctor.evidence import Attempt, Evidence, PhaseEvidence
from bertjobs.launch.doctor.log_errors import Cause, Said, said_lines, short
from bertjobs.recipe.batch import nearest_divisors
from bertjobs.recipe.spec import PhaseSpec
from bertjobs.slurm.jobs import RUNNING, WAITING, Job
from bertjobs.slurm.options import option_words
from bertjobs.slurm.reasons import job_line
from bertjobs.slurm.shell import quote
from bertjobs.slurm.times import doubled
from bertjobs.wording import duration

_NODE = re.compile(r"Node failure on (\S+)|ON (\S+) CANCELLED AT .* DUE TO NODE FAILURE")
_ABSENT = re.compile(r"\branks? (\d+(?:, \d+)*)(?: and \d+ more)? did not arrive")


@dataclass(frozen=True)
class Verdict:
    """What is the matter with a run.

    Attributes:
        cause: one of `Cause`.
        sentence: what is the matter, for people.
        evidence: what says so, the first failing rank first.
        command: what to type next.
    """

    cause: Cause
    sentence: str
    evidence: tuple[str, ...]
    command: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """One screen."""
        lines = [f"{self.cause}: {self.sentence}", "", "evidence"]
        return "\n".join([*lines, *(f"  {line}" for line in self.evidence), "", "next", f"  {self.command}"])


@dataclass(frozen=True)
class Case:
    """What the sentences about an ended attempt draw on."""

    evidence: Evidence
    phase: PhaseEvidence
    job: Job
    attempt: Attempt | None

    @property
    def spec(self) -> PhaseSpec:
        return self.evidence.spec.phase(self.phase.number)

    @property
    def errors(self) -> tuple[Said, ...]:
        return self.attempt.errors if self.attempt else ()

    @property
    def is_last(self) -> bool:
        """Whether the job has ended with this attempt."""
        newest = newest_attempt(self.phase, self.job)
        return (newest is None or newest is self.attempt) and self.job.state not in (*WAITING, *RUNNING)

    @property
    def state(self) -> str:
        """Slurm's word on this attempt, "" where it has none."""
        if self.is_last or self.attempt is None:
            return self.job.state
        return self.job.past[self.attempt.number] if self.attempt.number < len(self.job.past) else ""

    @property
    def exit_code(self) -> int | None:
        if self.attempt and self.attempt.exit_code is not None:
            return self.attempt.exit_code
        return self.job.exit_code if self.is_last else None

    def is_refusal(self, said: Said) -> bool:
        """Whether an error was bad input; where no exit code is known, one in plain words before training began."""
        if self.exit_code is not None:
            return self.exit_code == EXIT_BAD_INPUT
        return self.attempt is not None and self.attempt.started_unix_s is None and said.text.startswith("error: ")

    @property
    def where(self) -> str:
        return f"job {self.job.id}" + (
            f", attempt {self.attempt.number}" if self.attempt and self.attempt.number else ""
        )

    def node_of(self, rank: int) -> str:
        """The node that a rank ran on, or "": tasks are laid out node by node."""
        place = rank // self.evidence.spec.tasks_per_node
        return self.job.nodes[place] if place < len(self.job.nodes) else ""

    def resume(self, *options: str) -> str:
        """``bertjobs resume``, with options that only Slurm understands where it is Slurm's."""
        return " ".join(["bertjobs resume", self.evidence.target, *(options if self.job.backend != "local" else ())])

    def verdict(self, cause: Cause, sentence: str, said: Said | None, command: str, *more: str) -> Verdict:
        """With the evidence that all have: the error, the job's state, where the phase stands, the last lines."""
        lines = [*said_lines(said), *more, job_line(self.job), *standing(self.evidence, self.phase)]
        if self.attempt and self.attempt.log:
            lines.append(f"log {self.evidence.folder / self.attempt.log}")
        if said is None:
            lines += last_lines(self.attempt)
        return Verdict(cause, sentence, tuple(lines), command)


def _gpu_memory(case: Case, said: Said | None) -> Verdict:
    spec = case.spec
    sizes = f"rank batch {spec.rank_batch} = gradient steps {spec.gradient_steps} x micro-batch {spec.micro_batch}"
    sentence = f"{_who(said)} ran out of GPU memory with a micro-batch of {spec.micro_batch} sequences"
    if spec.micro_batch == 1:
        sentence += ", the smallest there is: compute activations again, or train on GPUs with more memory"
        return case.verdict(Cause.GPU_MEMORY, sentence, said, _anew(case, "activation_checkpointing=true"), sizes)
    more = nearest_divisors(spec.rank_batch, spec.gradient_steps + 1)[-1]
    sentence += f"; GRADIENT_STEPS={more} makes it {spec.rank_batch // more} and trains the same"
    return case.verdict(Cause.GPU_MEMORY, sentence, said, _with_gradient_steps(case, more), sizes)


def _with_gradient_steps(case: Case, count: int) -> str:
    """The same run again with other gradient steps: by its batch script, or as it was queued by hand."""
    run, folder, number = case.evidence.spec, case.evidence.folder, case.phase.number
    if case.job.backend == "local":
        return _anew(case, f"phase{number}.gradient_steps={count}")
    if case.phase.has_script:
        return f"GRADIENT_STEPS={count} sbatch {quote(str(folder / f'phase{number}' / 'run.sub'))}"
    settings = f"RUN={folder.name} PHASE={number} RESULTS={quote(str(folder.parent))} GRADIENT_STEPS={count}"
    gpus = f" --gpus-per-node={run.gpus}" if run.gpus else ""
    return f"{settings} sbatch -N{run.nodes} --ntasks-per-node={run.tasks_per_node}{gpus} run.sub"


def _host_memory(case: Case, said: Said | None) -> Verdict:
    sentence = f"{_who(said, 'a process')} of {case.where} was ended for want of host memory"
    advice = (
        f"num_workers {case.evidence.spec.num_workers}: threads of a rank that build batches; fewer take less memory"
    )
    return case.verdict(Cause.HOST_MEMORY, sentence, said, case.resume(option_words("--mem=0")), advice)


def _hang(case: Case, said: Said | None) -> Verdict:
    found = _ABSENT.search(said.text) if said else None
    ranks = [int(rank) for rank in found[1].split(",")] if found else []
    nodes = list(dict.fromkeys(filter(None, (case.node_of(rank) for rank in ranks))))
    who = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}" if ranks else ""
    place = f" (on {', '.join(nodes)})" if nodes else ""
    sentence = (
        f"the run hung: the others waited for {who}{place}" if who else "the run hung, all ranks at the same point"
    )
    if len(nodes) == len(set(case.job.nodes)):
        nodes = []  # none would be left
    options = [option_words(f"--exclude={','.join(nodes)}")] if nodes else []
    return case.verdict(Cause.HANG, sentence, said, case.resume(*options))


def node_failure(case: Case, said: Said | None = None) -> Verdict:
    """A node failed: another one, where its name is known."""
    told = [said] if said else [error for error in case.errors if _NODE.search(error.text)]
    found = _NODE.search(told[0].text) if told else None
    node = (found[1] or found[2]).rstrip(",.") if found else ""
    sentence = f"node {node} failed under {case.where}" if node else f"a node failed under {case.where}"
    options = [option_words(f"--exclude={node}")] if node else []
    more = [f"its nodes: {', '.join(case.job.nodes)}"] if case.job.nodes else []
    return case.verdict(Cause.NODE_FAILURE, sentence, told[0] if told else None, case.resume(*options), *more)


def _container(case: Case, said: Said | None) -> Verdict:
    spec = case.evidence.spec
    lines = [re.sub(r"^.*pyxis:\s*", "", line) for line in said.lines] if said else []
    telling = [line for line in lines if re.search(r"ERROR|enroot-|FATAL|No space|No such|denied", line)]
    why = (telling or lines or ["pyxis gave no reason"])[0]
    mounts = f" --container-mounts={quote(','.join(spec.mounts))}" if spec.mounts else ""
    command = f"srun -N1 --container-image={quote(spec.image)}{mounts} true"
    sentence = f"the container does not start: {short(why)}; try the image and the mounts by themselves"
    return case.verdict(Cause.CONTAINER, sentence, said, command, f"image {spec.image}, mounts {','.join(spec.mounts)}")


def _port(case: Case, said: Said | None) -> Verdict:
    is_taken = said is not None and re.search("EADDRINUSE|[Aa]ddress already in use", said.text)
    why = "another program uses rank 0's port" if is_taken else "the ranks did not find each other"
    sentence = f"{why}; a new job listens on another port"
    return case.verdict(Cause.PORT, sentence, said, case.resume())


def _disk(case: Case, said: Said | None) -> Verdict:
    is_full = said is not None and re.search("No space left|quota exceeded", said.text)
    what = "the disk is full" if is_full else "the checkpoint could not be written"
    sentence = f"{what}: make room, then go on from {case.phase.checkpoint or 'the beginning'}"
    room = f"{_bytes(case.evidence.free_bytes)} free where {case.evidence.folder} lies"
    if case.phase.checkpoint_bytes:
        room += f"; a checkpoint takes {_bytes(case.phase.checkpoint_bytes)}"
    return case.verdict(Cause.DISK, sentence, said, case.resume(), room)


def _gradients(case: Case, said: Said | None) -> Verdict:
    sentence, fixed = "no step's gradients are finite any more", case.evidence.spec.loss_scale
    if fixed:
        sentence += f" with the loss scale fixed at {fixed:g}; try a dynamic one, in a new run"
        return case.verdict(Cause.GRADIENTS, sentence, said, _anew(case, "loss_scale=0"))
    sentence += f" at learning rate {case.spec.lr:g}; try half of it, in a new run"
    return case.verdict(
        Cause.GRADIENTS, sentence, said, _anew(case, f"phase{case.phase.number}.lr={case.spec.lr / 2:g}")
    )


def time_limit(case: Case, said: Said | None) -> Verdict:
    """The time limit: more time where no checkpoint was written in it, else once more."""
    limit = f" of {case.job.time_limit}" if case.job.time_limit else ""
    began = case.attempt.started_unix_s if case.attempt else None
    if began is not None and case.phase.checkpoint_unix_s > began:
        sentence = f"{case.where} reached its time limit{limit}; it goes on from {case.phase.checkpoint}"
        return case.verdict(Cause.TIME_LIMIT, sentence, said, case.resume())
    sentence = f"{case.where} reached its time limit{limit} before a checkpoint was written: it needs more time"
    longer = doubled(case.job.time_limit)
    return case.verdict(Cause.TIME_LIMIT, sentence, said, case.resume(f"--time {longer}" if longer else "--time TIME"))


def _unfit_node(case: Case, said: Said | None) -> Verdict:
    what = said.lines[0].removeprefix("error: ") if said else ""
    sentence = f"the check before the first step refused: {short(what)}"
    return case.verdict(Cause.UNFIT_NODE, sentence, said, case.resume())


def preempted(case: Case, said: Said | None) -> Verdict:
    """Preempted: once more."""
    sentence = f"{case.where} was preempted"
    return case.verdict(Cause.PREEMPTED, sentence, said, case.resume())


def _cancelled(case: Case, said: Said | None) -> Verdict:
    job = case.phase.jobs[-1] if case.phase.jobs[-1].state == "CANCELLED" else case.job
    sentence = f"job {job.id} of phase {case.phase.number} was cancelled"
    return case.verdict(Cause.CANCELLED, sentence, said, case.resume())


def bad_input(case: Case, said: Said | None) -> Verdict:
    """Input was refused: once more when it is mended."""
    what = said.lines[0].removeprefix("error: ") if said else f"{case.where} refused its input (exit code 64)"
    return case.verdict(Cause.BAD_INPUT, f"{what}; mend it, then go on", said, case.resume())


def _crashed(case: Case, said: Said | None) -> Verdict:
    last = said.lines[-1] if said and said.lines[0].startswith("Traceback") else said.lines[0] if said else ""
    sentence = f"{_who(said)} failed first: {short(last.strip().removeprefix('error: '))}"
    command = f"bertjobs logs {case.evidence.target} --phase {case.phase.number}"
    return case.verdict(Cause.CRASHED, sentence, said, command)


def unknown(case: Case) -> Verdict:
    """Nothing says why: the log."""
    sentence = f"nothing says why {case.where} of phase {case.phase.number} ended; the last lines of its log may"
    command = f"bertjobs logs {case.evidence.target} --phase {case.phase.number}"
    return case.verdict(Cause.UNKNOWN, sentence, None, command)


TELL: dict[Cause, Callable[[Case, Said | None], Verdict]] = {
    Cause.CONTAINER: _container,
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
    Cause.CRASHED: _crashed,
}


def newest_attempt(phase: PhaseEvidence, job: Job) -> Attempt | None:
    """The last of a job's attempts, None before the first."""
    return next((attempt for attempt in reversed(phase.attempts) if attempt.job == job.id), None)


def _who(said: Said | None, other: str = "a rank") -> str:
    return f"rank {said.rank}" if said and said.rank is not None else other


def again(evidence: Evidence) -> str:
    """All of the run's jobs cancelled, and the run queued anew."""
    return f"bertjobs cancel {evidence.target} && bertjobs resume {evidence.target}"


def _anew(case: Case, setting: str) -> str:
    """The run once more under another name, with another setting: those of a run that was begun stay."""
    spec, lockfile = case.evidence.spec, quote(str(Path(case.evidence.folder) / "run.yml"))
    return f"bertjobs submit --recipes {lockfile} --recipe {spec.recipe} --run {spec.run}-2 --set {setting}"


def last_lines(attempt: Attempt | None) -> list[str]:
    """The last lines of an attempt's log, as evidence."""
    return [f"| {short(line)}" for line in attempt.last_lines] if attempt else []


def standing(evidence: Evidence, phase: PhaseEvidence) -> tuple[str, ...]:
    """Where a phase stands."""
    words = f"phase {phase.number}: step {phase.step:,} of {phase.steps:,}"
    if phase.step_unix_s is not None:
        words += f", {duration(evidence.now_unix_s - phase.step_unix_s)} ago"
    silence = (f"Slurm gave no answer: {evidence.silence}",) if evidence.silence else ()
    return (f"{words}; newest checkpoint {phase.checkpoint or 'none'}", *silence)


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
