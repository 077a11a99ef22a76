"""What is checked before anything is queued or written: all problems at once, not only the first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import InputError, raise_all
from bertjobs.files.reading import DamagedFileError, object_of, read_json
from bertjobs.launch.notice import address
from bertjobs.launch.plan.memory import Peak
from bertjobs.launch.plan.problem import Problem, caught
from bertjobs.launch.plan.queue import NOT_ASKED, Queue, queue_problems
from bertjobs.launch.plan.resources import (
    container_problems,
    group_problems,
    held_bytes,
    memory_problems,
    results_problems,
)
from bertjobs.recipe.distillation import check_taught
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.run.settings import begun_phases, check_start, check_unchanged
from bertjobs.run.study import study_file
from bertjobs.run.teacher import check_same_teacher, teacher_of
from bertjobs.run.torch_wheels import lacks_code
from bertjobs.run.weights import check_weights
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.jobs import RUNNING, WAITING
from bertjobs.slurm.notify import Notify

MANY_EPOCHS = 40
"""How often a text may be read. BERT read its own about 40 times (Devlin et al., arXiv 1810.04805, A.2), with new masks
each time. T5 lost next to nothing with 64 readings, and more with 256 and 1,024 (Raffel et al., arXiv 1910.10683,
3.4.2). For causal models 4 are as good as new text, and what more of them are worth decays to nothing (Muennighoff et
al., arXiv 2305.16264). Fewer than one needs no literature: a part of the text is never seen."""


@dataclass(frozen=True)
class Circumstances:
    """What a run is checked against besides its own settings.

    Attributes:
        queue: what is asked of Slurm, and its answers.
        peaks: memory that an earlier run measured, by phase.
        after: ids of the jobs that the first job waits for.
        resumed: the directory of a run that is continued; None for a new one.
        by_hand: whether a person starts each of its nodes.
    """

    queue: Queue = NOT_ASKED
    peaks: Mapping[int, Peak] | None = None
    after: Sequence[str] = ()
    resumed: RunDirectory | None = None
    by_hand: bool = False


NEW = Circumstances()


def preflight(
    spec: RunSpec, backend: str, slurm: Slurm, around: Circumstances = NEW
) -> tuple[DataManifest | None, list[Problem]]:
    """All checks of a run that is to be started; writes nothing, queues nothing.

    Args:
        spec: with absolute paths; for a run that is resumed, with the phases that are not done.
        backend: "slurm", "submitit" or "local".
        slurm: the cluster.

    Returns:
        Its data, None if a job that is waited for makes them; and the warnings.

    Raises:
        InputError: all problems that stop it.
    """
    data, problems = inspect(spec, backend, slurm, around)
    refuse(problems)
    return data, problems


def refuse(problems: Sequence[Problem]) -> None:
    """Raise InputError for those problems that are not warnings, all at once."""
    raise_all([problem.error() for problem in problems if not problem.is_warning])


def inspect(
    spec: RunSpec, backend: str, slurm: Slurm, around: Circumstances = NEW
) -> tuple[DataManifest | None, list[Problem]]:
    """The data, None if there are none, and everything that is wrong with a run or odd about it.

    The arguments are those of `preflight`.
    """
    awaited, problems_after = after_problems(around.after, backend, slurm)
    data, problems_of_data = (None, task_problems(spec)) if spec.task else data_problems(spec, awaited)
    sized = data.sized(spec) if data else spec
    resumed = around.resumed
    is_new = resumed is None or not begun_phases(resumed)
    of_run = caught(check_name, spec) if resumed is None else caught(check_unchanged, spec, resumed)
    if not is_new and not of_run:  # else the checkpoint would differ in the same settings
        of_run = caught(check_resumed, spec, resumed, data)
    problems = [
        *of_run,
        *caught(check_backend, spec, backend, slurm, around.by_hand),
        *problems_after,
        *problems_of_data,
        *(caught(check_init_checkpoint, spec, data) if is_new else []),
        *caught(check_teacher, spec, data),
        *(container_problems(spec, slurm) if backend != "local" else []),
        *results_problems(sized, held_bytes(resumed) if resumed else 0),
        *memory_problems(sized, around.peaks),
        *group_problems(spec),
        *torch_problems(spec),
        *(queue_problems(spec, around.queue) if backend != "local" else []),
    ]
    return data, list(dict.fromkeys(problems))


def after_problems(jobs: Sequence[str], backend: str, slurm: Slurm) -> tuple[list[str], list[Problem]]:
    """Which of the jobs to wait for have not ended, and what is wrong with them.

    Slurm treats an unknown id as a job that has ended, so a typo would start the run at once: it is refused.
    """
    if not jobs:
        return [], []
    if backend == "local":
        hint = "wait for it yourself, or queue the run with --backend slurm"
        return [], [Problem("a run on this machine cannot wait for a Slurm job", where="--after", hint=hint)]
    all_states, _ = slurm.states(jobs)
    awaited, problems = [], []
    for job in jobs:
        # For the id of a whole array, Slurm lists its elements.
        states = [state for name, state in all_states.items() if name == job or name.startswith(f"{job}_")]
        if not states:
            hint = "see squeue; a job that ended long ago need not be waited for: leave it out"
            problems.append(Problem(f"Slurm does not know job {job}", where="--after", hint=hint))
        elif any(state in (*RUNNING, *WAITING) for state in states):
            awaited.append(job)
    return awaited, problems


def check_name(spec: RunSpec) -> None:
    """The name must be free, or its run must lack these phases.

    Raises:
        InputError: it is taken.
    """
    directory = RunDirectory(Path(spec.results) / spec.run)
    # A job that was refused leaves only logs, made by run.sub.
    started = {phase.number for phase in directory.phases() if phase.checkpoints.is_dir()}
    # A later phase may join a run whose earlier phases were started alone.
    joins = bool(started) and all(max(started) < phase.phase for phase in spec.phases)
    if directory.root.exists() and not joins:
        is_run = directory.lockfile.is_file()
        remedy = f"continue it: bertjobs resume {spec.run}" if is_run else "remove it: it holds no run"
        raise InputError(
            f"a run named {spec.run!r} exists" if is_run else f"the run's folder exists: {spec.run}",
            where=str(directory.root),
            hint=f"choose another name with --run, or {remedy}",
        )
    if joins:
        check_unchanged(spec, directory, started)
    elif (file := study_file(Path(spec.results), spec.run)).exists():
        raise InputError(
            f"a study named {spec.run!r} exists", where=str(file), hint="choose another name with --run NAME"
        )


def check_data(spec: RunSpec) -> DataManifest:
    """The shards must exist, be whole and enough, and be made with the recipe's vocabulary.

    Raises:
        InputError: they are not; names the first thing that is wrong.
    """
    data = DataManifest.read(Path(spec.data))
    data.check(spec)
    if spec.loader == "lddl":
        from bertjobs.data.batches.lddl_loader import check_lddl_shards  # imports torch

        check_lddl_shards(data, spec)
    return data


def check_task(spec: RunSpec) -> None:
    """The data of a run that fine-tunes must be prepared for it, and its task be there.

    Raises:
        InputError: they are not; names the first thing that is wrong.
    """
    from bertjobs.tasks.prepared import prepared_for  # here: pretraining needs none of it

    prepared = prepared_for(spec)
    prepared.open_task()
    for folder in filter(None, (spec.init_checkpoint, spec.teacher)):
        prepared.check_weights(Path(folder))


def task_problems(spec: RunSpec) -> list[Problem]:
    """What is wrong with a task's data, as in `check_task`; or a warning if nothing can end the run early."""
    if problems := caught(check_task, spec):
        return problems
    from bertjobs.tasks.prepared import PreparedTask

    early, dev = spec.phases[0].early_stop, PreparedTask.read(Path(spec.data)).splits.get("dev")
    if not early or (dev and dev.facts.labelled):
        return []
    where = f"phase{spec.phases[0].phase}.early_stop={early}"
    hint = "give dev data with labels, such as --dev FILE"
    return [Problem("without labelled dev data, no run ends early", where=where, hint=hint, is_warning=True)]


