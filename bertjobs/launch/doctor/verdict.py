"""What the doctor says about a run: one word for its state, a sentence, what shows it, and the next command."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from bertjobs.run.causes import Cause
from bertjobs.wording import PLAIN, Colour, Paint, harmless


class Standing(StrEnum):
    """The state of a run, if it is not given by the cause of an attempt's end (`bertjobs.run.causes.Cause`)."""

    DONE = "done"
    RESULT_LOST = "result lost"
    """Done, but the checkpoint that DONE.json names is gone or damaged."""
    UNREADABLE = "unreadable"
    """Its run.yml cannot be read."""
    RUNNING = "running"
    STALLED = "running without a step"
    QUEUED = "queued"
    NOT_STARTED = "not started"
    STOPPED = "stopped"
    PREEMPTION_LOOP = "preemption loop"
    DEPENDENCY = "dependency never met"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a run.

    Attributes:
        cause: why it ended, or its state.
        sentence: what is wrong, for people.
        evidence: what shows it, the first failing rank first.
        command: what to type next.
    """

    cause: Cause | Standing
    sentence: str
    evidence: tuple[str, ...]
    command: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def colour(self) -> Colour:
        """Of its cause: fine, a person may wait, or a person is needed."""
        if self.cause in (Standing.DONE, Standing.RUNNING, Cause.DONE):
            return Colour.GOOD
        waiting = (Standing.QUEUED, Standing.NOT_STARTED, Standing.STOPPED, Standing.UNKNOWN)
        return Colour.WAITING if self.cause in waiting else Colour.BAD

    def text(self, paint: Paint = PLAIN) -> str:
        """One screen."""
        head = f"{paint(self.cause, self.colour)}: {harmless(self.sentence)}"
        evidence = [paint("evidence", Colour.HEAD), *(f"  {harmless(line)}" for line in self.evidence)]
        return "\n".join([head, "", *evidence, "", paint("next", Colour.HEAD), f"  {harmless(self.command)}"])
