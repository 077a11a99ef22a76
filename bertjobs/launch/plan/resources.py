"""The resources that a run needs: its image and mounts, space for its checkpoints, GPU memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from bertjobs.launch.plan import memory
from bertjobs.launch.plan.memory import Peak
from bertjobs.launch.plan.problem import Problem, caught
from bertjobs.recipe.names import check_mounted
from bertjobs.recipe.size import checkpoint_bytes
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.checkpoints import steps
from bertjobs.run.directory import RunDirectory, check_writable
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.container import APPTAINER, Container, starter_of, submitting_code
from bertjobs.slurm.image import check_container


def container_problems(spec: RunSpec, slurm: Slurm) -> list[Problem]:
    """What keeps the run's image, if it has one, from being started on this cluster with this code and its mounts."""
    if not spec.image:
        return []
    seen = {"the folder of this command": str(Path.cwd()), "results": spec.results, "data": spec.data}
    seen |= {"init_checkpoint": spec.init_checkpoint} if spec.init_checkpoint else {}
    seen |= {"teacher": spec.teacher} if spec.teacher else {}
    container = Container(spec.image, spec.mounts, spec.container)
    problems = [problem for name, path in seen.items() for problem in caught(check_mounted, path, name)]
    problems += [*caught(submitting_code), *caught(check_container, container, slurm)]
    if not problems and "://" in spec.image and starter_of(spec.container, slurm) == APPTAINER:
        what = f"each rank would fetch {spec.image} from its registry, and convert it"
        hint = f"once, where there is a network: apptainer build IMAGE.sif {spec.image}; then --image IMAGE.sif"
        problems.append(Problem(what, where="image", hint=hint, is_warning=True))
    return problems


def results_problems(spec: RunSpec, held: int = 0) -> list[Problem]:
    """Problems if the results folder cannot be written, or lacks space for the checkpoints, of which ``held`` bytes
    exist already."""
    results = Path(spec.results)
    if problems := caught(check_writable, results):
        return problems
    folder = next(parent for parent in (results, *results.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    needed = checkpoints_bytes(spec) - held
    if needed <= free:
        return []
    kept = f"{spec.keep_checkpoints} of each phase, and one being written"
    return [
        Problem(
            f"the checkpoints need {needed / 1e9:.3g} GB ({kept}), but only {free / 1e9:.3g} GB are free",
            where=str(folder),
            hint="free some space, keep fewer with --keep-checkpoints, or choose another folder with --results",
        )
    ]


def held_bytes(directory: RunDirectory) -> int:
    """Bytes that the checkpoints of a run's unfinished phases take now; newer ones will replace them."""
    unfinished = [phase for phase in directory.phases() if not phase.done_file.exists()]
    folders = [folder for phase in unfinished for folder in steps(phase.checkpoints)]
    return sum(file.stat().st_size for folder in folders for file in folder.glob("*") if file.is_file())


def checkpoints_bytes(spec: RunSpec) -> int:
    """Bytes that a run's checkpoints take at most: those that are kept, and one more while it is written. Without a
    known vocabulary, less than that."""
    one = checkpoint_bytes(spec.model, spec.model.vocab_size)
    return one * (spec.keep_checkpoints * len(spec.phases) + 1)


def group_problems(spec: RunSpec) -> list[Problem]:
    """A warning if groups of different GPUs name no system: they are then taken to be alike."""
    unnamed = [group for group in spec.groups if not group.system]
    if not spec.gpus or len({(group.gpu_type, group.constraint) for group in unnamed}) < 2:
        return []
    return [
        Problem(
            f"groups {' and '.join(map(str, unnamed))} name no system: the memory, number formats and speed of "
            f"{spec.system.gpu} are assumed for all of them",
            where="groups",
            hint="name each one's, such as 2x4@v100/dgx1-32g: the systems are in configurations.yml",
            is_warning=True,
        )
    ]


def memory_problems(spec: RunSpec, peaks: Mapping[int, Peak] | None = None) -> list[Problem]:
    """A problem for each phase whose micro-batch does not fit the GPU, or may not (a warning), with one that would."""
    problems = []
    for phase in spec.phases:
        fit = memory.fit(spec, phase, spec.model.vocab_size, peaks)
        if fit is None or fit.verdict == memory.FITS:
            continue
        hint = (
            f"--set phase{phase.phase}.micro_batch={fit.micro_batch}, which makes GRADIENT_STEPS={fit.gradient_steps}"
            if fit.micro_batch
            else "--set activation_checkpointing=true, or --set optimizer.shard_states=true, or take a smaller model"
        )
        problems.append(
            Problem(
                f"phase {phase.phase}: a micro-batch of {phase.micro_batch} takes about {fit.words()} ({fit.source})",
                where=f"{spec.smallest_system.gpu}, {spec.precision}",
                hint=hint,
                is_warning=fit.verdict == memory.TIGHT,
            )
        )
    return problems
