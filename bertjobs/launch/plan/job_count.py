"""How many jobs a phase takes under a time limit. Pure: numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bertjobs.run.own_job import SIGNAL_LEAD_S

START_UP_S = 120.0
"""Assumed time from a job's start to its first step: node check, container, imports, reading the checkpoint."""


@dataclass(frozen=True)
class Links:
    """A phase split into jobs.

    Attributes:
        count: of the jobs, each of which resumes where the one before stopped.
        steps_each: optimizer steps that fit into one.
        seconds: that they run in total, without the time in the queue.
    """

    count: int
    steps_each: int
    seconds: float


def shortest_job_s(step_s: float, *, lead_s: float = SIGNAL_LEAD_S, start_up_s: float = START_UP_S) -> float:
    """Seconds of a job in which one step fits."""
    return start_up_s + step_s + lead_s


def links(
    steps: int, step_s: float, limit_s: float, *, lead_s: float = SIGNAL_LEAD_S, start_up_s: float = START_UP_S
) -> Links | None:
    """How many jobs of at most ``limit_s`` seconds (infinite: no limit) ``steps`` steps of ``step_s`` seconds take.

    A job spends ``start_up_s`` before its first step, and is asked to stop ``lead_s`` before its limit; it finishes the
    step that it is in within that lead, which is not counted here::

        count = ceil(steps / floor((limit - start up - lead) / step))

    Returns:
        None if not even one step fits into a job: the run would never end.
    """
    in_a_job = (limit_s - start_up_s - lead_s) / step_s
    if in_a_job < 1:
        return None
    steps_each = steps if in_a_job >= steps else math.floor(in_a_job)
    count = math.ceil(steps / steps_each)
    return Links(count, steps_each, count * start_up_s + steps * step_s)