def data_problems(spec: RunSpec, awaited: Sequence[str] = ()) -> tuple[DataManifest | None, list[Problem]]:
    """The data's manifest, None if there is none, and all that is wrong with the data.

    Data that are missing or incomplete are only a warning if jobs that may make them are ``awaited``: the worker checks
    them again.
    """
    try:
        data = DataManifest.read(Path(spec.data))
    except InputError as error:
        return None, _softened([Problem(error.what, error.where, error.hint)], awaited)
    problems = [
        *caught(data.check_vocabulary, spec.vocabulary),
        *caught(data.check_masking, spec.masking),
        *caught(data.check_next_sentence, spec.next_sentence),
        *caught(data.check_vocabulary_file),
    ]
    for phase in spec.phases:
        whole = data.check_files if spec.on_bad_shard == "stop" else data.phase
        problems += _softened(caught(whole, phase.phase), awaited)
    # check_data stops at the first problem, so it would name only one of the above.
    problems = problems or caught(check_data, spec)
    return data, problems or epoch_problems(spec, data)


def _softened(problems: list[Problem], awaited: Sequence[str]) -> list[Problem]:
    if not awaited:
        return problems
    wait = f"job{'s' * (len(awaited) > 1)} {', '.join(awaited)}"
    hint = f"the run waits for {wait}; if the data are still missing then, its own job says so and ends"
    return [replace(problem, hint=hint, is_warning=True) for problem in problems]


