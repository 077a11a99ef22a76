"""The plan of a run: what will be trained, the batch arithmetic, where each value came from. Pure text and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bertjobs.data.manifest import DataManifest
from bertjobs.launch.estimate import Estimate, duration, estimate_phase
from bertjobs.launch.table import columns
from bertjobs.recipe.resolve import Resolved
from bertjobs.recipe.spec import PhaseSpec, RunSpec


@dataclass(frozen=True)
class Plan:
    """A run before it starts.

    Attributes:
        backend: "slurm" or "local".
        data: the data's manifest, None where there is none yet.
        estimates: expected time by phase, None where nothing is known.
    """

    resolved: Resolved
    backend: str
    data: DataManifest | None
    estimates: Mapping[int, Estimate | None]

    @property
    def spec(self) -> RunSpec:
        return self.resolved.spec


def make_plan(resolved: Resolved, backend: str, data: DataManifest | None, rate: float | None) -> Plan:
    """The plan of a resolved run; ``rate`` is this machine's matrix-product rate in FLOP/s, None on a cluster."""
    spec = resolved.spec
    vocab_size = spec.model.vocab_size or (data.vocabulary_size if data else 0)
    estimates = {phase.phase: estimate_phase(spec, phase, vocab_size, rate) for phase in spec.phases}
    return Plan(resolved, backend, data, estimates)


def arithmetic(plan: Plan) -> str:
    """What will run, as a person reads it before it starts."""
    spec, phases = plan.spec, plan.spec.phases
    model = spec.model
    place = "Slurm" if plan.backend == "slurm" else "this machine"
    device = f"{spec.gpus} x {spec.system.gpu} a node" if spec.gpus else "CPU"
    head = [
        ("run", f"{spec.run}, recipe {spec.recipe}, below {spec.results}"),
        (
            "model",
            f"{model.name}: {model.num_hidden_layers} layers, hidden {model.hidden_size}, "
            f"{model.num_attention_heads} heads" + (f", vocabulary {model.vocab_size:,}" if model.vocab_size else ""),
        ),
        ("starts from", spec.init_checkpoint or "random weights"),
        (
            "where",
            f"{place}: {spec.nodes} node{'s' * (spec.nodes > 1)} x {spec.tasks_per_node} "
            f"task{'s' * (spec.tasks_per_node > 1)} = {spec.world_size} rank{'s' * (spec.world_size > 1)}; {device}; "
            f"{spec.precision}",
        ),
        ("optimizer", f"{spec.optimizer.name}, weight decay {spec.optimizer.weight_decay:g}, seed {spec.seed}"),
        ("data", spec.data if plan.data else f"{spec.data} (not prepared yet)"),
    ]
    rows = [
        ["", *(f"phase {phase.phase}" for phase in phases)],
        ["sequence length", *(f"{phase.sequence_length} tokens" for phase in phases)],
        ["global batch", *(f"{phase.global_batch:,} sequences" for phase in phases)],
        ["  = ranks", *(f"{spec.world_size:,}" for _ in phases)],
        ["  x rank batch (BATCHSIZE)", *(f"{phase.rank_batch:,}" for phase in phases)],
        ["rank batch", *(f"{phase.rank_batch:,}" for phase in phases)],
        ["  = gradient steps (GRADIENT_STEPS)", *(f"{phase.gradient_steps:,}" for phase in phases)],
        ["  x micro-batch", *(f"{phase.micro_batch:,}" for phase in phases)],
        ["optimizer steps", *(f"{phase.steps:,}" for phase in phases)],
        ["peak learning rate (LR)", *(f"{phase.lr:g}" for phase in phases)],
        ["warm-up", *(f"{phase.warmup:g} of the steps" for phase in phases)],
        ["sequences in all", *(_sequences(plan, phase) for phase in phases)],
        ["expected time", *(_expected(plan.estimates[phase.phase]) for phase in phases)],
    ]
    known = [estimate for estimate in plan.estimates.values() if estimate]
    source = [f"expected time from {known[0].source}"] if known else []
    return "\n".join([*columns(head), "", *columns(rows), *source])


def _sequences(plan: Plan, phase: PhaseSpec) -> str:
    wanted = phase.steps * phase.global_batch
    if plan.data is None or phase.phase not in plan.data.phases:
        return f"{wanted:,}"
    return f"{wanted:,} ({wanted / plan.data.training_sequences(phase.phase):.2f} epochs)"


def _expected(estimate: Estimate | None) -> str:
    return f"about {duration(estimate.seconds)}" if estimate else "unknown for this system"


def provenance(plan: Plan) -> str:
    """Each value with where it came from."""
    rows = [["setting", "value", "from"]]
    for path, source in plan.resolved.provenance.items():
        value = source.value
        text = (
            ", ".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
        )
        rows.append([path, text or "-", source.origin])
    return "\n".join(columns(rows))


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan for programs; times in seconds."""
    spec = plan.spec
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
        "phases": [
            {
                **asdict(phase),
                "world_size": spec.world_size,
                "expected_s": estimate.seconds if (estimate := plan.estimates[phase.phase]) else None,
            }
            for phase in spec.phases
        ],
        "provenance": {
            path: {"value": source.value, "from": source.origin} for path, source in plan.resolved.provenance.items()
        },
    }
