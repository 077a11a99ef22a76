"""A run's story: its jobs and their attempts, folded once from the events of jobs.jsonl. Pure.

Its readers (the timeline, the doctor, the report, a rehearsal) add what else they know: logs, metrics, Slurm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bertjobs.errors import EXIT_CONTINUE
from bertjobs.run.causes import SPENT_BY, Cause, read_cause


@dataclass(frozen=True)
class Failure:
    """What went wrong, as the worker wrote it: ``rank`` is the one that failed, ``facts`` are further fields."""

    what: str
    where: str = ""
    hint: str = ""
    rank: int = 0
    facts: Mapping[str, str] | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """As it is printed, without the cause."""
        more = {"where": self.where, "hint": self.hint, **(self.facts or {})}
        return (f"error: {self.what}", *(f"  {name}: {text}" for name, text in more.items() if text))


@dataclass(frozen=True)
class SlowRank:
    """A rank that takes ``times`` as long per micro-batch as others, since a step."""

    rank: int
    node: str
    times: float
    step: int

    def __str__(self) -> str:
        since = f"since step {self.step:,}"
        return f"rank {self.rank} on {self.node} takes {self.times:g} times as long as others per micro-batch {since}"


@dataclass(frozen=True)
class Attempt:
    """One start of a job at one phase.

    Attributes:
        phase, job, number: which one it is; the first start of a job has number 0.
        world_size: ranks; 0 if it never began to train.
        started_unix_s: when it began to train, in seconds since 1970; None if it did not get that far.
        first_step: the step that it began at.
        damaged_step: the step of the newest checkpoint then, if that was damaged and it began earlier; else 0.
        ended_unix_s: when it wrote its end; None if it did not, even if a later attempt wrote it.
        alive_unix_s: when it ended, or if it was killed or still runs, the time of its last known step.
        word: why it ended, in the journal's word; "" if nothing says so.
        explained: what Slurm said later about the signal that ended it.
        exit_code, step: as recorded at its end; None if nothing says so.
        saved_step: of the last checkpoint that it wrote; None if the journal names none.
        failure: what went wrong, if anything did.
        is_end_reported: whether another process wrote its end.
        slow_ranks: those that were slow when this was written, by rank.
        refusal, spent_by: why no other attempt followed, in words, and the cause that used up the restarts; "" and
            None if one did.
        chain: the submission that its job is of; a job that was queued by hand is a chain of its own.
    """

    phase: int
    job: str
    number: int = 0
    world_size: int = 0
    started_unix_s: float | None = None
    first_step: int = 0
    damaged_step: int = 0
    ended_unix_s: float | None = None
    alive_unix_s: float = 0.0
    word: str = ""
    explained: Cause | None = None
    exit_code: int | None = None
    step: int | None = None
    saved_step: int | None = None
    failure: Failure | None = None
    is_end_reported: bool = False
    slow_ranks: tuple[SlowRank, ...] = ()
    refusal: str = ""
    spent_by: Cause | None = None
    chain: str = ""

    @property
    def cause(self) -> Cause | None:
        """Why it ended; None if nothing says so, or only in an unknown word."""
        return read_cause(self.word, by_slurm=self.is_end_reported)

    @property
    def counts_as(self) -> Cause | None:
        """The cause that budgets count it by: where a signal ended it, what Slurm said about that later; "crashed" if
        its word is unknown. None if it has no end, or never began because the restarts were used up."""
        if not self.word or self.cause is Cause.NOT_RESTARTED:
            return None
        return self.explained or self.cause or Cause.CRASHED

    @property
    def has_ended(self) -> bool:
        """Whether the journal records its end."""
        return bool(self.word) or self.exit_code is not None

    @property
    def has_saved(self) -> bool:
        """Whether the journal says that it wrote a checkpoint: an attempt that is told to stop writes one, if it has
        made a step."""
        stopped = self.exit_code == EXIT_CONTINUE and self.step is not None and self.step > self.first_step
        return self.saved_step is not None or stopped

    @property
    def seconds(self) -> float:
        """From its start to the last known moment of it; 0 if it never began to train."""
        return max(0.0, self.alive_unix_s - self.started_unix_s) if self.started_unix_s is not None else 0.0


@dataclass(frozen=True)
class JobStory:
    """One job of a run.

    Attributes:
        id, backend: "slurm" or "local".
        phase: the one that it was queued for; for a job queued by hand, the first that it began.
        since_unix_s: when the journal first names it.
        is_submitted, is_spare: whether bertjobs queued it, and whether as a spare that takes over.
        host, pid: of the launcher of a local job; "" and 0 for others.
        study: whose launcher that is, if it trains a study's runs one after the other; "" for others.
        is_by_hand: whether a person started each of its nodes.
        is_cancelled: whether ``bertjobs cancel`` stopped it.
        attempts: in chronological order, at any phase.
    """

    id: str
    backend: str
    phase: int
    since_unix_s: float
    is_submitted: bool = False
    is_spare: bool = False
    host: str = ""
    pid: int = 0
    study: str = ""
    is_by_hand: bool = False
    is_cancelled: bool = False
    attempts: tuple[Attempt, ...] = ()

    def at(self, phase: int) -> JobStory:
        """The same job, with its attempts at one phase."""
        return replace(self, attempts=tuple(attempt for attempt in self.attempts if attempt.phase == phase))

    @property
    def ended(self) -> Attempt | None:
        """Its last attempt, if that has an end."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].has_ended else None


