"""The plan of a run: what will be trained, the batch arithmetic, where each value came from. Pure text and numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.launch.plan import memory
from bertjobs.launch.plan.estimate import EarlierRun, Estimate, changes, estimate_phase, measured_peaks
from bertjobs.launch.plan.job_count import Links, links, shortest_job_s
from bertjobs.launch.plan.memory import MemoryFit
from bertjobs.launch.plan.packs import Packs
from bertjobs.launch.plan.problem import Problem
from bertjobs.launch.plan.queue import NOT_ASKED, Queue
from bertjobs.launch.plan.shares import Shares, shares_of
from bertjobs.launch.plan.task_work import TaskWork
from bertjobs.recipe.groups import nodes_words
from bertjobs.recipe.reference import value_text
from bertjobs.recipe.resolve import Resolved
from bertjobs.recipe.spec import PhaseSpec, RunSpec
from bertjobs.slurm.times import format_time
from bertjobs.wording import columns, counted, duration, harmless

LATER = "known once the data are prepared"


@dataclass(frozen=True)
class Plan:
    """A run before it starts.

    Attributes:
        backend: "slurm", "submitit" or "local".
        data: the data's manifest; None if it does not exist yet.
        estimates: expected time by phase; None if nothing is known.
        work: what the run's task computes; None for pretraining, and before the task's data are prepared.
        packs: by phase, what a step is cut into; only of phases whose data are there, and that are unpadded.
        shares: by phase, what groups of unlike nodes compute of a step; None where they are alike, or not known.
        fits: by phase, whether its micro-batch fits the GPU; None if nothing is known.
        links: by phase, the jobs that it takes under the time limit; None if nothing is known or it would never end.
        queue: what is asked of Slurm, and its answers.
        changes: the last run of the same recipe, and what differs from it; None if there is none.
        problems: preflight's.
        now_unix_s: when it was made; None if that is left open.
    """

    resolved: Resolved
    backend: str
    data: DataManifest | None
    estimates: Mapping[int, Estimate | None]
    packs: Mapping[int, Packs]
    shares: Mapping[int, Shares | None]
    fits: Mapping[int, MemoryFit | None]
    links: Mapping[int, Links | None]
    queue: Queue
    changes: tuple[str, list[str]] | None
    problems: tuple[Problem, ...]
    now_unix_s: float | None
    work: TaskWork | None = None

    @property
    def spec(self) -> RunSpec:
        return self.resolved.spec

    @property
    def seconds(self) -> float | None:
        """From the first start to the end, without the time in the queue; None if unknown."""
        times = []
        for number, estimate in self.estimates.items():
            cut = self.links[number]
            if estimate is None or (cut is None and self.queue.limit_s is not None):
                return None
            times.append(cut.seconds if cut else estimate.seconds)
        return sum(times)


def make_plan(
    resolved: Resolved,
    backend: str,
    data: DataManifest | None,
    rate: float | None,
    *,
    work: TaskWork | None = None,
    packs: Mapping[int, Packs] = MappingProxyType({}),
    earlier: Sequence[EarlierRun] = (),
    queue: Queue = NOT_ASKED,
    problems: Sequence[Problem] = (),
    now_unix_s: float | None = None,
) -> Plan:
    """The plan of a resolved run.

    Args:
        rate: this machine's matrix-product rate in FLOP/s; None on a cluster.
        work: of a task, as far as its data are prepared.
        packs: by phase, as far as the data tell.
        earlier: runs with measurements, newest first.
        queue: what is asked of Slurm, and its answers.
        problems: preflight's.
        now_unix_s: seconds since 1970; without it no expected end is shown.
    """
    spec = resolved.spec
    vocab_size = spec.model.vocab_size or (data.vocabulary_size if data else 0)
    shares = {phase.phase: shares_of(spec, phase, earlier, packs.get(phase.phase)) for phase in spec.phases}
    rates = {number: (one.rate, one.source) for number, one in shares.items() if one and one.rate is not None}
    estimates = {
        phase.phase: estimate_phase(
            spec,
            phase,
            vocab_size,
            rate,
            earlier,
            work,
            packs=packs.get(phase.phase),
            of_groups=rates.get(phase.phase),
        )
        for phase in spec.phases
    }
    peaks = measured_peaks(spec, earlier)
    cuts = {phase.phase: _links(phase, estimates[phase.phase], queue) for phase in spec.phases}
    endless = {n: one for n, one in estimates.items() if one and cuts[n] is None and queue.limit_s}
    return Plan(
        resolved=resolved,
        backend=backend,
        data=data,
        estimates=estimates,
        packs=packs,
        shares=shares,
        fits={phase.phase: memory.fit(spec, phase, vocab_size, peaks) for phase in spec.phases},
        links=cuts,
        queue=queue,
        changes=changes(spec, earlier),
        problems=(*problems, *(_too_short(number, one, spec, queue) for number, one in endless.items())),
        now_unix_s=now_unix_s,
        work=work,
    )


def _links(phase: PhaseSpec, estimate: Estimate | None, queue: Queue) -> Links | None:
    if estimate is None or queue.limit_s is None:
        return None
    return links(phase.steps, estimate.seconds / phase.steps, queue.limit_s)


def _too_short(number: int, estimate: Estimate, spec: RunSpec, queue: Queue) -> Problem:
    """The warning that a job would end before the first step of a phase, judged by an estimate."""
    steps = next(phase.steps for phase in spec.phases if phase.phase == number)
    needed = shortest_job_s(estimate.seconds / steps)
    return Problem(
        f"a job of {duration(queue.limit_s or 0)} is too short for one step of phase {number}: start-up, the step and "
        f"the time to stop take about {duration(needed)}",
        where=f"--time {queue.time}" if queue.time else "time limit of the partition",
        hint=f"ask for more time, such as --time {format_time(math.ceil(needed / 3600) * 3600)}",
        is_warning=True,
    )


def arithmetic(plan: Plan) -> str:
    """What will run, for people to read before it starts."""
    rows = [*_batch_rows(plan), *_cost_rows(plan)]
    problems = [problem.render() for problem in plan.problems]
    lines = [*columns(_head(plan)), "", *columns(rows), *_sources(plan), *_last_run(plan)]
    return harmless("\n".join([*lines, "", *problems] if problems else lines))


def _head(plan: Plan) -> list[tuple[str, str]]:
    spec, model = plan.spec, plan.spec.model
    place = "this machine" if plan.backend == "local" else "Slurm"
    kinds = " and ".join(dict.fromkeys(system.gpu for system in spec.node_systems))
    gpus = f"{kinds}, one per task" if spec.groups else f"{spec.gpus} x {spec.system.gpu} per node"
    device = gpus if spec.gpus else "CPU"
    return [
        ("run", f"{spec.run}, recipe {spec.recipe}, below {spec.results}"),
        (
            "model",
            f"{model.name}: {model.num_hidden_layers} layers, hidden {model.hidden_size}, "
            f"{model.num_attention_heads} heads" + (f", vocabulary {model.vocab_size:,}" if model.vocab_size else ""),
        ),
        ("starts from", spec.init_checkpoint or "random weights"),
        *([("teacher", spec.teacher)] if spec.teacher else []),
        (
            "where",
            f"{place}: {nodes_words(spec.ranks_of_nodes)} "
            f"= {counted(spec.world_size, 'rank')}; {device}; "
            f"{spec.precision}",
        ),
        ("optimizer", f"{spec.optimizer.name}, weight decay {spec.optimizer.weight_decay:g}, seed {spec.seed}"),
        ("data", spec.data if plan.data or plan.work else f"{spec.data} (not prepared yet)"),
    ]


def _batch_rows(plan: Plan) -> list[list[str]]:
    spec, phases = plan.spec, plan.spec.phases
    packs = [f"{spec.pack_tokens(phase):,} tokens" for phase in phases]
    return [
        ["", *(f"phase {phase.phase}" for phase in phases)],
        ["sequence length", *(f"{phase.sequence_length} tokens" for phase in phases)],
        ["global batch", *(f"{phase.global_batch:,} sequences" for phase in phases)],
        ["  = ranks", *(f"{spec.world_size:,}" for _ in phases)],
        ["  x rank batch (BATCHSIZE)", *(f"{phase.rank_batch:,}" for phase in phases)],
        ["rank batch", *(f"{phase.rank_batch:,}" for phase in phases)],
        ["  = gradient steps (GRADIENT_STEPS)", *(f"{phase.gradient_steps:,}" for phase in phases)],
        ["  x micro-batch", *(f"{phase.micro_batch:,}" for phase in phases)],
        *([["unpadded, in packs of at most", *packs]] if spec.is_unpadded else []),
        *_pack_rows(plan),
        *_share_rows(plan),
        ["optimizer steps", *(f"{phase.steps:,}" if phase.steps else LATER for phase in phases)],
        *_epoch_rows(plan),
        *_result_rows(phases),
        ["peak learning rate (LR)", *(f"{phase.lr:g}" for phase in phases)],
        ["warm-up", *(f"{phase.warmup:g} of the steps" for phase in phases)],
        ["total sequences", *(_sequences(plan, phase) for phase in phases)],
    ]


def _result_rows(phases: Sequence[PhaseSpec]) -> list[list[str]]:
    """Empty where every result is the last checkpoint, or where a task's measure decides."""
    kept = ["checkpoint of the lowest held-out loss" if phase.keep_best else "last checkpoint" for phase in phases]
    return [["result", *kept]] if any(phase.keep_best for phase in phases) else []


