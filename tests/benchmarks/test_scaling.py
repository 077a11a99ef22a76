"""The published tables that the model of a step's time is fitted to, and what is recorded of its errors."""

from __future__ import annotations

import json
from dataclasses import replace
from types import ModuleType

import pytest

from tests.benchmarks.test_data import BENCHMARKS, load


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    return load("scaling_benchmark", BENCHMARKS / "scaling.py")


def test_each_table_begins_with_its_fewest_ranks_and_grows(scaling: ModuleType) -> None:
    for table in scaling.read_tables():
        ranks = [row.world.ranks for row in table.rows]
        assert ranks == sorted(set(ranks)), table.name
        rates = [row.work.sequences * row.world.ranks / row.seconds for row in table.rows]
        assert rates == sorted(rates), table.name


def test_published_scaling_is_read_as_it_is_printed(scaling: ModuleType) -> None:
    tables = {table.name: table for table in scaling.read_tables()}

    def speed_up(name: str) -> float:
        first, *_, last = tables[name].rows
        return (last.work.sequences * last.world.ranks / last.seconds) / (
            first.work.sequences * first.world.ranks / first.seconds
        )

    # The last rows of the columns that NVIDIA calls strong and weak scaling.
    assert speed_up("dgxa100-80g fp16 128") == pytest.approx(30.37, abs=0.01)
    assert speed_up("dgxa100-80g tf32 512") == pytest.approx(24.95, abs=0.02)
    assert speed_up("dgx1-16g fp16 512") == pytest.approx(14.02, abs=0.01)
    assert speed_up("dgx2h-32g fp16 512") == pytest.approx(59.9, abs=0.05)
    assert speed_up("one dgx2-32g fp16 128 (2019)") == pytest.approx(15.26, abs=0.01)


def test_the_recorded_errors_are_those_of_the_recorded_rows() -> None:
    result = json.loads((BENCHMARKS / "results" / "scaling.json").read_text())
    errors = [line["predicted_step_s"] / line["published_step_s"] - 1 for line in result["rows"]]
    assert errors == pytest.approx([line["error"] for line in result["rows"]])
    large = [line for line in result["rows"] if abs(line["error"]) > result["limit"]]
    assert [f"{line['table']}, {line['gpus']} GPUs" for line in large] == result["held_out"]["above_limit"]
    page = (BENCHMARKS.parent / "docs" / "scaling.md").read_text()
    for line in large:
        assert f"{line['error']:+.1%}" in page


def test_what_a_model_made_is_fitted_back(scaling: ModuleType) -> None:
    """The fit finds the coefficients of tables that the model itself has filled."""
    true = replace(scaling.FITTED, spread=0.03, inside_share=0.6, between_share=0.7)
    made = []
    for table in scaling.read_tables():
        if table.system in ("dgx1-16g", "dgx2-32g"):
            machine = table.machine(true)
            rows = tuple(
                replace(row, seconds=scaling.step_time(row.work, row.world, machine, true).seconds)
                for row in table.rows
            )
            made.append(replace(table, rows=rows))
    found = scaling.fitted(made)
    assert (found.spread, found.inside_share, found.between_share) == pytest.approx((0.03, 0.6, 0.7), rel=0.02)
