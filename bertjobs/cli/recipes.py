"""`bertjobs recipes`: the catalogue, one recipe, and (in `settings`) what can be set."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertjobs.cli import settings
from bertjobs.cli.arguments import add_files, catalogue_of
from bertjobs.errors import InputError
from bertjobs.wording import columns

if TYPE_CHECKING:
    from bertjobs.recipe.catalogue import Catalogue
    from bertjobs.recipe.spec import RunSpec

_NODES_SHOWN = (1, 2, 4, 8, 16, 32, 64)


def register(subparsers: Any) -> None:
    """Add `recipes` to the command line."""
    parser = subparsers.add_parser(
        "recipes",
        help="list the recipes, show one, or explain the settings",
        description="List the recipes of the catalogue and of your own files, show one, or explain the settings.",
        allow_abbrev=False,
    )
    parser.set_defaults(handler=_list)
    _add_common(parser)
    verbs = parser.add_subparsers(metavar="VERB")
    show = verbs.add_parser(
        "show",
        help="show one recipe",
        description="Show one recipe: its settings, phase by phase, with the file that each comes from.",
        allow_abbrev=False,
    )
    show.add_argument("name", metavar="NAME", help="of the recipe")
    _add_common(show, below=True)
    show.set_defaults(handler=_show)
    settings.register(verbs)


def _add_common(parser: argparse.ArgumentParser, *, below: bool = False) -> None:
    """Add --recipes and --json; ``below`` a parser that has them too, do not reset its values."""
    add_files(parser, below=below)
    default = argparse.SUPPRESS if below else False
    parser.add_argument("--json", action="store_true", default=default, help="print JSON")


def _resolved(catalogue: Catalogue, name: str, **flags: Any) -> RunSpec:
    from bertjobs.recipe.resolve import resolve

    return resolve(catalogue, flags={"recipe": name, **flags}, environ={}).spec


def _list(args: argparse.Namespace) -> int:
    catalogue = catalogue_of(args, os.environ)
    rows, problems = [], []
    for name in catalogue.keys("recipes"):
        try:
            rows.append(_summary(catalogue, name))
        except InputError as error:  # of one's own: here is where to look for the right names
            problems.append(error)
    for problem in problems:
        print(problem.render(), file=sys.stderr)
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    taught = [row for row in rows if row["distillation"]]
    alone = [row for row in rows if not row["distillation"]]
    print(_table([row for row in alone if not row["task"]], _PRETRAINING))
    print("\nNext: bertjobs recipes show NAME, or bertjobs plan --recipe NAME --nodes N")
    print("\nFor `bertjobs finetune`, which takes the model from the weights:\n")
    print(_table([row for row in alone if row["task"]], _FINE_TUNING))
    if taught:
        print("\nFor `bertjobs distill`, which is given a teacher:\n")
        print(_table(taught, _DISTILLATION))
    return 0


_PRETRAINING = {
    "recipe": "RECIPE",
    "gpu": "GPU",
    "gpus_per_node": "PER NODE",
    "precision": "PRECISION",
    "model": "MODEL",
    "global_batches": "GLOBAL BATCHES",
    "description": "WHAT FOR",
}
_FINE_TUNING = {
    "recipe": "RECIPE",
    "task": "TASK",
    "gpu": "GPU",
    "precision": "PRECISION",
    "global_batches": "GLOBAL BATCH",
    "epochs": "EPOCHS",
    "lr": "LR",
    "description": "WHAT FOR",
}


_DISTILLATION = {
    "recipe": "RECIPE",
    "task": "TASK",
    "gpu": "GPU",
    "precision": "PRECISION",
    "model": "STUDENT",
    "global_batches": "GLOBAL BATCH",
    "lr": "LR",
    "description": "WHAT FOR",
}


def _table(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str]) -> str:
    return "\n".join(columns([list(heads.values()), *([_plain(row[key]) for key in heads] for row in rows)]))


def _summary(catalogue: Catalogue, name: str) -> dict[str, Any]:
    description = catalogue.find("recipes", name, "description")
    spec = _resolved(catalogue, name)
    return {
        "recipe": name,
        "gpu": spec.system.gpu,
        "gpus_per_node": spec.system.gpus_per_node,
        "precision": spec.precision,
        "model": spec.model.name,
        "task": spec.task,
        "distillation": spec.is_distilled,
        "epochs": spec.phases[0].epochs,
        "lr": spec.phases[0].lr,
        "global_batches": [phase.global_batch for phase in spec.phases],
        "description": description.value if description else "",
    }


def _show(args: argparse.Namespace) -> int:
    catalogue = catalogue_of(args, os.environ)
    catalogue.check("recipes", args.name, "bertjobs recipes show")
    summary = _summary(catalogue, args.name)
    spec = _resolved(catalogue, args.name)
    rows = [row for precision in _precisions(catalogue, spec) for row in _rows(catalogue, args.name, precision)]
    phases = [
        {
            "phase": p.phase,
            "sequence_length": p.sequence_length,
            "max_predictions": p.max_predictions,
            "global_batch": p.global_batch,
            "steps": p.steps,
            "lr": p.lr,
            "warmup": p.warmup,
        }
        for p in spec.phases
    ]
    if args.json:
        print(json.dumps({**summary, "phases": phases, "nodes": rows}, indent=2))
        return 0
    system = spec.system
    on = f"{system.gpus_per_node} x {system.gpu} per node" if system.gpus_per_node else "CPUs"
    print(f"{args.name}: {summary['description']}\n")
    print(f"  system     {system.name}: {on}, {system.interconnect}")
    print(f"  model      {spec.model.name}: {spec.model.num_hidden_layers} layers of {spec.model.hidden_size}")
    print(f"  precision  {spec.precision}")
    print(f"  optimizer  {spec.optimizer.name}, seed {spec.seed}, {spec.masking} masking\n")
    titles = [key.replace("_", " ").upper() for key in phases[0]]
    print("\n".join(columns([titles, *([_plain(value) for value in phase.values()] for phase in phases)])))
    print("\nBATCHSIZE/GRADIENT_STEPS, that is, sequences per rank per step / micro-batches that they are cut into:\n")
    heads = ["NODES", "RANKS", "PRECISION", *(f"PHASE {p.phase}" for p in spec.phases)]
    cells = [[str(r["nodes"]), str(r["world_size"]), r["precision"], *_fractions(r)] for r in rows]
    print("\n".join(columns([heads, *cells])))
    print(f"\nNext: bertjobs plan --recipe {args.name} --nodes {rows[0]['nodes']}")
    return 0


def _precisions(catalogue: Catalogue, spec: RunSpec) -> list[str]:
    """The recipe's own precision, then the others that it gives a micro-batch for."""
    limit = catalogue.find("recipes", spec.recipe, "phases", spec.phases[0].phase, "micro_batch")
    others = limit.value if limit and isinstance(limit.value, Mapping) else ()
    return list(dict.fromkeys((spec.precision, *others)))


def _rows(catalogue: Catalogue, name: str, precision: str) -> list[dict[str, Any]]:
    """The batch arithmetic on each number of nodes that divides the global batches."""
    rows = []
    for nodes in _NODES_SHOWN:
        try:
            spec = _resolved(catalogue, name, nodes=nodes, precision=precision)
        except InputError:
            continue
        batches = [
            {
                "phase": p.phase,
                "rank_batch": p.rank_batch,
                "gradient_steps": p.gradient_steps,
                "micro_batch": p.micro_batch,
            }
            for p in spec.phases
        ]
        rows.append({"nodes": nodes, "world_size": spec.world_size, "precision": precision, "phases": batches})
    return rows


def _fractions(row: Mapping[str, Any]) -> list[str]:
    return [f"{phase['rank_batch']}/{phase['gradient_steps']}" for phase in row["phases"]]


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
