"""What the runs of a study have reached, and mean and spread over those that differ in their seed alone. Pure but for
`measure_of`, which reads a run's folder."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bertjobs.launch.watch.status import RunStatus
from bertjobs.launch.watch.status_text import colour_of
from bertjobs.launch.watch.task_result import task_result
from bertjobs.recipe.sweep import SEED
from bertjobs.run.directory import RunDirectory
from bertjobs.run.series import read_steps
from bertjobs.wording import PLAIN, Colour, Paint, columns, harmless

HELD_OUT = "mlm_loss_nats"
"""The measure of pretraining: of the last validation of the last phase."""
DONE, NOT_STARTED, CANCELLED = "DONE", "NOT STARTED", "CANCELLED"


@dataclass(frozen=True)
class MemberResult:
    """A run of a study.

    Attributes:
        settings: in which it differs from the others.
        state, phase, steps_done, steps: of its first phase that is not done, else of its last.
        measure, value: what is compared, and how much of it the run has reached; None unless it is done and measured.
        is_active: whether a job of it is queued or running.
        why, command: what went wrong and what to type, if it is neither done nor active.
    """

    run: str
    settings: Mapping[str, str]
    state: str
    phase: int
    steps_done: int
    steps: int
    measure: str | None = None
    value: float | None = None
    is_active: bool = False
    why: str = ""
    command: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether nothing continues it."""
        return self.state != DONE and not self.is_active


@dataclass(frozen=True)
class Spread:
    """The measure over the runs with the same settings, other than the seed.

    Attributes:
        settings: what they share of that in which the study's runs differ.
        runs, done: how many there are, and how many of them are done and measured: those count.
        deviation: the sample standard deviation, with ``done`` - 1; None for fewer than two.
    """

    settings: Mapping[str, str]
    runs: int
    done: int
    mean: float | None = None
    deviation: float | None = None
    least: float | None = None
    most: float | None = None


def measure_of(directory: RunDirectory) -> tuple[str | None, float | None]:
    """The name of what a run is measured by, a task's or that of pretraining, and its value; None where it was not
    measured yet.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    if result := task_result(directory):
        name = result.get("measure")
        return name, _finite((result.get("dev") or {}).get(name))
    phases = directory.phases()
    lines = read_steps(phases[-1].validation, HELD_OUT) if phases else []
    return HELD_OUT, _finite(lines[-1][HELD_OUT]) if lines else None


def _finite(value: Any) -> float | None:
    is_number = type(value) in (int, float) and math.isfinite(value)
    return float(value) if is_number else None


def member_result(
    status: RunStatus, settings: Mapping[str, str], measured: tuple[str | None, float | None], *, in_turn: bool
) -> MemberResult:
    """A run's place in its study, from its status and what it was measured by; ``in_turn``: another one is being
    trained on this machine, and those that have not begun come after it."""
    row = next((phase for phase in status.phases if phase.state != DONE), status.phases[-1])
    name, value = measured
    is_active = any(link.is_active for link in status.links) or (in_turn and row.state == NOT_STARTED)
    was_cancelled = bool(status.links) and status.links[-1].cancelled and not is_active and row.state != DONE
    return MemberResult(
        run=status.directory.name,
        settings=settings,
        state=CANCELLED if was_cancelled else row.state,
        phase=row.phase,
        steps_done=row.steps_done,
        steps=row.steps,
        measure=name,
        value=value if row.state == DONE else None,
        is_active=is_active,
    )


def spreads(members: Sequence[MemberResult]) -> list[Spread]:
    """Mean and spread of each setting over its seeds, in the order of the study."""
    groups: dict[tuple[tuple[str, str], ...], list[MemberResult]] = {}
    for member in members:
        shared = tuple((key, value) for key, value in member.settings.items() if key != SEED)
        groups.setdefault(shared, []).append(member)
    return [_spread(dict(shared), group) for shared, group in groups.items()]


def _spread(settings: Mapping[str, str], group: Sequence[MemberResult]) -> Spread:
    values = [member.value for member in group if member.value is not None]
    if not values:
        return Spread(settings, len(group), 0)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(settings, len(group), len(values), statistics.fmean(values), deviation, min(values), max(values))


def study_json(name: str, members: Sequence[MemberResult]) -> dict[str, Any]:
    """For programs."""
    return {
        "study": name,
        "measure": _measure(members),
        "members": [{**asdict(member), "has_failed": member.has_failed} for member in members],
        "spreads": [asdict(spread) for spread in spreads(members)],
    }


def study_text(name: str, members: Sequence[MemberResult], paint: Paint = PLAIN) -> str:
    """For people: a row per run, a row per setting with mean and spread, and the runs that failed."""
    measure = _measure(members) or "measure"
    done = sum(member.state == DONE for member in members)
    failed = [member for member in members if member.has_failed]
    keys = list(members[0].settings)
    head = ["run", *keys, "state", "phase", "step", measure]
    rows = [
        [
            member.run,
            *(member.settings.get(key, "-") for key in keys),
            paint(member.state, colour_of(member.state)),
            str(member.phase or "-"),
            f"{member.steps_done}/{member.steps}",
            _number(member.value),
        ]
        for member in members
    ]
    parts = [f"study {name}: {done} of {len(members)} runs done", _table(head, rows, paint)]
    if any(member.value is not None for member in members):
        parts.append(_spread_table(members, keys, paint))
    parts += [f"{one.run} {one.state.lower()}: {one.why or 'nothing continues it'}\n  {one.command}" for one in failed]
    return harmless("\n\n".join(parts), paint)


def _spread_table(members: Sequence[MemberResult], keys: Sequence[str], paint: Paint) -> str:
    shared = [key for key in keys if key != SEED]
    head = [*shared, "runs done", "mean", "std (n-1)", "min", "max"]
    rows = [
        [
            *(spread.settings.get(key, "-") for key in shared),
            f"{spread.done} of {spread.runs}",
            *map(_number, (spread.mean, spread.deviation, spread.least, spread.most)),
        ]
        for spread in spreads(members)
    ]
    return _table(head, rows, paint)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], paint: Paint) -> str:
    return "\n".join(columns([[paint(name, Colour.HEAD) for name in head], *rows]))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _measure(members: Sequence[MemberResult]) -> str | None:
    return next((member.measure for member in members if member.measure), None)
