"""Where an attempt begins: its own newest checkpoint, the previous phase, other weights, or random ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bertjobs.data.batches.order import StreamState
from bertjobs.errors import InputError
from bertjobs.files.atomic import remove_leftovers, sha256_of
from bertjobs.optim.base import Optimizer
from bertjobs.optim.loss_scale import initial_loss_scale
from bertjobs.run.checkpoints import (
    MANIFEST,
    DamagedCheckpointError,
    check_settings,
    newest_valid,
    read_manifest,
    step_of,
    steps,
    verify,
)
from bertjobs.run.directory import PhaseDirectory
from bertjobs.train.checkpoint.state import Progress, read_stream_state, read_training_state
from bertjobs.train.job import PhaseJob
from bertjobs.train.objective import Learner

MOST_NAMED = 12
"""Parameters: as many as BERT's heads may have."""


@dataclass(frozen=True)
class Start:
    """Where an attempt begins.

    Attributes:
        kind: "resume" (this phase's newest checkpoint), "previous" (the last one of the previous phase), "initial"
            (``init_checkpoint``) or "random".
        folder: the checkpoint or model folder; None for random weights.
        data: the position in the data, for "resume".
        damaged_step: the step of the newest checkpoint, if that is damaged and this is an earlier place; else 0.
    """

    kind: Literal["resume", "previous", "initial", "random"]
    folder: Path | None = None
    data: StreamState | None = None
    damaged_step: int = 0


def find_start(job: PhaseJob) -> Start:
    """Find and verify the checkpoint to begin with; rank 0 does it for all.

    Raises:
        InputError: all checkpoints of the phase are damaged, and more steps would be lost than one interval of
            checkpoints has; the previous phase is not done or its checkpoint is
            damaged, or the weights were trained with another vocabulary, or this phase was trained on other data.
    """
    start = _find(job)
    if start.folder is not None:
        job.objective.check_weights(start.folder)
    if start.kind == "resume" and start.folder is not None:
        check_settings(read_manifest(start.folder), job.settings, start.folder)
        return replace(start, data=_stream_state(job, start.folder))
    return start


def _stream_state(job: PhaseJob, folder: Path) -> StreamState:
    state = read_stream_state(folder)
    ours = job.objective.data_sha256
    if state.manifest_sha256 != ours:
        raise InputError(
            f"phase {job.phase.phase} was started on data whose manifest is {state.manifest_sha256[:12]}..., "
            f"but these have {ours[:12]}...",
            where=f"{folder} and {Path(job.spec.data)}",
            hint="set DATADIR to the folder that it was started with, or start another run with RUN",
        )
    return state


def load_start(start: Start, job: PhaseJob, learner: Learner, optimizer: Optimizer) -> tuple[Progress, str]:
    """Load what ``start`` names; returns the phase's progress, and words for the log.

    Raises:
        InputError: the weights have another shape or cannot be read, or a checkpoint lacks some.
    """
    scale = initial_loss_scale(job.spec.precision, job.spec.loss_scale)
    fresh_start = Progress(loss_scale=scale)
    if start.folder is None:
        return fresh_start, "starting from random weights"
    fresh = learner.load_weights(start.folder)
    if start.kind == "initial":
        return fresh_start, f"starting from {start.folder}; random: {_named(fresh)}"
    if fresh:
        raise InputError(f"the checkpoint lacks {', '.join(fresh)}", where=str(start.folder))
    if start.kind == "previous" and job.phase.optimizer_state == "reset":
        return fresh_start, f"starting from {start.folder}, moments reset"
    progress = read_training_state(start.folder, learner.model, optimizer, scale)
    if start.kind == "resume":
        return progress, f"continuing from {start.folder} (step {progress.step})"
    optimizer.reset_step_count()
    return fresh_start, f"starting from {start.folder}, moments carried"


def _named(parameters: tuple[str, ...]) -> str:
    """Their names, or of many the first and how many there are."""
    if len(parameters) > MOST_NAMED:
        return f"{parameters[0]} and {len(parameters) - 1} more"
    return ", ".join(parameters) or "nothing"


def _find(job: PhaseJob) -> Start:
    remove_leftovers(job.folder.checkpoints)
    folder, damaged_step = _newest_checkpoint(job.folder)
    if folder is not None:
        return Start("resume", folder, damaged_step=damaged_step)
    if damaged_step:
        _start_over(job, damaged_step)
    if job.previous is not None:
        return Start("previous", _last_of_phase(job, job.previous), damaged_step=damaged_step)
    if job.spec.init_checkpoint:
        return Start("initial", Path(job.spec.init_checkpoint), damaged_step=damaged_step)
    return Start("random", damaged_step=damaged_step)


def _newest_checkpoint(directory: PhaseDirectory) -> tuple[Path | None, int]:
    """The newest whole checkpoint, and the step of the newest of all if that is damaged, else 0."""
    folder, damaged = newest_valid(directory.checkpoints)
    for error in damaged:
        print(f"warning: skipping {error.where}: {error.what}", flush=True)
    return folder, step_of(steps(directory.checkpoints)[-1]) if damaged else 0


def _start_over(job: PhaseJob, damaged_step: int) -> None:
    """Say that the phase starts over, if that loses no more than an attempt loses in any case.

    Raises:
        InputError: it would lose more: a person may have a copy.
    """
    number, interval = job.phase.phase, job.phase.checkpoint_every
    if damaged_step > interval:
        raise _all_damaged(job.folder)
    print(
        f"warning: phase {number} starts over: all its checkpoints are damaged, the newest of step {damaged_step}; "
        f"that is no more than one interval of checkpoints (checkpoint_every: {interval})",
        flush=True,
    )


def _all_damaged(directory: PhaseDirectory) -> InputError:
    return InputError(
        f"all checkpoints of phase {directory.number} are damaged",
        where=str(directory.checkpoints),
        hint="restore one, or delete the folder to start the phase from the beginning",
    )


def _last_of_phase(job: PhaseJob, number: int) -> Path:
    """The checkpoint that a phase names in its DONE.json; or its newest, if the run does not wait for that."""
    directory = job.directory.phase(number)
    done = directory.done()
    if done is None and job.spec.previous_phase == "latest":
        newest, damaged_step = _newest_checkpoint(directory)
        if newest:
            return newest
        if damaged_step:
            raise _all_damaged(directory)
    if done is None:
        raise InputError(
            f"phase {job.phase.phase} starts from phase {number}, which is not done: there is no DONE.json",
            where=str(directory.done_file),
            hint=f"wait for phase {number}, queue this one behind it (sbatch --dependency=afterany:JOB), or start from "
            "its latest checkpoint with PREVIOUS_PHASE=latest",
        )
    folder = directory.checkpoints / done.checkpoint
    try:
        verify(folder)
    except DamagedCheckpointError as error:
        raise InputError(
            error.what,
            where=error.where,
            hint=f"restore it, or delete {directory.done_file} to finish phase {number} again from an earlier one",
        ) from error
    if sha256_of(folder / MANIFEST) != done.sha256:
        raise InputError("the checkpoint is not the one that DONE.json names", where=str(folder))
    return folder
