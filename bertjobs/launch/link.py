"""run.sub's edge: what comes before and after an attempt of a job.

``python -m bertjobs.launch.link begin|checkpoint|end`` reads the job's environment, asks Slurm, keeps the journal, and
does what `bertjobs.launch.decision` decides. It needs no torch, and it runs on the host: inside a container there is no
scontrol.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE, EXIT_DONE, BertjobsError
from bertjobs.files.reading import DamagedFileError, read_text
from bertjobs.launch.decision import (
    Decision,
    End,
    Next,
    contract_code,
    decide,
    has_advanced,
    recorded,
)
from bertjobs.launch.notice import notice_of, send
from bertjobs.launch.ownership import take_for_job
from bertjobs.launch.unanswered import appeared
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.run.causes import Cause
from bertjobs.run.directory import PhaseDirectory, RunDirectory
from bertjobs.run.journal import Attempt
from bertjobs.run.own_job import own_job
from bertjobs.run.owner import Owner, Owners
from bertjobs.run.restarts import chain_attempts, close_attempt, complete_journal, is_open
from bertjobs.slurm.client import Slurm
from bertjobs.slurm.environment import clean_environment
from bertjobs.slurm.notify import DONE_MAIL, NOBODY, Notify, RunEvent
from bertjobs.slurm.refusals import NoAnswer
from bertjobs.wording import harmless

TRAIN = 0
"""Exit code of ``begin``: the run is this job's."""
ANOTHER_TRAINS = 20
"""Exit code of ``begin``: another job trains the run, this one leaves."""
FOLDER_AWAY = 21
"""Exit code of ``begin``: the run's folder is not there."""
ARRANGED = 0
"""Exit code of ``end``: what comes next is arranged, the job ends with the attempt's own code."""
NEXT_PHASE_HERE = 10
"""Exit code of ``end``: this job trains the run's next phase itself."""

PATIENCE_S = 300.0
"""How long a link tries to reach Slurm, or the run's folder. Its time limit may end it earlier: then the spare
continues the run."""
RETRY_S = 10.0
T = TypeVar("T")

_EXCLUDE = re.compile(r"^#SBATCH --exclude=(\S+)$", re.MULTILINE)
_NODES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,-]*")


class AwayError(BertjobsError):
    """The run's folder is not there: its file system is not, or no longer, mounted on this host."""


@dataclass(frozen=True)
class CurrentLink:
    """One job of a run's chain at one phase, as the environment of run.sub describes it.

    Attributes:
        folder: the run's.
        phases: numbers of the phases that the chain trains, in order; () for a job that was queued by hand.
        phase, job, attempt: the phase that it trains now, its id, and how often it has been requeued.
        chain: name of the submission that it belongs to; its own id for a job that was queued by hand.
        step_limit: whether it is to make a limited number of steps.
        notify: who is told of the run's events.
        environ: the job's whole environment, which may hold the address of a webhook.
    """

    folder: RunDirectory
    phases: tuple[int, ...]
    phase: int
    job: str
    attempt: int
    chain: str
    step_limit: bool
    notify: Notify = NOBODY
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> CurrentLink:
        """The link that the environment of run.sub describes.

        Raises:
            KeyError, ValueError: this is not run.sub's environment.
        """
        if (job := own_job(environ)) is None:
            raise KeyError("SLURM_JOB_ID")
        return cls(
            folder=RunDirectory(Path(environ["RESULTS"]) / environ["RUN"]),
            phases=tuple(int(number) for number in environ.get("BERTJOBS_PHASES", "").split(",") if number),
            phase=int(environ["PHASE"]),
            job=job,
            attempt=int(environ.get("SLURM_RESTART_COUNT") or 0),
            chain=environ.get("BERTJOBS_CHAIN") or job,
            step_limit=bool(environ.get("STEPS_THIS_RUN")),
            notify=Notify.of(environ),
            environ=environ,
        )

    @property
    def directory(self) -> PhaseDirectory:
        return self.folder.phase(self.phase)

    def attempts(self) -> Sequence[Attempt]:
        """The chain's at this phase, oldest first."""
        return chain_attempts(self.folder.events(), self.phase, self.chain)

    def phases_left(self) -> bool:
        """Whether the chain has phases that are not done."""
        return any(not self.folder.phase(number).done_file.exists() for number in self.phases)

    def followers(self, slurm: Slurm, kind: str = "") -> list[str]:
        """Ids of this run's queued jobs that wait for the end of this one, by their names: ``RUN-phaseN`` and
        ``RUN-spare``; ``kind`` "phase" or "spare" selects one of the two. Others may wait for it too, but are not ours.

        Raises:
            NoAnswer: Slurm does not say.
        """
        return slurm.links_behind(self.job, self.folder.name, self.folder.root, kind)

    def budgets(self) -> Mapping[str, int]:
        """The recipe's restarts; {} if no run.yml can be read."""
        try:
            return read_lockfile(self.folder.lockfile).restarts
        except (BertjobsError, OSError):
            return {}