def _pack_rows(plan: Plan) -> list[list[str]]:
    """Empty where the data do not tell."""
    if not plan.packs:
        return []
    known = [plan.packs.get(phase.phase) for phase in plan.spec.phases]
    return [
        ["packs per step", *(packs.words() if packs else "unknown" for packs in known)],
        ["share of useful work", *(f"{packs.useful_share:.1%}" if packs else "unknown" for packs in known)],
    ]


def _share_rows(plan: Plan) -> list[list[str]]:
    """Of groups that differ; empty where none do, or where that is not known."""
    shares = list(plan.shares.values())
    if not any(shares):
        return []
    rows = [["  shares of the groups", *(one.words() if one else "unknown" for one in shares)]]
    if not plan.spec.rebalance:
        return rows
    return [*rows, ["  gain over equal shares", *(f"{one.gain:.2f} times" if one else "unknown" for one in shares)]]


def _epoch_rows(plan: Plan) -> list[list[str]]:
    """Of a task; those of pretraining are beside its sequences."""
    spec, work = plan.spec, plan.work
    if not spec.task:
        return []
    if work is None:
        return [["  = epochs x steps per epoch", *(f"{one.epochs:g} x unknown" for one in spec.phases)]]
    return [
        ["  = epochs", *(f"{work.epochs(phase):.4g}" for phase in spec.phases)],
        ["  x steps per epoch", *(f"{work.epoch_steps(phase):,.4g}" for phase in spec.phases)],
    ]


