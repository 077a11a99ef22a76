"""Starting and continuing a study: one job array on Slurm, or its runs one after the other on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE, EXIT_DONE, InputError
from bertjobs.files.atomic import write_text
from bertjobs.files.new_paths import New
from bertjobs.launch.ownership import claimed
from bertjobs.launch.script import StudyArray, Submission, render_script, submissions
from bertjobs.launch.start import check_queue, next_chain, run_here, without_suspects, write_run
from bertjobs.launch.unanswered import UnansweredError, queued_without_answer
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.directory import RunDirectory
from bertjobs.run.settings import restored_on_failure
from bertjobs.run.study import Study
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.container import run_sub, submitting_code
from bertjobs.slurm.options import SlurmOptions
from bertjobs.slurm.refusals import NoAnswer
from bertjobs.wording import harmless


def start_study_on_slurm(
    study: Study,
    specs: Sequence[RunSpec],
    options: SlurmOptions,
    slurm: Slurm,
    *,
    at_once: int | None = None,
    after: Sequence[str] = (),
) -> dict[str, str]:
    """Write the folders of these runs of a study, and queue them as one job array; all or nothing.

    Args:
        specs: with the phases that are not done; absolute paths.

    Returns:
        By run, its job: ``ARRAY_NUMBER``.

    Raises:
        InputError: a run has jobs in the queue, or somebody else trains or queues it; or sbatch refused.
        NoAnswer: the controller does not answer, and nothing was queued.
        UnansweredError: nobody knows whether something was queued; the folders stay.
    """
    options = without_suspects(specs[0], options, slurm)
    directories = [_directory(spec) for spec in specs]
    with _written(study, specs, slurm):
        for directory in directories:
            check_queue(directory, slurm)
        chain = next_chain(*directories)
        for spec in specs:
            for job in submissions(spec, options, sys.executable, chain=chain):  # for the links that follow
                write_text(job.path, job.script)
        array = array_submission(study, specs, options, chain=chain, at_once=at_once, after=after)
        write_text(array.path, array.script)
        id = _submitted(array, directories[0], slurm)
    jobs = {spec.run: f"{id}_{number}" for spec, number in zip(specs, numbers_of(study, specs), strict=True)}
    for spec, directory in zip(specs, directories, strict=True):
        directory.record("submitted", backend="slurm", phase=spec.phases[0].phase, job=jobs[spec.run], chain=chain)
    return jobs


def array_submission(
    study: Study,
    specs: Sequence[RunSpec],
    options: SlurmOptions,
    *,
    chain: str,
    at_once: int | None = None,
    after: Sequence[str] = (),
) -> Submission:
    """The one job that is queued for these runs of a study.

    Raises:
        InputError: they need jobs of different kinds.
    """
    phases = tuple(sorted({phase.phase for spec in specs for phase in spec.phases}))
    array = StudyArray(study.name, numbers_of(study, specs), phases, at_once)
    template, code = run_sub().read_text(encoding="utf-8"), submitting_code() if specs[0].image else ""
    scripts = [
        render_script(template, spec, phases[0], options, sys.executable, chain=chain, code=code, array=array)
        for spec in specs
    ]
    for spec, script in zip(specs, scripts, strict=True):
        if script != scripts[0]:
            pairs = zip(scripts[0].splitlines(), script.splitlines(), strict=False)
            line, other = next((one, two) for one, two in pairs if one != two)
            raise InputError(
                f"runs {specs[0].run} and {spec.run} need different jobs, but a study is one job array: "
                f"{line!r} and {other!r}",
                where="--sweep",
                hint="sweep over what is trained, not over where: start a study for each of these",
            )
    return Submission(phases[0], study.script, scripts[0], tuple(after))


def numbers_of(study: Study, specs: Sequence[RunSpec]) -> tuple[int, ...]:
    """The numbers of these runs in their study."""
    by_run = {study.run(member): member.number for member in study.members}
    return tuple(by_run[spec.run] for spec in specs)


def _directory(spec: RunSpec) -> RunDirectory:
    return RunDirectory(Path(spec.results) / spec.run)


def _submitted(array: Submission, directory: RunDirectory, slurm: Slurm) -> str:
    """Queue the array; returns its id, also if sbatch got no answer although it was queued."""
    try:
        return slurm.submit(array.command({}))
    except NoAnswer as error:
        if jobs := queued_without_answer(error, directory, slurm, ()):
            return jobs[0].partition("_")[0]
        raise


@contextmanager
def _written(study: Study, specs: Sequence[RunSpec], slurm: Slurm) -> Iterator[None]:
    """The runs' folders and the study's file are there, and the runs are this process's; if what is done then fails,
    all is as it was before, unless nobody knows whether something was queued.

    Raises:
        InputError: somebody else trains or queues one of the runs.
    """
    directories = [_directory(spec) for spec in specs]
    beside = New.of([study.file, study.script], [study.file.parent, study.results])
    with ExitStack() as stack:
        stack.enter_context(beside.removed_on_failure(unless=UnansweredError))
        for directory in directories:
            new = New.of([directory.root], [])
            directory.create()
            stack.enter_context(claimed(directory, slurm))  # whoever does not get it removes nothing of another's
            stack.enter_context(new.removed_on_failure(unless=UnansweredError))
            stack.enter_context(restored_on_failure(directory, unless=UnansweredError))
        for spec in specs:
            write_run(spec)
        study.write()
        yield


def train_study_here(
    study: Study, specs: Sequence[RunSpec], environ: Mapping[str, str], out: TextIO, is_over: Callable[[], bool]
) -> dict[str, int]:
    """Train these runs of a study one after the other on this machine; one that fails, or is interrupted, does not stop
    the others.

    Args:
        is_over: whether this process was told to stop: then no other run begins.

    Returns:
        By run, the exit code of its last phase that ran; those that did not begin are missing.

    Raises:
        InputError: somebody else trains or queues one of the runs.
    """
    slurm = Slurm(environ)
    with _written(study, specs, slurm):
        pass
    codes: dict[str, int] = {}
    words = {study.run(member): member.words for member in study.members}
    for spec in specs:
        if is_over():
            break
        out.write(harmless(f"\nrun {spec.run}: {words[spec.run]}\n"))
        directory = _directory(spec)
        try:
            with claimed(directory, slurm) as claim:
                codes[spec.run] = run_here(directory, spec, environ, out, claim, study.name)
        except InputError as error:
            out.write(error.render() + "\n")
            codes[spec.run] = EXIT_BAD_INPUT
        except KeyboardInterrupt:  # at a moment when no rank could be asked to write a checkpoint
            if is_over():
                raise
            codes[spec.run] = EXIT_CONTINUE
    return codes


def exit_code_of(codes: Mapping[str, int], *, is_over: bool) -> int:
    """The code of a study that ran here: 75 if it was stopped, else that of the first run that failed; 75 if none did
    but one is to be continued."""
    if is_over:
        return EXIT_CONTINUE
    failed = [code for code in codes.values() if code not in (EXIT_DONE, EXIT_CONTINUE)]
    return next(iter(failed), max(codes.values(), default=EXIT_DONE))
