"""The tasks of a prepare as Slurm job arrays, through submitit.

All stages are queued at once, each to start when the one before has ended (``afterany``), so that the queue's waiting
time is paid once and the work continues unattended. What is done is known from the markers in the work folder, not from
Slurm's states: ``afterok`` would cancel the later stages for a job that failed after its last task was done, and a
requeue or a time limit would do so too. A task whose inputs are missing refuses to begin instead.

The command in the foreground watches the markers, asks squeue which jobs still exist, and queues again the tasks that
no job has.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from bertjobs.data.prepare.array_job import LOG_FOLDER, Journal, json_lines, run_share
from bertjobs.data.prepare.array_options import ARRAY_NAME, HINTS, ArrayOptions, checked_slurm, job_environment
from bertjobs.data.prepare.in_container import python_in
from bertjobs.data.prepare.on_this_machine import Done
from bertjobs.data.prepare.work_folder import STAGES, WorkFolder
from bertjobs.errors import EXIT_BAD_INPUT, BertjobsError, InputError
from bertjobs.files.atomic import PRIVATE_FOLDER
from bertjobs.files.json_lines import append_line
from bertjobs.slurm.cluster import max_array_size
from bertjobs.slurm.executor import submit_array
from bertjobs.slurm.jobs import Job
from bertjobs.slurm.refusals import NotNow

ARRAYS_NAME = "arrays.jsonl"

GRACE_S = 10.0  # a job that left the queue may have written markers that are not seen here yet
_NOT_NOW_S = 30.0  # until sbatch is asked again, after it could not queue more
_ENDS_WITHIN_S = 20.0  # jobs that have nothing more to do, or are cancelled
_LAST_LINES = 12  # of a log, in an error


def stripe(numbers: Sequence[int], jobs: int) -> list[tuple[int, ...]]:
    """Deal tasks to at most ``jobs`` shares, none empty: neighbours, which are alike, go to different ones."""
    count = min(jobs, len(numbers))
    return [tuple(numbers[place::count]) for place in range(count)]


@dataclass
class Element:
    """A job that was queued: a share of a stage's tasks.

    Attributes:
        early: the stage before was not complete when it was queued.
        gone: when it was first missing from the queue, None while it is there.
        ended: it has left the queue for good, and its failures are counted.
    """

    id: str
    stage: str
    numbers: tuple[int, ...]
    early: bool = True
    gone: float | None = None
    ended: bool = False

    @property
    def job(self) -> str:
        """What sbatch called it: all elements of an array share it."""
        return self.id.partition("_")[0]


@dataclass(frozen=True)
class TaskFailure:
    """A task that was not done by the job ``element``.

    Attributes:
        node: where it ran, "" if that is not known.
        message: its error, "" if it was killed.
        exit_code: of the error, None for an unexpected one.
    """

    number: int
    element: str
    node: str
    message: str = ""
    exit_code: int | None = None


def failures_of(element: Element, missing: set[int], journal: Sequence[Mapping[str, Any]]) -> list[TaskFailure]:
    """Which tasks a job that has ended failed at.

    A task that it never began does not count, unless it began nothing at all; and not even then if the job was
    queued early and refused to begin.
    """
    node = str(journal[-1]["node"]) if journal else ""
    begun = {line["number"] for line in journal if line["event"] == "begin"}
    done = {line["number"] for line in journal if line["event"] == "done"}
    errors = {line["number"]: line for line in journal if line["event"] == "failed"}
    if not begun and errors and element.early:
        return []
    at_fault = (begun or set(element.numbers)) & missing - done
    failures = []
    for number in sorted(at_fault):
        error = errors.get(number, errors.get(None, {}))
        failures.append(TaskFailure(number, element.id, node, error.get("said", ""), error.get("exit_code")))
    return failures


def is_spent(failures: Sequence[TaskFailure], attempts: int) -> bool:
    """Whether a task is not tried again: it failed as often as it may, or at bad input, as it would again."""
    return len(failures) >= attempts or any(failure.exit_code == EXIT_BAD_INPUT for failure in failures)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class SlurmArrays:
    """Runs tasks as Slurm job arrays; use it in ``with``. A ``local.Runner``.

    Queues all stages when the first is run. Jobs that an earlier, killed prepare left in the queue are taken over.
    Where the block ends with an error (Ctrl-C too) all jobs are cancelled: the output's lock is about to be free.

    Args:
        environ: leads to the cluster, and is what jobs get, without the variables of a surrounding Slurm job.
        say: takes a line for the user.

    Raises:
        InputError: bad options, no sbatch here, or sbatch refused.
    """

    options: ArrayOptions
    environ: Mapping[str, str]
    say: Callable[[str], None] = _say
    grace_s: float = GRACE_S
    _elements: dict[str, Element] = field(default_factory=dict, init=False)
    _failures: dict[tuple[str, int], list[TaskFailure]] = field(default_factory=dict, init=False)
    _node_failures: Counter[str] = field(default_factory=Counter, init=False)
    _excluded: set[str] = field(default_factory=set, init=False)
    _not_before: float = field(default=0.0, init=False)
    _said: set[str] = field(default_factory=set, init=False)
    _python: str | None = field(default=None, init=False)

    def __enter__(self) -> SlurmArrays:
        self.options.check()
        self._environ = job_environment(self.environ)
        self._slurm = checked_slurm(self._environ)
        self.options.check_container(self._slurm)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._cancel()

    def run(self, work: WorkFolder, stage: str, numbers: list[int], done: Done) -> None:
        """See ``Runner.run``.

        Raises:
            BertjobsError: a task failed as often as it may, or at bad input; names it, its logs, and what it said last.
        """
        try:
            self._run(work, stage, set(numbers), done)
        except BaseException:
            self._cancel()
            raise

    def _run(self, work: WorkFolder, stage: str, waiting: set[int], done: Done) -> None:
        began = time.monotonic()
        if not self._elements:
            self._open(work)
        while waiting:
            queue = self._slurm.elements(ARRAY_NAME)
            missing = {later: set(work.missing(later)) for later in STAGES[STAGES.index(stage) :]}
            for number in sorted(waiting - missing[stage]):
                done(number)
            waiting &= missing[stage]
            if waiting and queue is not None:
                self._follow(queue)
                self._judge(missing)
                self._place(work, missing, queue)
                self._tell(stage, queue)
            if waiting:
                time.sleep(min(max(0.5, (time.monotonic() - began) / 20), 15))
        if stage == STAGES[-1]:
            self._await_end()

    def _open(self, work: WorkFolder) -> None:
        """Make the folder of logs, or find what an earlier prepare had queued."""
        self._folder = (work.folder / LOG_FOLDER).absolute()
        if unfit := re.search(r"[%\n\\]", str(self._folder)):
            raise InputError(
                f"sbatch cannot write logs below {str(work.output)!r}: there is a {unfit[0]!r} in the path",
                where="--output",
                hint="choose a path without % and backslashes, or prepare on one machine",
            )
        self._folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        self._folder.chmod(PRIVATE_FOLDER)
        self._array_size = max_array_size(self._slurm)
        if self.options.container:
            self._python = python_in(self.options.container, work, self._folder, self.options.processes)
        for line in json_lines(self._folder / ARRAYS_NAME):
            for element, numbers in line["elements"].items():
                self._elements[element] = Element(element, line["stage"], tuple(numbers))
        if (queue := self._slurm.elements(ARRAY_NAME)) is None:
            raise BertjobsError("squeue does not answer", where="--slurm", hint="see `scontrol ping`")
        for element in self._elements.values():
            element.ended = element.id not in queue
        if living := self._living(queue):
            self.say(f"{len(living)} Slurm jobs of an earlier prepare are still queued or running and will continue")

    def _living(self, queue: Mapping[str, Job]) -> list[Element]:
        return [element for element in self._elements.values() if element.id in queue]

    def _follow(self, queue: Mapping[str, Job]) -> None:
        """Note which jobs have left the queue, or are there again."""
        now = time.monotonic()
        for element in self._elements.values():
            if element.id in queue:
                element.gone = None
            elif element.gone is None:
                element.gone = now
                self._not_before = 0.0  # there may be room for another

    def _judge(self, missing: Mapping[str, set[int]]) -> None:
        """Count the failures of jobs that have ended.

        Raises:
            BertjobsError: a task is not tried again.
        """
        now = time.monotonic()
        for element in self._elements.values():
            if element.ended or element.gone is None or now - element.gone < self.grace_s:
                continue
            element.ended = True
            left = missing.get(element.stage, set())
            failures = failures_of(element, left, Journal(self._folder, element.id).read())
            for failure in failures:
                self._failures.setdefault((element.stage, failure.number), []).append(failure)
            if failures:
                self.say(f"{element.stage}: {_tasks(failure.number for failure in failures)} failed in job "
                         f"{element.id} on {failures[0].node or 'an unknown node'}")  # fmt: skip
                if not all(failure.exit_code == EXIT_BAD_INPUT for failure in failures):
                    self._blame(failures[0].node)
        spent = {key: failures for key, failures in self._failures.items()
                 if is_spent(failures, self.options.attempts) and key[1] in missing.get(key[0], ())}  # fmt: skip
        if spent:
            raise self._error(spent)

    def _blame(self, node: str) -> None:
        self._node_failures[node] += 1
        if node and self._node_failures[node] == 2:
            self._excluded.add(node)
            self.say(f"node {node} is left out from now on: two jobs failed on it")

    def _place(self, work: WorkFolder, missing: Mapping[str, set[int]], queue: Mapping[str, Job]) -> None:
        """Queue the tasks that are in no job, each stage behind the one before."""
        if time.monotonic() < self._not_before:
            return
        after: list[str] = []
        early = added = False
        for stage, numbers in missing.items():
            elements = [element for element in self._elements.values() if element.stage == stage and not element.ended]
            free = sorted(numbers - {number for element in elements for number in element.numbers})
            if added:
                waits = {element.job for element in elements if element.id in queue}
                for job in sorted(waits):
                    with suppress(BertjobsError):  # it has started or ended meanwhile
                        self._slurm.update(job, Dependency=f"afterany:{':'.join(after)}")
            try:
                new = self._submit(work, stage, free, after, early)
            except NotNow as error:
                if not any(element.gone is None for element in self._elements.values() if not element.ended):
                    raise
                self._not_before = time.monotonic() + _NOT_NOW_S
                self._say_once(f"{stage}: {error.what}; it will be tried again")
                return
            except InputError as error:
                if not self._elements:
                    raise
                # Not the user's input then, after which what is done would be removed.
                raise BertjobsError(error.what, where=error.where, hint=error.hint) from error
            after = sorted({element.job for element in [*elements, *new] if element.gone is None}, key=int)
            added, early = bool(new), early or bool(numbers)

    def _submit(self, work: WorkFolder, stage: str, numbers: list[int], after: list[str], early: bool) -> list[Element]:
        """Queue tasks in as many arrays as it takes; fewer and larger shares where the user's limits ask for it."""
        new: list[Element] = []
        jobs = self.options.jobs
        while numbers:
            shares = stripe(numbers, jobs)[: self._array_size]
            try:
                elements = self._queue(work, stage, shares, after, early)
            except NotNow:
                if early or len(shares) == 1:
                    raise
                jobs = len(shares) // 2
                continue
            new += elements
            numbers = sorted(set(numbers) - {number for share in shares for number in share})
            jobs = max(1, jobs - len(shares))
        if new:
            arrays = ", ".join(sorted({element.job for element in new}, key=int))
            tasks = _tasks(number for element in new for number in element.numbers)
            self.say(f"{stage}: {tasks} in {len(new)} Slurm job{'s' * (len(new) != 1)} ({arrays})")
        return new

    def _queue(
        self, work: WorkFolder, stage: str, shares: list[tuple[int, ...]], after: list[str], early: bool
    ) -> list[Element]:
        calls = [(str(work.output.absolute()), stage, share, self.options.processes) for share in shares]
        dependency = {"dependency": f"afterany:{':'.join(after)}"} if after else {}
        try:
            ids = self._sbatch(calls, self.options.parameters(self._excluded) | dependency)
        except InputError:
            if not self._excluded:
                raise
            self.say(f"sbatch refuses to exclude {', '.join(sorted(self._excluded))}: used again")
            self._excluded.clear()
            ids = self._sbatch(calls, self.options.parameters() | dependency)
        elements = [Element(job, stage, share, early) for job, share in zip(ids, shares, strict=True)]
        append_line(self._folder / ARRAYS_NAME, {"stage": stage, "elements": {e.id: e.numbers for e in elements}})
        self._elements |= {element.id: element for element in elements}
        return elements

    def _sbatch(self, calls: Sequence[tuple[Any, ...]], parameters: Mapping[str, Any]) -> list[str]:
        return submit_array(
            run_share, calls, self._folder, self._environ, parameters, name=ARRAY_NAME, hints=HINTS, python=self._python
        )

    def _tell(self, stage: str, queue: Mapping[str, Job]) -> None:
        """Say what a stage waits for, where none of its jobs runs."""
        jobs = [queue[element.id] for element in self._living(queue) if element.stage == stage]
        reasons = {job.reason for job in jobs} - {"", "Dependency"}
        if reasons and all(job.state == "PENDING" for job in jobs):
            self._say_once(f"{stage}: all its jobs wait in the queue ({', '.join(sorted(reasons))})")

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    def _error(self, spent: Mapping[tuple[str, int], list[TaskFailure]]) -> BertjobsError:
        (stage, _), failures = min(spent.items(), key=lambda entry: entry[0])
        numbers = [number for name, number in spent if name == stage]
        last = failures[-1]
        logs = {key[1]: self._log(those[-1].element) for key, those in spent.items() if key[0] == stage}
        last_log = logs[last.number]
        words = last.message if last.exit_code else _last_lines(last_log) or last.message
        if not words:
            words = "no log was written: do all nodes see this folder and this Python?"
        times = "once" if len(failures) == 1 else f"{len(failures)} times"
        error = BertjobsError(
            f"{_tasks(numbers)} of the stage {stage!r} failed {times}\n"
            + "".join(f"    {line}\n" for line in words.splitlines()).rstrip("\n"),
            where=", ".join([str(last_log), *sorted({log.name for log in logs.values()} - {last_log.name})[:4]]),
            hint="finished tasks are kept: once the cause is fixed, run the same command again",
        )
        if all(failure.exit_code == EXIT_BAD_INPUT for those in spent.values() for failure in those):
            error.exit_code = EXIT_BAD_INPUT
        return error

    def _log(self, element: str) -> Path:
        return self._folder / f"{element}_0_log.out"

    def _await_end(self) -> None:
        """Wait until no job is left that would write into the work folder, which is removed next."""
        if not self._gone_within(_ENDS_WITHIN_S):
            self._cancel()

    def _cancel(self) -> None:
        """Cancel all jobs that are left, and wait for their end."""
        queue = self._slurm.elements(ARRAY_NAME) if self._elements else {}
        unended = [element for element in self._elements.values() if not element.ended]
        jobs = sorted({e.job for e in (unended if queue is None else self._living(queue))}, key=int)
        if not jobs:
            return
        try:
            self._slurm.cancel(jobs)
        except BertjobsError as error:
            self.say(f"{error.what}; to cancel the jobs that are queued: scancel {' '.join(jobs)}")
            return
        if self._gone_within(_ENDS_WITHIN_S):
            self.say(f"Slurm jobs cancelled: {', '.join(jobs)}; finished tasks are kept, and the same command resumes")
        else:
            self.say(f"Slurm jobs {', '.join(jobs)} are cancelled, but have not ended yet: see squeue")

    def _gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (queue := self._slurm.elements(ARRAY_NAME)) is None or self._living(queue):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True


def _tasks(numbers: Iterable[int]) -> str:
    """``task 4``, ``tasks 4, 7``, or ``12 tasks (0, 1, 2, ...)``."""
    ordered = sorted(numbers)
    if len(ordered) > 5:
        return f"{len(ordered)} tasks ({', '.join(map(str, ordered[:3]))}, ...)"
    return f"task{'s' * (len(ordered) != 1)} {', '.join(map(str, ordered))}"


def _last_lines(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if not line.startswith("submitit INFO")][-_LAST_LINES:])
    except OSError:
        return ""