def _sequences(plan: Plan, phase: PhaseSpec) -> str:
    if not phase.steps:
        return LATER
    wanted = phase.steps * phase.global_batch
    if plan.work:
        return f"{wanted:,} of {plan.work.mean_tokens:.0f} tokens on average"
    epochs = _epochs(plan, phase)
    return f"{wanted:,}" if epochs is None else f"{wanted:,} ({epochs:.2f} epochs)"


def _cost_rows(plan: Plan) -> list[list[str]]:
    """Memory, time and jobs; rows without any known value are left out, except the time."""
    estimates = list(plan.estimates.values())
    rows = [["expected time", *(_expected(plan, phase) for phase in plan.spec.phases)]]
    if any(estimate and estimate.gpus for estimate in estimates):
        rows.append(["GPU-hours", *(f"{estimate.gpu_hours:,.3g}" if estimate else "unknown" for estimate in estimates)])
    limit = plan.queue.limit_s
    if limit is not None and any(estimates):
        label = "jobs" if math.isinf(limit) else f"jobs of at most {format_time(int(limit))}"
        rows.append([label, *(_jobs(plan, phase) for phase in plan.spec.phases)])
    if any(plan.fits.values()):
        rows.insert(0, ["GPU memory", *(fit.words() if fit else "unknown" for fit in plan.fits.values())])
    return rows


def _expected(plan: Plan, phase: PhaseSpec) -> str:
    if estimate := plan.estimates[phase.phase]:
        return f"{'at most' if estimate.is_upper_bound else 'about'} {duration(estimate.seconds)}"
    return "unknown for this system" if phase.steps else LATER


def _jobs(plan: Plan, phase: PhaseSpec) -> str:
    cut = plan.links[phase.phase]
    if cut:
        return f"{cut.count:,}"
    return "not one step fits" if plan.estimates[phase.phase] else "unknown"