def epoch_problems(spec: RunSpec, data: DataManifest) -> list[Problem]:
    """A warning for each phase that reads its text more than `MANY_EPOCHS` times, and for a first phase, from random
    weights, that does not read it once: what begins from trained weights need not."""
    problems = []
    for phase in spec.phases:
        # Shards hold each document several times, each time in other pairs; it is the same text.
        once = data.training_sequences(phase.phase) / max(1, int(data.settings.get("duplicates", 1)))
        readings = phase.steps * phase.global_batch / once
        if readings > MANY_EPOCHS:
            fit = max(1, int(MANY_EPOCHS * once / phase.global_batch))
            what = f"reads its text {readings:,.0f} times; BERT itself read its own {MANY_EPOCHS}"
            hint = f"prepare more text, or set phase{phase.phase}.steps={fit}, which reads it {MANY_EPOCHS} times"
        elif readings < 1 and phase.phase == 1 and not spec.init_checkpoint:
            fit = math.ceil(once / phase.global_batch)
            what = f"reads {readings:.1%} of its text: the rest is never seen"
            hint = f"phase{phase.phase}.steps={fit} would read it once; a run that only tries something out needs less"
        else:
            continue
        problems.append(Problem(f"phase {phase.phase} {what}", where=spec.data, hint=hint, is_warning=True))
    return problems


def notify_problems(notify: Notify, environ: Mapping[str, str]) -> list[Problem]:
    """A warning if the address of the site's webhook cannot be read: the run would tell nobody, and train."""
    problems = caught(address, notify.webhook, environ) if notify.webhook else []
    return [replace(problem, is_warning=True) for problem in problems]


def torch_problems(spec: RunSpec, version: str | None = None) -> list[Problem]:
    """A warning if the torch of this environment, ``version``, has no code for the recipe's GPUs. The worker, which
    sees its own torch and GPU, refuses; a container has another torch."""
    hint = lacks_code(spec.system.gpu, version or installed_torch()) if spec.gpus and not spec.image else None
    what = f"this environment's torch has no code for {spec.system.gpu}: the run would end with code 64"
    return [Problem(what, where=f"system {spec.system.name}", hint=hint, is_warning=True)] if hint else []


def installed_torch() -> str | None:
    """The version of torch in this environment, without importing it; None if there is none."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def check_resumed(spec: RunSpec, directory: RunDirectory, data: DataManifest | None) -> None:
    """The checkpoint that a run is continued from must be of its settings, its shape and the data's vocabulary.

    Raises:
        InputError: names the first thing that differs, or what is damaged or missing.
    """
    if (folder := check_start(spec, directory)) is not None:
        check_shape(folder, spec, "the checkpoint")
        if data is not None:
            data.check_weights(folder)


def check_init_checkpoint(spec: RunSpec, data: DataManifest | None) -> None:
    """The weights to start from must be there: a Hugging Face BERT of the recipe's shape and the data's vocabulary.

    Raises:
        InputError: names the first thing that differs or is missing.
    """
    if not spec.init_checkpoint:
        return
    folder = Path(spec.init_checkpoint)
    hint = "INIT_CHECKPOINT is a folder with config.json and model.safetensors"
    if spec.init_checkpoint != spec.teacher:  # of which a student of another shape takes what it can use
        check_shape(folder, spec, "the initial checkpoint", hint)
    if data is not None:
        data.check_weights(folder)
    check_weights(folder, "the initial checkpoint")


def check_teacher(spec: RunSpec, data: DataManifest | None) -> None:
    """The teacher, if the run has one, must be the one that it began with, fit the student, and have the data's
    vocabulary.

    Raises:
        InputError: it does not, or a recipe of distillation has none; names the first thing that is wrong.
    """
    check_taught(spec)
    if not spec.teacher:
        return
    folder = Path(spec.teacher)
    teacher_of(spec)
    if data is not None:
        data.check_weights(folder)
    check_weights(folder, "the teacher")
    check_same_teacher(spec)


def check_shape(folder: Path, spec: RunSpec, name: str, hint: str | None = None) -> None:
    """A model's folder must have the shape of the recipe's model.

    Args:
        name: what errors call it.
        hint: what to do if its config.json cannot be read.

    Raises:
        InputError: it has another, or config.json cannot be read.
    """
    try:
        config = read_json(folder / "config.json", object_of)
    except DamagedFileError as error:
        raise InputError(f"config.json of {name} cannot be read: {error.what}", where=str(folder), hint=hint) from error
    if config is None:
        raise InputError(f"config.json of {name} cannot be read: there is none", where=str(folder), hint=hint)
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        wanted = getattr(spec.model, key)
        if config.get(key) != wanted:
            raise InputError(
                f"{name} has {key} {config.get(key)}, but model {spec.model.name} has {wanted}",
                where=str(folder / "config.json"),
            )


def check_backend(spec: RunSpec, backend: str, slurm: Slurm, by_hand: bool = False) -> None:
    """The place to run must exist. ``by_hand``: a person starts each node.

    Raises:
        InputError: it does not.
    """
    if backend != "local":
        slurm.check()
        if backend == "submitit" and "%" in spec.results:
            raise InputError(
                f"submitit takes every % in a folder's path for a symbol such as %j: {spec.results!r}",
                where="results",
                hint="choose another folder with --results, or --backend slurm",
            )
    elif spec.gpus and spec.nodes > 1 and not by_hand:
        raise InputError(
            f"the run asks for {spec.nodes} nodes, but this machine is only one", where="nodes", hint="set --nodes 1"
        )
    elif spec.image:
        raise InputError("a container image needs Slurm", where="image", hint="leave IMAGE out")
