"""Starting a run: the checks, the run directory, and its jobs on Slurm or on this machine."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from bertjobs.errors import InputError
from bertjobs.launch import local
from bertjobs.launch.environment import clean_environment
from bertjobs.launch.progress import ProgressView
from bertjobs.launch.script import SlurmOptions, render_script, run_sub
from bertjobs.launch.slurm import Slurm
from bertjobs.launch.source import write_source
from bertjobs.recipe.lockfile import lockfile, read_lockfile, with_phases_of
from bertjobs.recipe.schema import check_path
from bertjobs.recipe.spec import RunSpec
from bertjobs.run.atomic import write_text
from bertjobs.run.directory import RunDirectory
from bertjobs.run.nodes import excluded, suspects


def choose_backend(asked: str, spec: RunSpec, slurm: Slurm) -> str:
    """Where a run goes: as asked; else to Slurm where there is one or GPUs are wanted, unless the system has no
    scheduler."""
    if asked != "auto":
        return asked
    if spec.system.scheduler == "none":
        return "local"
    return "slurm" if spec.gpus or slurm.present else "local"


def absolute(spec: RunSpec) -> RunSpec:
    """``spec`` with absolute paths, as jobs start in other folders.

    Raises:
        InputError: the working directory's own path holds what a path may not hold.
    """

    def full(path: str) -> str:
        return check_path(os.path.normpath(Path(path).absolute()), "the path in full") if path else ""

    return replace(
        spec,
        data=full(spec.data),
        results=full(spec.results),
        init_checkpoint=full(spec.init_checkpoint),
        image=full(spec.image) if spec.image and Path(spec.image).exists() else spec.image,
    )


def write_run(spec: RunSpec) -> RunDirectory:
    """Make the run directory with its lockfile and source."""
    directory = RunDirectory(Path(spec.results) / spec.run)
    directory.create()
    locked = replace(spec, steps_this_run=0)  # speaks of one job, not of the run
    if directory.lockfile.is_file():
        locked = with_phases_of(locked, read_lockfile(directory.lockfile))
    directory.write_lockfile(lockfile(locked))
    write_source(directory.source)
    for phase in spec.phases:
        directory.phase(phase.phase).create()
    return directory


def queue(
    directory: RunDirectory, spec: RunSpec, options: SlurmOptions, slurm: Slurm, python: str = sys.executable
) -> dict[int, str]:
    """Queue a job for each phase, each behind the end of the one before; returns phase -> job id.

    All or nothing: where sbatch refuses one, those queued before are cancelled.
    """
    if nodes := suspect_nodes(spec, slurm.node_count(options.partition)):
        options = replace(options, extra=(*options.extra, f"--exclude={','.join(nodes)}"))
    jobs: dict[int, str] = {}
    template = run_sub().read_text(encoding="utf-8")
    for phase in spec.phases:
        script = directory.phase(phase.phase).script
        write_text(script, render_script(template, spec, phase.phase, options, python))
        try:
            job = slurm.submit(script, dependency=list(jobs.values())[-1] if jobs else None)
        except BaseException:
            if jobs:
                slurm.cancel(list(jobs.values()))
            raise
        jobs[phase.phase] = job
    for number, job in jobs.items():
        directory.record("submitted", backend="slurm", phase=number, job=job)
    return jobs


def suspect_nodes(spec: RunSpec, available: int) -> list[str]:
    """Nodes that a node check found unfit lately, as many as can be done without of those that are ``available``."""
    return excluded(suspects(Path(spec.results), time.time()), max(0, available - spec.nodes))


def start_on_slurm(spec: RunSpec, options: SlurmOptions, slurm: Slurm) -> tuple[RunDirectory, dict[int, str]]:
    """Write a run directory and queue its phases; a run that cannot be queued leaves nothing behind."""
    results = Path(spec.results)
    new = [folder for folder in (results / spec.run, results) if not folder.exists()]
    try:
        directory = write_run(spec)
        return directory, queue(directory, spec, options, slurm)
    except BaseException:
        for folder in new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def run_here(directory: RunDirectory, spec: RunSpec, environ: Mapping[str, str], out: TextIO) -> int:
    """Run the phases of ``spec`` one after the other on this machine, with a live line each.

    Returns the exit code of the first phase that did not end with 0, else 0.
    """
    environment = clean_environment(environ)
    for phase in spec.phases:
        folder = directory.phase(phase.phase)
        job = local.next_job(directory)
        log = folder.logs / f"{job}-0.out"
        directory.record("submitted", backend="local", phase=phase.phase, job=job, **local.identity())
        view = ProgressView(folder.metrics, phase.steps, out)
        code = local.run_phase(sys.executable, spec, phase.phase, environment, log, job, view.update)
        view.close()
        if code:
            out.write(f"phase {phase.phase} ended with code {code}; log: {log}\n" + _tail(log))
            return code
    return 0


def _tail(log: Path, lines: int = 12) -> str:
    return "".join(f"  | {line}\n" for line in log.read_text(errors="replace").splitlines()[-lines:])


def unfinished(directory: RunDirectory) -> RunSpec:
    """The run where it lies now, with those of its phases that are not done.

    Raises:
        InputError: all are done.
    """
    spec = read_lockfile(directory.lockfile)
    spec = absolute(replace(spec, run=directory.name, results=str(directory.root.parent)))
    phases = tuple(phase for phase in spec.phases if directory.phase(phase.phase).done() is None)
    if not phases:
        raise InputError(f"run {spec.run!r} is done: nothing to resume", where=str(directory.root))
    return replace(spec, phases=phases)