def _sources(plan: Plan) -> list[str]:
    """Where the estimates come from, each source once."""
    times = {number: estimate.source for number, estimate in plan.estimates.items() if estimate}
    sure = dict.fromkeys(fit.source for fit in plan.fits.values() if fit)
    if len(set(times.values())) == 1:
        lines = [f"expected time from {next(iter(times.values()))}"]
    else:
        lines = [f"expected time of phase {number} from {source}" for number, source in times.items()]
    if end := expected_end(plan):
        lines.append(f"expected end {end}, if it starts now and never waits in the queue")
    lines += [f"GPU memory: {'; '.join(sure)}"] if sure else []
    if plan.queue.test.starts_at:
        lines.append(f"the first job would start at {plan.queue.test.starts_at} (sbatch --test-only)")
    return lines


def _last_run(plan: Plan) -> list[str]:
    if plan.changes is None:
        return []
    name, differing = plan.changes
    return [f"changed since run {name} of this recipe: {', '.join(differing) or 'nothing that decides the weights'}"]


def expected_end(plan: Plan) -> str | None:
    """When the run would end if it started now and its jobs never waited, in local time; None if unknown."""
    if plan.seconds is None or plan.now_unix_s is None:
        return None
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(plan.now_unix_s + plan.seconds))


def provenance(plan: Plan, queue: Sequence[Sequence[str]] = ()) -> str:
    """Each value with where it came from; ``queue``: the same three cells for what is asked of Slurm's queue."""
    rows = [["setting", "value", "from"]]
    for path, source in plan.resolved.provenance.items():
        values = source.value if isinstance(source.value, tuple) else (source.value,)
        text = ", ".join(map(_cell, values))
        rows.append([path, text or "-", source.origin])
    rows += [[f"queue: {name}", value, origin] for name, value, origin in queue]
    return "\n".join(columns(rows))


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else value_text(value)


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan for programs; times in seconds, memory in GB."""
    spec, limit = plan.spec, plan.queue.limit_s
    return {
        "run": spec.run,
        "recipe": spec.recipe,
        "backend": plan.backend,
        "model": asdict(spec.model),
        "system": asdict(spec.system),
        "precision": spec.precision,
        "nodes": spec.nodes,
        "tasks_per_node": spec.tasks_per_node,
        "world_size": spec.world_size,
        "data": spec.data,
        "results": spec.results,
        "phases": [_phase_json(plan, phase) for phase in spec.phases],
        "expected_s": plan.seconds,
        "expected_end": expected_end(plan),
        "time_limit_s": None if limit is None or math.isinf(limit) else limit,
        "starts_at": plan.queue.test.starts_at or None,
        "last_run": {"run": plan.changes[0], "changes": plan.changes[1]} if plan.changes else None,
        "problems": [asdict(problem) for problem in plan.problems],
        "provenance": {
            path: {"value": source.value, "from": source.origin} for path, source in plan.resolved.provenance.items()
        },
    }


def _epochs(plan: Plan, phase: PhaseSpec) -> float | None:
    """How often a phase reads its data; None if they are not there."""
    if plan.work:
        return plan.work.epochs(phase)
    if plan.data is None or phase.phase not in plan.data.phases:
        return None
    return phase.steps * phase.global_batch / plan.data.training_sequences(phase.phase)


def _phase_json(plan: Plan, phase: PhaseSpec) -> dict[str, Any]:
    estimate, fit, cut = plan.estimates[phase.phase], plan.fits[phase.phase], plan.links[phase.phase]
    packs, shares = plan.packs.get(phase.phase), plan.shares[phase.phase]
    epochs = _epochs(plan, phase)
    return {
        **asdict(phase),
        "world_size": plan.spec.world_size,
        "epochs": epochs,
        "steps_per_epoch": phase.steps / epochs if epochs else None,
        "expected_s": estimate.seconds if estimate else None,
        "expected_is_upper_bound": estimate.is_upper_bound if estimate else None,
        "expected_from": estimate.source if estimate else None,
        "sequences_per_s": estimate.sequences_per_s if estimate else None,
        "gpu_hours": estimate.gpu_hours if estimate else None,
        "links": cut.count if cut else None,
        "memory": fit.as_json() if fit else None,
        "packs": asdict(packs) if packs else None,
        "shares": shares.as_json() if shares else None,
    }