def begin(link: CurrentLink, slurm: Slurm) -> int:
    """Before an attempt: take the run, and complete the journal if the previous one could not write its own end.

    Returns:
        `TRAIN` or `ANOTHER_TRAINS`.

    Raises:
        AwayError: the run was submitted, so it has a folder, but that is not there.
        OSError: the run's folder cannot be written.
    """
    if link.phases:
        patiently(lambda: see(link.folder.lockfile))
    candidate = Owner(link.job, link.attempt, socket.gethostname(), 0, "slurm", link.chain)
    if other := take_for_job(Owners(link.folder.owners), candidate, slurm):
        _say(f"run {link.folder.name} is being trained by {other.words()}: job {link.job} leaves it alone")
        return ANOTHER_TRAINS
    link.directory.exclude.unlink(missing_ok=True)
    if attempts := link.attempts():
        last = attempts[-1]
        state = slurm.last_state(last.job, is_running=last.job == link.job)
        complete_journal(link.folder, link.phase, link.chain, state)
        if is_open(attempts):  # it was killed before it could tell
            cause = recorded(link.folder, link.phase, last.job, last.number).cause
            _notify(link, slurm, RunEvent.RESTARTED, cause, "")
    return TRAIN


def end(link: CurrentLink, slurm: Slurm, code: int, *, before: str, told_to_end: bool) -> int:
    """After an attempt: decide what comes next, say it, and arrange it.

    Args:
        code: the ranks' exit code.
        before: name of the checkpoint written last when the attempt began, "" for none.
        told_to_end: as in `End`.

    Returns:
        `ARRANGED` or `NEXT_PHASE_HERE`.

    Raises:
        AwayError: the run's folder is not there.
    """
    patiently(lambda: see(link.folder.root))
    owners = Owners(link.folder.owners)
    last = owners.last()
    if last and not last.is_attempt(link.job, link.attempt):
        _say(f"another attempt has taken over run {link.folder.name}: nothing is left to arrange")
        return ARRANGED
    answer, news = _decide(link, slurm, code, before=before, told_to_end=told_to_end)
    if answer != NEXT_PHASE_HERE and last:
        owners.release(last)  # not whoever may have followed meanwhile
    if news:  # last: nobody waits for it
        _notify(link, slurm, *news)
    return answer


News = tuple[RunEvent, Cause | None, str]
"""What there is to tell of the run: what happened, why the attempt ended, and why nothing follows, or ""."""


