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
from bertjobs.recipe.sweep import SEED
from bertjobs.run.directory import RunDirectory
from bertjobs.run.result import measured_result, task_result
from bertjobs.run.series import read_steps
from bertjobs.run.study import settings_in_words
from bertjobs.wording import PLAIN, Colour, Paint, columns, harmless

HELD_OUT = "mlm_loss_nats"
"""The measure of pretraining: of the last validation of the last phase."""
DONE, NOT_STARTED, CANCELLED = "DONE", "NOT STARTED", "CANCELLED"
NOT_EXPLAINED = "nothing continues it"


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

    @property
    def words(self) -> str:
        """``phase1.lr=1e-5``; empty where the runs differ in their seed alone."""
        return settings_in_words(self.settings)


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
    line = measured_result(read_steps(phases[-1].validation, HELD_OUT), phases[-1].done()) if phases else None
    return HELD_OUT, _finite(line[HELD_OUT]) if line else None


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
    return [spread for spread, _ in grouped(members)]


def grouped(members: Sequence[MemberResult]) -> list[tuple[Spread, list[MemberResult]]]:
    """The runs that differ in their seed alone, with their spread, in the order of the study."""
    groups: dict[tuple[tuple[str, str], ...], list[MemberResult]] = {}
    for member in members:
        shared = tuple((key, value) for key, value in member.settings.items() if key != SEED)
        groups.setdefault(shared, []).append(member)
    return [(_spread(dict(shared), group), group) for shared, group in groups.items()]


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
        "measure": measure_name(members),
        "members": [{**asdict(member), "has_failed": member.has_failed} for member in members],
        "spreads": [asdict(spread) for spread in spreads(members)],
    }


def study_text(name: str, members: Sequence[MemberResult], paint: Paint = PLAIN) -> str:
    """For people: a row per run, a row per setting with mean and spread, and the runs that failed."""
    state = 1 + len(members[0].settings)
    head, *rows = run_table(members)
    painted = [[*row[:state], paint(row[state], colour_of(row[state])), *row[state + 1 :]] for row in rows]
    parts = [headline(name, members), _table([head, *painted], paint)]
    if any(member.value is not None for member in members):
        parts.append(_table(spread_table(members), paint))
    parts += [
        f"{one.run} {one.state.lower()}: {one.why or NOT_EXPLAINED}\n  {one.command}" for one in failures(members)
    ]
    return harmless("\n\n".join(parts), paint)


def headline(name: str, members: Sequence[MemberResult]) -> str:
    """How far a study is."""
    return f"study {name}: {sum(member.state == DONE for member in members)} of {len(members)} runs done"


def failures(members: Sequence[MemberResult]) -> list[MemberResult]:
    """The runs that nothing continues."""
    return [member for member in members if member.has_failed]


def run_table(members: Sequence[MemberResult]) -> list[list[str]]:
    """A head, and a row per run: its settings, state, place and measure."""
    keys = list(members[0].settings)
    rows = [
        [
            member.run,
            *(member.settings.get(key, "-") for key in keys),
            member.state,
            str(member.phase or "-"),
            f"{member.steps_done}/{member.steps}",
            _number(member.value),
        ]
        for member in members
    ]
    return [["run", *keys, "state", "phase", "step", measure_name(members) or "measure"], *rows]


def spread_table(members: Sequence[MemberResult]) -> list[list[str]]:
    """A head, and a row per setting: mean and spread over its seeds."""
    shared = [key for key in members[0].settings if key != SEED]
    rows = [
        [
            *(spread.settings.get(key, "-") for key in shared),
            f"{spread.done} of {spread.runs}",
            *map(_number, (spread.mean, spread.deviation, spread.least, spread.most)),
        ]
        for spread in spreads(members)
    ]
    return [[*shared, "runs done", "mean", "std (n-1)", "min", "max"], *rows]


def _table(table: Sequence[Sequence[str]], paint: Paint) -> str:
    return "\n".join(columns([[paint(name, Colour.HEAD) for name in table[0]], *table[1:]]))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def measure_name(members: Sequence[MemberResult]) -> str | None:
    """What the runs are measured by; None where none was measured yet."""
    return next((member.measure for member in members if member.measure), None)
