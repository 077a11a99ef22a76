"""The model of a step's time against published scaling tables: what it is fitted to, and how far off it is elsewhere.

    .venv/bin/python benchmarks/scaling.py [--record]

`scaling_tables.yml` beside this file holds the tables. The rate of a rank is each table's own, from its smallest row,
as `bertjobs plan` and `bertjobs scaling --predict` take it from a run; what all share is fitted:

- fitted: `Coefficients` to all rows but each table's first, by least squares of the relative errors.
- held out: each table is predicted from its first row alone, with coefficients fitted to the tables of all other
  systems (GPU and network), so that nothing about its network is known but what its maker states.

HetSeq does not name its network: its speed is taken from the row of two nodes, and the rows of 4 and 8 are held out.

Prints a table of both, and with --record writes benchmarks/results/scaling.json. Takes seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import least_squares

from bertjobs.files.atomic import write_json
from bertjobs.launch.plan.interconnect import Interconnect, interconnect_of
from bertjobs.launch.plan.step_fit import Observed, fit
from bertjobs.launch.plan.step_time import (
    FITTED,
    LAMB_BYTES,
    Coefficients,
    Machine,
    StepWork,
    World,
    machine_from,
    step_time,
)
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.size import parameter_count
from bertjobs.recipe.spec import ModelSpec
from bertjobs.wording import right_aligned

HERE = Path(__file__).resolve().parent
TABLES = HERE / "scaling_tables.yml"
OUTPUT = HERE / "results" / "scaling.json"
VOCABULARY = 30522
LIMIT = 0.10
"""Of the time of a step, the error that held-out rows should stay below."""


@dataclass(frozen=True)
class Row:
    """One published row, as the model sees it: ``seconds`` per step."""

    world: World
    work: StepWork
    seconds: float


@dataclass(frozen=True)
class Table:
    """Rows that differ in the number of ranks only; the first has the fewest."""

    name: str
    source: str
    system: str | None
    interconnect: Interconnect
    rows: tuple[Row, ...]

    def machine(self, coefficients: Coefficients) -> Machine:
        """The rate of a rank, from the first row alone."""
        first = self.rows[0]
        return machine_from(first.seconds, first.work, first.world, self.interconnect, coefficients)

    def errors(self, coefficients: Coefficients) -> list[float]:
        """(predicted - published) / published, of the time of a step, for all rows but the first."""
        machine = self.machine(coefficients)
        return [
            step_time(row.work, row.world, machine, coefficients).seconds / row.seconds - 1 for row in self.rows[1:]
        ]


def read_tables(path: Path = TABLES) -> list[Table]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    catalogue = load_catalogue([builtin_file()])
    tables = []
    for table in content["tables"]:
        model = catalogue.model(table.get("model", "bert-large"), "")
        system = table["system"]
        ways = interconnect_of(catalogue.system(system, "")) if system else Interconnect()
        rows = tuple(_row(table, model, *cells) for cells in table["rows"])
        tables.append(Table(table["name"], content["sources"][table["source"]], system, ways, rows))
    return tables


def _row(table: dict[str, Any], model: ModelSpec, nodes: int, gpus: int, figure: float) -> Row:
    world = World(nodes, gpus)
    rank_batch = table.get("rank_batch") or table["global_batch"] / world.ranks
    parameters = parameter_count(model, VOCABULARY)
    every = table.get("exchanges") == "micro-batch"
    work = StepWork(
        rank_batch,
        parameters * (2 if table["precision"] == "fp16" else 4),
        parameters * LAMB_BYTES,
        exchanges=round(rank_batch / table["micro_batch"]) if every else 1,
    )
    return Row(world, work, figure if table.get("step_times") else rank_batch * world.ranks / figure)


def fitted(tables: Sequence[Table]) -> Coefficients:
    """The three coefficients that make the relative errors of all rows but the first of each table smallest, in
    squares; absolute errors above a few percent weigh less (Huber's loss), so that single odd rows decide nothing."""

    def coefficients(x: np.ndarray) -> Coefficients:
        spread, inside, between = map(float, x)
        return Coefficients(spread, inside, between, FITTED.memory_share)

    def residuals(x: np.ndarray) -> np.ndarray:
        return np.concatenate([table.errors(coefficients(x)) for table in tables])

    found = least_squares(
        residuals, [0.02, 0.6, 0.7], bounds=([0.0, 0.1, 0.1], [0.2, 1.0, 1.0]), loss="huber", f_scale=0.03,
        x_scale=[0.01, 0.1, 0.1],
    )  # fmt: skip
    return coefficients(found.x)


def held_out(tables: Sequence[Table]) -> dict[str | None, Coefficients]:
    """By system, the coefficients that the tables of all others give."""
    systems = {table.system for table in tables}
    return {system: fitted([table for table in tables if table.system != system]) for system in systems}


def compared(table: Table, machine: Machine, coefficients: Coefficients, first: int = 1) -> list[dict[str, Any]]:
    """The rows from number ``first`` on: published and predicted."""
    lines = []
    for row in table.rows[first:]:
        seconds = step_time(row.work, row.world, machine, coefficients).seconds
        lines.append({
            "table": table.name,
            "nodes": row.world.nodes,
            "gpus": row.world.ranks,
            "published_step_s": row.seconds,
            "predicted_step_s": seconds,
            "error": seconds / row.seconds - 1,
        })  # fmt: skip
    return lines


def of_unknown_network(table: Table) -> list[dict[str, Any]]:
    """The rows from the third on, the first two of which tell the rate of a rank and the speed of the network."""
    known = fit([Observed(row.work, row.world, row.seconds) for row in table.rows[:2]], table.interconnect)
    return compared(table, known.machine, FITTED, first=2)


def report(tables: Sequence[Table]) -> dict[str, Any]:
    stated = [table for table in tables if table.system]
    coefficients, others = fitted(stated), held_out(stated)
    rows = []
    for table in tables:
        if not table.system:
            rows += of_unknown_network(table)
            continue
        own = compared(table, table.machine(coefficients), coefficients)
        without = others[table.system]
        unseen = compared(table, table.machine(without), without)
        rows += [{**line, "error_if_fitted": mine["error"]} for mine, line in zip(own, unseen, strict=True)]
    errors = [abs(line["error"]) for line in rows]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "limit": LIMIT,
        "fitted": asdict(coefficients),
        "without": {str(system): asdict(one) for system, one in sorted(others.items(), key=str)},
        "rows": rows,
        "held_out": {
            "rows": len(errors),
            "median_error": float(np.median(errors)),
            "largest_error": max(errors),
            "above_limit": [f"{line['table']}, {line['gpus']} GPUs" for line in rows if abs(line["error"]) > LIMIT],
        },
    }