@dataclass(frozen=True)
class Story:
    """A run: its jobs by id, in the order in which the journal first names them, and all attempts chronologically."""

    jobs: Mapping[str, JobStory]
    attempts: tuple[Attempt, ...] = ()

    @property
    def begun(self) -> tuple[Attempt, ...]:
        """The attempts that began to train."""
        return tuple(attempt for attempt in self.attempts if attempt.started_unix_s is not None)

    def attempt(self, phase: int, job: str, number: int) -> Attempt:
        """One attempt; one of which nothing is known if the journal does not name it."""
        same = (one for one in reversed(self.attempts) if (one.phase, one.job, one.number) == (phase, job, number))
        return next(same, Attempt(phase, job, number))


def read_story(events: Iterable[Mapping[str, Any]], step_times: Mapping[int, Sequence[float]] | None = None) -> Story:
    """The story in a journal.

    Args:
        events: its lines, in order; those that are not about a phase's job are skipped.
        step_times: by phase, when each step ended, in seconds since 1970: they show how long a killed attempt lived.
    """
    jobs: dict[str, JobStory] = {}
    attempts: list[Attempt] = []
    places: dict[tuple[int, str, int], int] = {}  # of an attempt's newest start in `attempts`
    for event in events:
        if not _is_of_a_job(event):
            continue
        id, phase, number = str(event["job"]), event["phase"], event.get("attempt", 0)
        jobs[id] = _job(jobs.get(id), event)
        if event["event"] not in _OF_AN_ATTEMPT:
            continue
        place = places.get((phase, id, number))
        if place is None or (event["event"] == "started" and attempts[place].started_unix_s is not None):
            place = places[phase, id, number] = len(attempts)
            attempts.append(Attempt(phase, id, number, chain=str(event.get("chain", id))))
        attempts[place] = _OF_AN_ATTEMPT[event["event"]](attempts[place], event)
    complete = tuple(_alive(attempt, attempts[place + 1 :], step_times or {}) for place, attempt in enumerate(attempts))
    of_jobs = {id: tuple(attempt for attempt in complete if attempt.job == id) for id in jobs}
    return Story({id: replace(job, attempts=of_jobs[id]) for id, job in jobs.items()}, complete)


def _is_of_a_job(event: Any) -> bool:
    if not isinstance(event, Mapping) or not event.get("job"):
        return False
    return isinstance(event.get("phase"), int) and isinstance(event.get("time_unix_s"), int | float)


