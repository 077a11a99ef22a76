"""What a job of an array runs: its share of a stage's tasks, and the journal that it keeps of them."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import submitit

from bertjobs.data.prepare.bucket_index import BucketIndex
from bertjobs.data.prepare.on_this_machine import run_task
from bertjobs.data.prepare.processes import worker_pool
from bertjobs.data.prepare.work_folder import FOLDER_NAME, WorkFolder
from bertjobs.data.text.vocabulary import TOKENS_FILE
from bertjobs.errors import EXIT_FAILURE, BertjobsError
from bertjobs.files.json_lines import append_line

LOG_FOLDER = "slurm"
SEEN_WITHIN_S = 75.0  # how late a node may see another node's file (NFS keeps a folder's entries for up to 60 s)


class Journal:
    """A job's record of its tasks: one line for each that begins, is done or fails. Several processes may add to it."""

    def __init__(self, folder: Path, element: str) -> None:
        self._path = folder / f"{element}.jsonl"

    def add(self, event: str, number: int | None, error: BaseException | None = None) -> None:
        """Add a line; ``number`` is None for what concerns all tasks."""
        node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        line: dict[str, Any] = {"event": event, "number": number, "node": node}
        if error is not None:
            message = error.render() if isinstance(error, BertjobsError) else f"{type(error).__name__}: {error}"
            line |= {"said": message, "exit_code": getattr(error, "exit_code", None)}
        append_line(self._path, line)

    def read(self) -> list[dict[str, Any]]:
        """All lines that are whole; none where the job wrote nothing."""
        return list(json_lines(self._path))


def run_share(output: str, stage: str, numbers: Sequence[int], processes: int) -> None:
    """What a job runs: tasks of a stage, ``processes`` at a time. Ends the process with code 70 when one failed."""
    # submitit would keep a cancelled job for as long as Slurm lets it, and end one that is warned of its time limit.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    journal = Journal(Path(output) / FOLDER_NAME / LOG_FOLDER, submitit.JobEnvironment().job_id)
    _check_inputs(output, stage, journal)
    if stage == "pairs":
        with suppress(BertjobsError, OSError):  # which each task says
            BucketIndex.of(WorkFolder.read(Path(output)))  # once, and not by each process
    attempt = partial(_attempt, output, stage, journal)
    if processes > 1:
        with worker_pool(processes) as pool:
            good = list(pool.map(attempt, numbers))
    else:
        good = list(map(attempt, numbers))
    if not all(good):
        sys.exit(EXIT_FAILURE)


def _attempt(output: str, stage: str, journal: Journal, number: int) -> bool:
    journal.add("begin", number)
    try:
        run_task(output, stage, number)
    except Exception as error:
        print(f"task {number} of the stage {stage!r} failed", file=sys.stderr)
        if isinstance(error, BertjobsError):
            print(error.render(), file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        journal.add("failed", number, error)
        return False
    journal.add("done", number)
    return True


def _check_inputs(output: str, stage: str, journal: Journal) -> None:
    """Wait until this node sees the files of the previous stage; end the process with code 70 where it never does."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while unseen := _unseen(output, stage):
        if time.monotonic() > deadline:
            error = BertjobsError(unseen, where=output)
            print(error.render(), file=sys.stderr, flush=True)
            journal.add("failed", None, error)
            sys.exit(EXIT_FAILURE)
        time.sleep(1)


def _unseen(output: str, stage: str) -> str:
    """What is missing for a stage, in words; "" if nothing is."""
    try:
        work = WorkFolder.read(Path(output))
    except OSError as error:
        return f"the work folder is not visible on this node: {error}"
    if not (work.folder / TOKENS_FILE).is_file():
        return "the vocabulary in the work folder is not visible on this node"
    before = work.stages[max(0, work.stages.index(stage) - 1)]
    count = len(work.missing(before)) if before != stage else 0
    return f"{count} tasks of the stage {before!r} are not done, or not visible on this node" if count else ""


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; a truncated line and a missing file have none."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue
