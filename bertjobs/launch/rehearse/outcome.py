"""The outcome of a run under a fault: the verdict, from what the run wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bertjobs.errors import EXIT_DONE
from bertjobs.files.json_lines import read_lines
from bertjobs.launch.rehearse.faults import Fault
from bertjobs.run.checkpoints import DamagedCheckpointError, verify
from bertjobs.run.directory import PhaseDirectory, RunDirectory
from bertjobs.run.journal import read_story
from bertjobs.run.series import LOSSES

SERIES = ("step", *LOSSES, "learning_rate", "tokens")


@dataclass(frozen=True)
class Ending:
    """How one attempt at a phase ended.

    Attributes:
        exit_code: the one that srun would return.
        rank_codes: the exit codes of the ranks; -N for one that signal N ended.
        log: the name of its file in the phase's logs.
        struck_at: the step after which the fault struck; None if it did not.
        last: the last line of metrics.jsonl at its end; {} if there was none.
        ended_unix_s: when its last rank had ended.
    """

    phase: int
    attempt: int
    exit_code: int
    rank_codes: tuple[int, ...]
    log: str
    struck_at: int | None
    last: Mapping[str, Any]
    ended_unix_s: float


@dataclass(frozen=True)
class Survival:
    """The outcome of the run under one fault.

    Attributes:
        fault, words: its name, and what was done.
        phase, step: the step after which it was done; 0 if the run was over before.
        exit_code: of the attempt that it struck; None if none.
        cause: the journal's, for that attempt's end; "" if it has none.
        attempts: at all phases together.
        steps_repeated: steps that were trained again.
        seconds_lost: from the last step of the attempt that it struck to the first step that is new.
        weights_equal: whether each phase ends with the same bits of weights and moments as the undisturbed run.
        metrics_whole: whether metrics.jsonl has each step once, with the losses of the undisturbed run.
        problem: why the run did not survive, and what to look at; "" if it did.
        directory: the run directory, kept if there is a problem.
    """

    fault: str
    words: str
    phase: int = 0
    step: int = 0
    exit_code: int | None = None
    cause: str = ""
    attempts: int = 0
    steps_repeated: int = 0
    seconds_lost: float = 0.0
    weights_equal: bool = False
    metrics_whole: bool = False
    problem: str = ""
    directory: str = ""

    @property
    def survived(self) -> bool:
        return not self.problem


def survival_of(
    fault: Fault, reference: RunDirectory, directory: RunDirectory, endings: Sequence[Ending], kept: RunDirectory
) -> Survival:
    """The verdict, from what the run wrote, compared with the undisturbed one; ``kept`` is where it will be kept."""
    survival = Survival(fault.name, fault.words, attempts=len(endings), directory=str(kept.root))
    struck = next((ending for ending in endings if ending.struck_at is not None), None)
    if struck is None or struck.struck_at is None or struck.exit_code == EXIT_DONE:
        over = f"the run was over before the fault struck, or was not affected by it: {kept.root}"
        return replace(survival, problem=over)
    attempts = {one.number: one for one in read_story(directory.events()).attempts if one.phase == struck.phase}
    ended, again = attempts.get(struck.attempt), attempts.get(struck.attempt + 1)
    cause = (ended.cause or ended.word) if ended else ""
    last = int(struck.last.get("step", 0))
    survival = replace(
        survival, phase=struck.phase, step=struck.struck_at, exit_code=struck.exit_code, cause=cause,
        steps_repeated=max(0, last - again.first_step) if again and again.started_unix_s else 0,
        seconds_lost=_seconds_lost(directory.phase(struck.phase), struck, endings),
    )  # fmt: skip
    if problem := unfinished(directory, endings):
        return replace(survival, problem=problem.replace(str(directory.root), str(kept.root)))
    unequal = [problem for phase in reference.phases() if (problem := _weights_differ(phase, directory))]
    broken = [problem for phase in reference.phases() if (problem := _metrics_differ(phase, directory))]
    wrong = []
    if struck.exit_code != fault.exit_code:
        wrong.append(f"the attempt ended with code {struck.exit_code}, not {fault.exit_code}")
    if cause not in fault.causes:
        wrong.append(f"the journal names the cause '{cause}', not {' or '.join(fault.causes)}: {kept.journal}")
    return replace(
        survival, weights_equal=not unequal, metrics_whole=not broken, problem="; ".join([*unequal, *broken, *wrong])
    )


def _seconds_lost(phase: PhaseDirectory, struck: Ending, endings: Sequence[Ending]) -> float:
    """From the last step before the end of the attempt to the first one that is new; to the phase's end, if there is no
    new one."""
    last = struck.last.get("step", 0)
    new = [line["time_unix_s"] for line in read_lines(phase.metrics) if line["step"] > last]
    until = new[0] if new else max(ending.ended_unix_s for ending in endings if ending.phase == struck.phase)
    return round(max(0.0, until - struck.last.get("time_unix_s", struck.ended_unix_s)), 1)


def unfinished(directory: RunDirectory, endings: Sequence[Ending]) -> str:
    """Why a run has not reached its end; "" if it has."""
    ending = endings[-1]
    if ending.exit_code == EXIT_DONE:
        return ""
    log = directory.phase(ending.phase).logs / ending.log
    story = read_story(directory.events())
    refused = [one.refusal for one in story.attempts if one.phase == ending.phase and one.refusal]
    errors = [line.strip() for line in log.read_text(errors="replace").splitlines() if "error:" in line]
    reason = f": {errors[0]}" if errors else f" (its ranks with {', '.join(map(str, ending.rank_codes))})"
    reason += f"; no other attempt followed: {refused[-1]}" if refused else ""
    return f"attempt {ending.attempt} at phase {ending.phase} ended with code {ending.exit_code}{reason}; look at {log}"


def _tensors(phase: PhaseDirectory) -> dict[str, Any]:
    """The sha256 of each file of weights or moments at a phase's end, whose bytes are read to check it.

    Raises:
        DamagedCheckpointError: the checkpoint is not whole.
    """
    done = phase.done()
    if done is None:
        return {}
    files = verify(phase.checkpoints / done.checkpoint).files
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


def _weights_differ(expected: PhaseDirectory, directory: RunDirectory) -> str:
    try:
        actual, wanted = _tensors(directory.phase(expected.number)), _tensors(expected)
    except DamagedCheckpointError as error:
        return f"the last checkpoint of phase {expected.number} is damaged: {error.what}"
    names = sorted(name for name in actual.keys() | wanted.keys() if actual.get(name) != wanted.get(name))
    return f"phase {expected.number} ends with different bits in {', '.join(names)}" if names else ""


def _metrics_differ(expected: PhaseDirectory, directory: RunDirectory) -> str:
    file = directory.phase(expected.number).metrics
    actual, wanted = ([[line.get(key) for key in SERIES] for line in read_lines(path)]
                     for path in (file, expected.metrics))  # fmt: skip
    if actual == wanted:
        return ""
    numbers = [line[0] for line in actual]
    if numbers != [line[0] for line in wanted]:
        return f"phase {expected.number}: metrics.jsonl has the steps {numbers}"
    step = next(line[0] for line, other in zip(actual, wanted, strict=True) if line != other)
    return f"phase {expected.number}: metrics.jsonl differs starting at step {step}"
