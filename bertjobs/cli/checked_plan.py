"""The plan of a run that a verb's arguments ask for, with all its problems."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bertjobs.cli.queue_arguments import awaited_jobs, slurm_options

if TYPE_CHECKING:
    from bertjobs.launch.plan.plan import Plan
    from bertjobs.launch.plan.problem import Problem
    from bertjobs.launch.plan.queue import Queue
    from bertjobs.recipe.resolve import Resolved
    from bertjobs.recipe.spec import RunSpec
    from bertjobs.run.directory import RunDirectory
    from bertjobs.slurm.options import SlurmOptions


def make_checked_plan(args: argparse.Namespace, resolved: Resolved, resumed: RunDirectory | None = None) -> Plan:
    """The plan of a run with all its problems; nothing is written or queued.

    Args:
        resumed: the directory of a run that is continued; None for a new one.
    """
    from bertjobs.launch.plan.estimate import earlier_runs, measured_peaks
    from bertjobs.launch.plan.packs import packs_of
    from bertjobs.launch.plan.plan import make_plan
    from bertjobs.launch.plan.preflight import Circumstances, inspect
    from bertjobs.launch.plan.task_work import work_of
    from bertjobs.launch.start import absolute, choose_backend
    from bertjobs.slurm.client import Slurm

    jobs = awaited_jobs(args)
    options = slurm_options(args)
    spec = absolute(resolved.spec)
    slurm = Slurm(os.environ)
    backend = choose_backend(args.backend, spec, slurm, resumed)
    earlier, queue = earlier_runs(Path(spec.results)), _asked_queue(spec, backend, options)
    around = Circumstances(queue, measured_peaks(spec, earlier), jobs, resumed, getattr(args, "by_hand", False))
    data, problems = inspect(spec, backend, slurm, around)
    return make_plan(
        *(replace(resolved, spec=data.sized(spec) if data else spec), backend, data, _rate(spec, backend)),
        work=work_of(spec),
        packs=packs_of(spec, data),
        earlier=earlier,
        queue=queue,
        problems=[*problems, *(_of_shell(options) if backend != "local" else [])],
        now_unix_s=time.time(),
    )


def _of_shell(options: SlurmOptions) -> list[Problem]:
    """What is wrong with a job that the user's shell has a part in."""
    from bertjobs.launch.plan.preflight import notify_problems
    from bertjobs.launch.plan.queue import shell_problems

    return [*notify_problems(options.notify, os.environ), *shell_problems(os.environ)]


def scripts(spec: RunSpec, args: argparse.Namespace) -> Mapping[int, str]:
    """The batch script of each phase, as submit would write it now."""
    from bertjobs.launch.dry_run import queued
    from bertjobs.run.directory import RunDirectory
    from bertjobs.slurm.client import Slurm

    directory = RunDirectory(Path(spec.results) / spec.run)
    jobs = queued(directory, spec, slurm_options(args), sys.executable, Slurm(os.environ))
    return {job.phase: job.script for job in jobs}


def _rate(spec: RunSpec, backend: str) -> float | None:
    from bertjobs.launch.plan.estimate import matrix_product_rate

    return matrix_product_rate() if backend == "local" and not spec.gpus else None


def _asked_queue(spec: RunSpec, backend: str, options: SlurmOptions) -> Queue:
    """What the job asks of Slurm, and Slurm's answers; empty if Slurm is not used."""
    from bertjobs.launch.plan.queue import NOT_ASKED, ask_queue
    from bertjobs.launch.script import submissions

    if backend == "local":
        return NOT_ASKED
    script = submissions(spec, options, sys.executable)[0].script
    return ask_queue(script, options.partition, options.time, os.environ, spec.groups)
