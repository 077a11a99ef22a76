"""The tasks of a stage on this machine: in this process, or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from bertjobs.data.prepare.stage_duplicates import drop_duplicates
from bertjobs.data.prepare.stage_pairs import pair_bucket
from bertjobs.data.prepare.stage_shards import write_shards
from bertjobs.data.prepare.stage_tokenise import tokenise_piece
from bertjobs.data.prepare.work_folder import DUPLICATES, FOLDER_NAME, PLAN_NAME, WorkFolder
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.data.text.wordpiece import WordPieceEncoder
from bertjobs.errors import BertjobsError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

Done = Callable[[int], None]
"""Called with a task's number when it is done."""


class Runner(Protocol):
    """Where tasks run."""

    def run(self, work: WorkFolder, stage: str, numbers: list[int], done: Done) -> None:
        """Run tasks of a stage, in any order; all are done when this returns.

        Raises:
            BertjobsError: a task failed; what was done is kept, and no other runs any more.
        """


def run_task(output: str, stage: str, number: int) -> int:
    """Run one task, if it is not done already; in any process that sees the work folder.

    Returns:
        The task's number.
    """
    plan = (Path(output) / FOLDER_NAME / PLAN_NAME).stat()
    work, vocabulary, encoder = _tools(output, (plan.st_ino, plan.st_mtime_ns))
    if not work.is_done(stage, number):
        if stage != "tokenise":
            encoder.forget()  # all others read ids
        if stage == "tokenise":
            tokenise_piece(work, number, vocabulary, encoder)
        elif stage == DUPLICATES:
            drop_duplicates(work)
        elif stage == "pairs":
            pair_bucket(work, number, vocabulary)
        else:
            write_shards(work, number, vocabulary)
    return number


@lru_cache(maxsize=1)
def _tools(output: str, _plan: tuple[int, int]) -> tuple[WorkFolder, Vocabulary, WordPieceEncoder]:
    work = WorkFolder.read(Path(output))
    if work.options.format == "lddl":  # Arrow's own allocator, a little faster, keeps from numpy what it freed: 25 MB
        pa.set_memory_pool(pa.system_memory_pool())
    vocabulary = Vocabulary.of_folder(work.folder, work.plan.lowercase)
    return work, vocabulary, vocabulary.encoder()


class ThisMachine:
    """Runs tasks in ``processes`` processes of this machine; use it in ``with``.

    The processes are forked when the block begins, before anything here has started threads.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._open = ExitStack()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> ThisMachine:
        if self._processes > 1:  # what pools need takes a twentieth of the time of a short preparation
            from bertjobs.data.prepare.processes import worker_pool

            self._pool = self._open.enter_context(worker_pool(self._processes))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
        _tools.cache_clear()

    def run(self, work: WorkFolder, stage: str, numbers: list[int], done: Done) -> None:
        """See ``Runner.run``."""
        output = str(work.output)
        if self._pool is None:
            for number in numbers:
                done(run_task(output, stage, number))
            return
        with _killed_process_reported():
            tasks = [self._pool.submit(run_task, output, stage, number) for number in numbers]
            with _ended_after_an_error(tasks):
                waiting: set[Future[int]] = set(tasks)
                while waiting:
                    ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in ready:
                        done(future.result())


@contextmanager
def _ended_after_an_error(tasks: list[Future[int]]) -> Iterator[None]:
    """After an error none of the tasks runs or will run: the files that they write may be removed."""
    try:
        yield
    except Exception:
        wait([task for task in tasks if not task.cancel()])
        raise


@contextmanager
def _killed_process_reported() -> Iterator[None]:
    from concurrent.futures.process import BrokenProcessPool

    try:
        yield
    except BrokenProcessPool as error:
        raise BertjobsError(
            "a process that prepared data was killed, perhaps because memory ran out",
            where="bertjobs data prepare",
            hint="run the same command again, perhaps with fewer --processes: it resumes where it stopped",
        ) from error