def _decide(link: CurrentLink, slurm: Slurm, code: int, *, before: str, told_to_end: bool) -> tuple[int, News | None]:
    if code not in (EXIT_DONE, EXIT_CONTINUE) and not told_to_end:
        close_attempt(link.folder, link.phase, link.chain, code, source="batch script")
    attempt = recorded(link.folder, link.phase, link.job, link.attempt)
    ended = End(
        code=contract_code(code),
        told_to_end=told_to_end,
        advanced=has_advanced(attempt, link.directory.checkpoints, before),
        step_limit=link.step_limit,
        unfit_nodes=_unfit_nodes(link.directory.exclude),
        cause=attempt.cause,
    )
    decision = decide(link.folder, attempt, link.chain, ended, link.budgets())
    try:
        answer, event = _arrange(link, slurm, decision, ended)
    except BertjobsError as error:  # the decision stands: run.sub must not make another
        _say(f"next: {decision.next}, but {error.what}")
        answer, event = ARRANGED, _reached(link) if decision.next is Next.NEXT_PHASE else RunEvent.STOPPED
    # If the worker refused its input before it wrote to the journal, only the code says so.
    cause = ended.cause or (Cause.BAD_INPUT if ended.code == EXIT_BAD_INPUT else None)
    return answer, (event, cause, decision.why) if event else None


def _unfit_nodes(file: Path) -> str:
    """The nodes that a worker wrote down as unfit, separated by commas; "" for none, or if the file is damaged."""
    with suppress(DamagedFileError):
        nodes = (read_text(file) or "").strip()
        return nodes if _NODES.fullmatch(nodes) else ""
    return ""


def _arrange(link: CurrentLink, slurm: Slurm, decision: Decision, ended: End) -> tuple[int, RunEvent | None]:
    """Do what was decided; returns the code of `end`, and what became of the run, if that is news."""
    if decision.next is Next.NEXT_PHASE:
        event = _reached(link)
        if patiently(lambda: link.followers(slurm, "phase")):
            return ARRANGED, event  # the next phase's own job is in the queue
        if event is None:
            return NEXT_PHASE_HERE, None
        _cancel(patiently(lambda: link.followers(slurm, "spare")), slurm)
        return ARRANGED, event
    if decision.next is Next.NOTHING_HERE:
        if not slurm.was_preempted(link.job):
            return ARRANGED, RunEvent.STOPPED
        # If Slurm cancels preempted jobs, nothing else continues the run; if it requeues them, it does.
        ensure_follower(link, slurm)
    elif decision.next is Next.STOP:
        _say(f"not continued: {decision.why}")
        _cancel(patiently(lambda: link.followers(slurm)), slurm)
        return ARRANGED, RunEvent.STOPPED
    elif decision.next is Next.RESTART:
        _say("continuing: requeue")
        try:
            patiently(lambda: slurm.requeue(link.job))
        except BertjobsError as error:
            _say(error.what)
            return ARRANGED, _continued(ensure_follower(link, slurm))
    else:
        return ARRANGED, _continued(_continue_elsewhere(link, slurm, ended.unfit_nodes))
    return ARRANGED, RunEvent.RESTARTED


def _continued(follows: bool) -> RunEvent:
    return RunEvent.RESTARTED if follows else RunEvent.STOPPED


def _continue_elsewhere(link: CurrentLink, slurm: Slurm, unfit: str) -> bool:
    """Keep the job that follows off the unfit nodes, and off those that all of the run's are kept off; whether one
    follows."""
    if not link.phases:
        _say(
            f"not continued: {unfit} cannot be used, and a job queued by hand has none to follow it; queue it again "
            f"with sbatch --exclude={unfit}"
        )
        return False
    nodes = ",".join([*_asked_exclusions(link.directory.script), unfit])
    _say(f"continuing elsewhere: a job that excludes {nodes}")
    for job in patiently(lambda: link.followers(slurm)):
        slurm.update(job, ExcNodeList=nodes)
    return ensure_follower(link, slurm, f"--exclude={nodes}")


def _asked_exclusions(script: Path) -> list[str]:
    """The nodes that a run's batch script keeps its jobs off, in Slurm's notation; of several lines sbatch takes the
    last."""
    with suppress(DamagedFileError):
        return _EXCLUDE.findall(read_text(script) or "")[-1:]
    return []


def _reached(link: CurrentLink) -> RunEvent | None:
    """What the end of a phase means for the run: it is done, or that is not news."""
    return None if link.phases_left() else RunEvent.DONE


