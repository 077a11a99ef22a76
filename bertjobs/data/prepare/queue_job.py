"""A prepare that is itself a Slurm job: a small one, which queues the arrays and watches them.

Jobs that train can wait for it (``bertjobs submit --after ID``). It ends when the data are whole or cannot be made. At
its time limit, or when its node is lost, it goes back to the queue under the same id: what waits for it keeps
waiting, the arrays continue meanwhile, and it takes them over.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bertjobs.data.prepare.array_options import HINTS, ArrayOptions, checked_slurm, job_environment
from bertjobs.data.prepare.work_folder import FOLDER_NAME
from bertjobs.errors import InputError
from bertjobs.files.lock import LOCK_NAME
from bertjobs.slurm.times import SCRIPT_LEAD_S

JOB_NAME = "bertjobs-prepare-data"

_SCRIPT = """\
#!/bin/bash
# Prepares data: queues the job arrays that do the work, and watches them.
umask 077
again() {{
  trap '' USR2
  coordinator=${{coordinator:-$!}} # the signal may come before the line that notes it
  kill -TERM "$coordinator"
  wait "$coordinator"
  echo "the time limit is near: back to the queue; the arrays continue"
  scontrol requeue "$SLURM_JOB_ID"
  exit 75
}}
trap again USR2
{command} &
coordinator=$!
wait "$coordinator"
"""


def script(command: Sequence[str]) -> str:
    """The batch script that runs ``command``, the prepare in the foreground."""
    return _SCRIPT.format(command=shlex.join(command))


def log_file(output: Path) -> Path:
    """The job's log, next to the output folder; ``%j`` stands for its id.

    Raises:
        InputError: sbatch could not write it, as the path holds what means something to it.
    """
    folder = output.absolute()
    if unfit := re.search(r"[%\n\\]", str(folder)):
        raise InputError(
            f"sbatch cannot write a log beside {str(output)!r}: there is a {unfit[0]!r} in the path",
            where="--output",
            hint="choose a path without % and backslashes, or prepare without --queue",
        )
    return folder.with_name(f"{folder.name}.prepare-%j.log")


def sbatch_words(options: ArrayOptions, log: Path) -> list[str]:
    """The call of ``sbatch``, which reads the script from its standard input: one task on one CPU."""
    # Whole nodes are for the arrays.
    memory = "" if options.slurm.memory == "0" else options.slurm.memory
    small = replace(options.slurm.less(_FOR_ARRAYS), cpus=1, memory=memory)
    given = replace(options, slurm=small).parameters()
    given |= {"job-name": JOB_NAME, "nodes": "1", "ntasks": "1", "open-mode": "append"}
    given |= {"signal": f"B:USR2@{SCRIPT_LEAD_S}"}
    named = [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]
    return ["sbatch", "--parsable", *named, f"--output={log}"]


_FOR_ARRAYS = ("exclusive", "nodes", "ntasks", "cpus-per-task", "mem-per-cpu")


def queue(command: Sequence[str], options: ArrayOptions, output: Path, environ: Mapping[str, str]) -> str:
    """Queue ``command`` as a Slurm job; returns its id.

    Args:
        command: the prepare in the foreground; it runs in this working directory.
        options: as for the arrays.
        output: the data folder to make; the log goes next to it.
        environ: leads to the cluster, and is what the job gets, without the variables of a surrounding Slurm job.

    Raises:
        InputError: bad options, no sbatch here, or sbatch refused.
    """
    options.check()
    log = log_file(output)
    slurm = checked_slurm(job_environment(environ))
    options.check_container(slurm)
    log.parent.mkdir(parents=True, exist_ok=True)
    return slurm.submit(sbatch_words(options, log), script(command), HINTS)


def release_own_lock(output: Path, environ: Mapping[str, str]) -> None:
    """Remove the output's lock if an earlier start of this same job left it: that start has ended, on a node that
    this one cannot ask."""
    if environ.get("SLURM_JOB_NAME") != JOB_NAME or environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return
    lock = output / FOLDER_NAME / LOCK_NAME
    with suppress(OSError, ValueError):
        if json.loads(lock.read_text(encoding="utf-8")).get("job") == environ.get("SLURM_JOB_ID"):
            lock.unlink()