def text(result: dict[str, Any]) -> str:
    head = ["table", "nodes", "GPUs", "published s", "held out s", "error", "if fitted"]
    cells = [
        [line["table"], f"{line['nodes']}", f"{line['gpus']}", f"{line['published_step_s']:.4g}",
         f"{line['predicted_step_s']:.4g}", f"{line['error']:+.1%}",
         f"{line['error_if_fitted']:+.1%}" if "error_if_fitted" in line else ""]
        for line in result["rows"]
    ]  # fmt: skip
    summary = result["held_out"]
    words = ", ".join(f"{name} {value:.3f}" for name, value in result["fitted"].items())
    return "\n".join([
        *right_aligned([head, *cells]),
        "",
        f"fitted: {words}",
        f"held out: {summary['rows']} rows, median error {summary['median_error']:.1%}, largest "
        f"{summary['largest_error']:.1%}; above {LIMIT:.0%}: {'; '.join(summary['above_limit']) or 'none'}",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="the model of a step's time against published scaling tables")
    parser.add_argument("--record", action="store_true", help=f"write {OUTPUT.relative_to(HERE.parent)}")
    record = parser.parse_args().record
    result = report(read_tables())
    print(text(result))
    if record:
        write_json(OUTPUT, result)


if __name__ == "__main__":
    main()