def _notify(link: CurrentLink, slurm: Slurm, event: RunEvent, cause: Cause | None, why: str) -> None:
    """Tell whoever wants to know; nothing of it fails or lasts."""
    if event not in link.notify.events:
        return
    if link.notify.mail and event is RunEvent.DONE:
        with suppress(BertjobsError):
            slurm.update(link.job, MailType=DONE_MAIL)
    if link.notify.webhook:
        notice = notice_of(event, link.folder, link.phase, link.job, link.attempt, cause=cause, why=why)
        _say(send(notice, link.notify.webhook, link.environ))


def see(path: Path) -> None:
    """Make sure that a part of the run's folder, which existed, is there.

    Raises:
        AwayError: it is not.
    """
    try:
        path.stat()
    except OSError as error:
        what = f"{path} is not there ({error.strerror})"
        hint = f"is its file system mounted on {socket.gethostname()}?"
        raise AwayError(what, where=str(path), hint=hint) from error


def patiently(act: Callable[[], T]) -> T:
    """Do something for which Slurm, or the run's folder, may be missing at the moment: again and again, for
    `PATIENCE_S` seconds.

    Raises:
        NoAnswer, AwayError: it stayed so.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return act()
        except (NoAnswer, AwayError) as error:
            if time.monotonic() >= deadline:
                raise
            _say(f"{error.what}: trying again")
            time.sleep(RETRY_S)


def ensure_follower(link: CurrentLink, slurm: Slurm, *options: str) -> bool:
    """Make sure that a link of the chain is queued to follow this one; ``options`` are sbatch's for a new one. Returns
    whether one is."""
    script = link.directory.script
    if not link.phases or not script.is_file():
        return False
    try:
        if patiently(lambda: link.followers(slurm)):
            return True
        job = _queue_spare(link, slurm, script, options)
    except BertjobsError as error:
        _say(f"could not queue a job to follow this one: {error.what}")
        return False
    link.folder.record("submitted", backend="slurm", phase=link.phase, job=job, chain=link.chain, spare=True)
    return True


def _queue_spare(link: CurrentLink, slurm: Slurm, script: Path, options: Sequence[str]) -> str:
    """Queue a spare; returns its id, also if sbatch got no answer although the job was queued."""
    try:
        return slurm.submit_follower(link.job, script, name=f"{link.folder.name}-spare", options=options)
    except NoAnswer as error:
        _say(f"{error.what}: looking for the job in the queue")
        if jobs := appeared(lambda: link.followers(slurm)):
            return jobs[0]
        raise


def _cancel(jobs: Sequence[str], slurm: Slurm) -> None:
    if jobs:
        _say(f"cancelling the jobs that follow: {' '.join(jobs)}")
        slurm.cancel(jobs)


def _say(words: str) -> None:
    print(harmless(words), file=sys.stderr, flush=True)


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """run.sub's questions.

    Returns:
        0, or one of the codes of ``begin`` and ``end``. Any other, such as an exception's 1, tells run.sub that it got
        no answer.
    """
    parser = argparse.ArgumentParser(prog="python -m bertjobs.launch.link", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("begin", help="take the run and complete the journal before an attempt")
    verbs.add_parser("checkpoint", help="a checkpoint was written: make sure that a link follows this job")
    ending = verbs.add_parser("end", help="decide and arrange what comes next")
    ending.add_argument("code", type=int, help="exit code of the ranks")
    ending.add_argument("--before", default="", help="the checkpoint written last when the attempt began")
    ending.add_argument("--told-to-end", action="store_true", help="the job as a whole was told to end")
    given = parser.parse_args(arguments)
    link, slurm = CurrentLink.of(environ), Slurm(clean_environment(environ))
    if given.verb == "begin":
        try:
            return begin(link, slurm)
        except AwayError as error:
            _say(error.render())
            return FOLDER_AWAY
    if given.verb == "checkpoint":
        ensure_follower(link, slurm)
        return ARRANGED
    before = Path(given.before).name
    if link.notify.webhook:  # a requeue ends this job, and a notice comes after the requeue
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return end(link, slurm, given.code, before=before, told_to_end=given.told_to_end)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], os.environ))
    except BertjobsError as error:
        _say(error.render())
        sys.exit(error.exit_code)