def _job(job: JobStory | None, event: Mapping[str, Any]) -> JobStory:
    job = job or JobStory(str(event["job"]), "slurm", event["phase"], event["time_unix_s"])
    job = replace(job, backend=event.get("backend") or event.get("scheduler") or job.backend)
    if event["event"] == "submitted":
        host, pid = str(event.get("host", "")), int(event.get("pid", 0))
        study, by_hand = str(event.get("study", "")), bool(event.get("by_hand"))
        launcher = replace(job, host=host, pid=pid, study=study, is_by_hand=by_hand)
        return replace(launcher, is_submitted=True, is_spare=bool(event.get("spare")))
    return replace(job, is_cancelled=True) if event["event"] == "cancelled" else job


def _started(attempt: Attempt, event: Mapping[str, Any]) -> Attempt:
    return replace(
        attempt,
        started_unix_s=event["time_unix_s"],
        world_size=event.get("world_size", 1),
        first_step=int(event.get("step", 0)),
        damaged_step=int(event.get("damaged_step", 0)),
    )


def _saved(attempt: Attempt, event: Mapping[str, Any]) -> Attempt:
    return replace(attempt, saved_step=event.get("step", attempt.saved_step))


def _ended(attempt: Attempt, event: Mapping[str, Any]) -> Attempt:
    """The first end counts: if a rank hangs, a later end says less."""
    if attempt.has_ended:
        return attempt
    failure = _failure(event.get("error"))
    facts = (failure.facts if failure else None) or {}
    return replace(
        attempt,
        ended_unix_s=None if "told_by" in event else event["time_unix_s"],
        word=str(event.get("cause", "")),
        exit_code=event.get("exit_code"),
        step=event.get("step"),
        failure=failure,
        is_end_reported="told_by" in event,
        spent_by=read_cause(facts.get(SPENT_BY, "")),
    )


def _slow_rank(attempt: Attempt, event: Mapping[str, Any]) -> Attempt:
    """A rank that has become slow, or no longer is."""
    try:
        named = SlowRank(int(event["rank"]), str(event["node"]), float(event["times"]), int(event["step"]))
    except (KeyError, TypeError, ValueError):
        return attempt
    others = [one for one in attempt.slow_ranks if one.rank != named.rank]
    now = sorted([*others, *([named] if named.times else [])], key=lambda one: one.rank)
    return replace(attempt, slow_ranks=tuple(now))


def _explained(attempt: Attempt, event: Mapping[str, Any]) -> Attempt:
    return replace(attempt, explained=read_cause(str(event.get("cause", "")), by_slurm=True))


def _not_restarted(attempt: Attempt, event: Mapping[str, Any]) -> Attempt:
    return replace(attempt, refusal=str(event.get("why", "")), spent_by=read_cause(str(event.get("spent_by", ""))))


_OF_AN_ATTEMPT: Mapping[str, Callable[[Attempt, Mapping[str, Any]], Attempt]] = {
    "started": _started,
    "checkpoint": _saved,
    "slow rank": _slow_rank,
    "ended": _ended,
    "explained": _explained,
    "not restarted": _not_restarted,
}
"""The events that are about an attempt, and what each adds to it."""


def _failure(error: Any) -> Failure | None:
    """The error recorded with an end; older journals have it as it was printed."""
    if isinstance(error, Mapping) and error.get("what"):
        texts = {str(name): str(text) for name, text in error.items() if name != "rank"}
        facts = {name: text for name, text in texts.items() if name not in ("what", "where", "hint")}
        rank = error.get("rank", 0)
        where, hint = texts.get("where", ""), texts.get("hint", "")
        return Failure(texts["what"], where, hint, rank if isinstance(rank, int) else 0, facts)
    first, _, rest = str(error or "").strip().partition("\n")
    return Failure(first.removeprefix("error: "), rest.strip().removeprefix("where: ")) if first else None


def _alive(attempt: Attempt, later: Sequence[Attempt], step_times: Mapping[int, Sequence[float]]) -> Attempt:
    began = attempt.started_unix_s
    if began is None or attempt.ended_unix_s is not None:
        return replace(attempt, alive_unix_s=attempt.ended_unix_s or 0.0)
    starts = (other.started_unix_s for other in later if other.phase == attempt.phase)
    following = next((start for start in starts if start is not None), float("inf"))
    seen = [time for time in step_times.get(attempt.phase, ()) if began <= time < following]
    return replace(attempt, alive_unix_s=max(seen, default=began))
