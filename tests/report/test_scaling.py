"""`bertjobs scaling`: the table of runs on several numbers of ranks, and the rows that are predicted."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bertjobs.errors import InputError
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.lockfile import lockfile
from bertjobs.recipe.resolve import resolve
from bertjobs.report.scaling import (
    LARGEST_WORLD,
    WARM_UP_STEPS,
    Measured,
    at_world,
    counted_steps,
    read_measured,
    scaling,
)
from bertjobs.report.scaling_plot import draw_scaling
from bertjobs.report.scaling_text import scaling_text
from bertjobs.run.directory import RunDirectory
from bertjobs.run.journal import Attempt
from bertjobs.train.metrics import MetricsLog, step_metrics
from bertjobs.train.objective import GlobalBatch
from tests.conftest import Bertjobs

CATALOGUE = load_catalogue([builtin_file()])
START = 1_700_000_000.0

Leave = Callable[..., RunDirectory]


@pytest.fixture
def leave(tmp_path: Path) -> Leave:
    """Make a run directory of steps that took so many seconds, written by the worker's own writer."""

    def make(
        name: str, seconds: Sequence[float], *sets: str, recipe: str = "laptop-scratch", phase: int = 1, **flags: object
    ) -> RunDirectory:
        flags = {"recipe": recipe, "run": name, "results": str(tmp_path), "data": str(tmp_path / "none"), **flags}
        spec = resolve(CATALOGUE, flags=flags, environ={}, sets=sets).spec
        directory = RunDirectory(tmp_path / name)
        directory.create()
        directory.write_lockfile(lockfile(spec))
        folder = directory.phase(phase)
        folder.create()
        place = {"phase": phase, "job": f"local-{name}", "attempt": 0}
        directory.record("started", world_size=spec.world_size, step=0, **place)
        log = MetricsLog(folder.metrics, folder.validation, None, (), active=True)
        batch = GlobalBatch((1, 1), spec.phase(phase).global_batch, 8_000, 1e9)
        for step, took in enumerate(seconds, 1):
            line = step_metrics(
                measures={"loss_nats": 9.0}, batch=batch, peak_flops=None, step_time_s=took, phase=phase, step=step,
                attempt=0, time_unix_s=START + step, learning_rate=1e-3, gradient_norm=1.0, data_wait_s=took / 100,
            )  # fmt: skip
            log.step(line, spec.phase(phase).steps, "loss 9")
        return directory

    return make


def rows_of(*runs: RunDirectory, predict: Sequence[int] = ()) -> Any:
    (table,) = scaling([one for run in runs for one in read_measured(run)], predict)
    return table


def test_the_table_of_a_fixed_global_batch(leave: Leave) -> None:
    runs = [leave(f"on-{nodes}", [9.0] * 3 + [took] * 8, nodes=nodes) for nodes, took in ((1, 4.0), (2, 2.5), (4, 1.6))]
    table = rows_of(*reversed(runs))
    assert not table.is_weak
    assert [(row.run, row.world.ranks, row.global_batch, row.step_s) for row in table.rows] == [
        ("on-1", 1, 64, 4.0),
        ("on-2", 2, 64, 2.5),
        ("on-4", 4, 64, 1.6),
    ]
    assert [table.speed_up(row) for row in table.rows] == pytest.approx([1, 1.6, 2.5])
    assert [table.efficiency(row) for row in table.rows] == pytest.approx([1, 0.8, 0.625])
    assert [table.expansion(row) for row in table.rows] == pytest.approx([1, 0.8, 0.625])
    assert table.notes == ()


def test_the_table_of_a_fixed_batch_per_rank_has_speed_ups_of_sequences(leave: Leave) -> None:
    """HetSeq's own table: the time of a step grows with the nodes, the batch as well."""
    runs = [
        leave(f"on-{nodes}", [took] * 6, f"phase1.global_batch={16 * nodes}", nodes=nodes)
        for nodes, took in ((1, 2.60), (2, 2.69), (4, 2.794))
    ]
    table = rows_of(*runs, predict=[8])
    assert table.is_weak
    assert [table.speed_up(row) for row in table.rows[:3]] == pytest.approx([1, 2 * 2.6 / 2.69, 4 * 2.6 / 2.794])
    assert table.rows[3].global_batch == 128
    assert "batch per rank is kept" in scaling_text([table])


def test_ranks_of_one_node_expand_by_nodes_and_are_efficient_by_ranks(leave: Leave) -> None:
    one = leave("one", [4.0] * 6, recipe="h200", gpus=1, nodes=1)
    eight = leave("eight", [1.0] * 6, recipe="h200", nodes=1)
    table = rows_of(one, eight)
    assert (table.expansion(table.rows[1]), table.efficiency(table.rows[1])) == (4.0, 0.5)


def test_the_warm_up_of_every_attempt_and_steps_on_other_ranks_do_not_count() -> None:
    lines = [{"step": step, "step_time_s": 1.0} for step in range(1, 31)]
    attempts = [
        Attempt(1, "1", world_size=4, started_unix_s=1.0, first_step=0),
        Attempt(1, "1", 1, world_size=2, started_unix_s=2.0, first_step=10),
        Attempt(1, "2", world_size=4, started_unix_s=3.0, first_step=20),
    ]
    steps = [line["step"] for line in counted_steps(lines, attempts, 4)]
    assert steps == [*range(1 + WARM_UP_STEPS, 11), *range(21 + WARM_UP_STEPS, 31)]
    assert [line["step"] for line in counted_steps(lines, [], 4)] == list(range(1 + WARM_UP_STEPS, 31))


def test_the_median_is_not_moved_by_a_slow_step(leave: Leave) -> None:
    (measured,) = read_measured(leave("slow", [50.0] * 3 + [2.0] * 9 + [30.0] * 2))
    assert (measured.steps, measured.step_s, measured.data_s) == (11, 2.0, 0.02)


def test_a_predicted_row_of_the_measured_worlds_is_near_what_was_measured(leave: Leave) -> None:
    """A network of 1 GB/s in units of this model: two runs fix it, and the third is held out."""
    compute, exchange = 8.0, 0.5  # of one rank for the global batch; of two ranks, which send as much as one has

    def took(nodes: int) -> float:
        return compute / nodes + exchange * 2 * (nodes - 1) / nodes

    runs = [leave(f"on-{nodes}", [took(nodes)] * 6, nodes=nodes) for nodes in (1, 2)]
    table = rows_of(*runs, predict=[8])
    predicted = table.rows[-1]
    assert (predicted.run, predicted.steps, predicted.world.ranks) == ("", 0, 8)
    assert predicted.step_s == pytest.approx(took(8), rel=0.05)
    assert predicted.parts is not None
    assert predicted.parts.seconds == predicted.step_s
    assert "fitted to these runs" in table.notes[0]
    assert not any("not counted" in note for note in table.notes)


def test_one_run_on_a_network_of_unknown_speed_says_what_is_not_counted(leave: Leave) -> None:
    table = rows_of(leave("alone", [2.0] * 6), predict=[16])
    assert any("what travels between ranks is not counted" in note for note in table.notes)
    assert table.efficiency(table.rows[1]) > 0.9


def test_predictions_lose_more_the_more_gpus_share_the_batch(leave: Leave) -> None:
    table = rows_of(leave("node", [3.0] * 6, recipe="h200", nodes=1), predict=[16, 64, 512, 4096])
    predicted = [row for row in table.rows if not row.run]
    assert [row.world.nodes for row in predicted] == [2, 8, 64, 512]
    assert all(one.step_s > other.step_s for one, other in itertools.pairwise(predicted))
    efficiencies = [table.efficiency(row) for row in table.rows]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert any("1,024" in note for note in table.notes)


def test_worlds_that_cannot_be_are_refused_with_the_nearest(leave: Leave) -> None:
    (one,) = read_measured(leave("node", [3.0] * 6, recipe="h200", nodes=1))
    for ranks, hint in ((12, "8 or 16"), (3, "2 or 4"), (LARGEST_WORLD * 2, "1 to 4,096")):
        with pytest.raises(InputError) as raised:
            at_world(one.spec, one.phase, ranks)
        assert hint in (raised.value.hint or "")
    (laptop,) = read_measured(leave("here", [3.0] * 6, recipe="laptop"))
    with pytest.raises(InputError, match="one machine"):
        at_world(laptop.spec, laptop.phase, 4)


def test_runs_that_cannot_be_compared_are_refused(leave: Leave) -> None:
    first, *others = (
        leave("first", [1.0] * 6),
        leave("other-recipe", [1.0] * 6, recipe="laptop"),
        leave("other-work", [1.0] * 6, "phase1.sequence_length=64"),
        leave("other-phase", [1.0] * 6, phase=2),
    )
    for run, words in zip(others, ("recipe laptop", "sequence_length", "no phase in common"), strict=True):
        with pytest.raises(InputError, match=words):
            rows_of(first, run)


def test_every_measured_step_has_a_place_in_the_picture(leave: Leave) -> None:
    runs = [leave(f"on-{nodes}", [4.0 / nodes] * 6, nodes=nodes) for nodes in (1, 2)]
    tables = scaling([one for run in runs for one in read_measured(run)], [64])
    svg = draw_scaling(tables, "svg").decode()
    assert "phase 1 (128 tokens), measured" in svg
    assert "phase 1 (128 tokens), predicted" in svg
    assert draw_scaling(tables, "svg").decode() == svg


def test_the_command(leave: Leave, inside: Bertjobs, tmp_path: Path) -> None:
    leave("one", [4.0] * 6)
    leave("two", [2.2] * 6, nodes=2)
    words = ("scaling", "one", str(tmp_path / "two"), "one", "--results", tmp_path)
    done = inside(*words, "--predict", "4, 64", "--output", tmp_path / "new" / "curve.png")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines[2:6]] == ["one", "two", "predicted", "predicted"]
    assert (tmp_path / "new" / "curve.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads(inside(*words, "--json").stdout)
    assert [row["speed_up"] for row in content["phases"][0]["rows"]] == pytest.approx([1, 4.0 / 2.2])
    assert content["picture"] is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("onn",), "did you mean 'one'?"),
        (("one", "short"), "run 'short' has no step to count: of 3 steps"),
        (("one", "--predict", "many"), "'many' is not a number of ranks"),
        (("one", "--predict", "0"), "'0' is not a number of ranks"),
        (("one", "--predict", "9" * 5000), "is not a number of ranks"),
        (("one", "--predict", ""), "'' is not a number of ranks"),
        (("one", "--predict", "3"), "nearest node counts that divide it"),
        (("one", "--output", "curve.gif"), "one that ends in .png or .svg"),
        (("one", "--output", "/proc/no/curve.png"), "the picture cannot be written"),
    ],
)
def test_bad_input_is_refused_in_words(
    leave: Leave, inside: Bertjobs, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    leave("one", [4.0] * 6)
    leave("short", [4.0] * WARM_UP_STEPS)
    done = inside("scaling", *words, "--results", tmp_path)
    assert done.returncode == 64
    assert says in done.stderr


def test_a_damaged_run_is_named(leave: Leave, inside: Bertjobs, tmp_path: Path) -> None:
    run = leave("one", [4.0] * 6)
    run.lockfile.write_text("recipes: {")
    done = inside("scaling", "one", "--results", tmp_path)
    assert done.returncode == 64
    assert "run.yml" in done.stderr


def test_more_ranks_than_packs_are_named(leave: Leave, speeches_data: Path) -> None:
    """Packs of at most 4,096 tokens, of which a batch of 64 sequences of 128 fills two."""
    run = leave("one", [4.0] * 6, data=str(speeches_data))
    table = rows_of(run, predict=[2, 64])
    two, many = (row.parts for row in table.rows[1:])
    assert two is not None
    assert many is not None
    assert many.balance_s > 8 * many.compute_s > two.balance_s
    assert any("on 64 ranks a step has too few packs" in note for note in table.notes)


def test_runs_of_one_name_in_two_folders_are_two_rows(leave: Leave, tmp_path: Path) -> None:
    first = leave("same", [4.0] * 6)
    first.root.rename(tmp_path / "elsewhere")
    (tmp_path / "old").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "old" / "same")
    table = rows_of(RunDirectory(tmp_path / "old" / "same"), leave("same", [5.0] * 6))
    assert [(row.run, row.step_s) for row in table.rows] == [("same", 4.0), ("same", 5.0)]


def test_rows_of_as_many_ranks_stand_side_by_side(leave: Leave) -> None:
    table = rows_of(leave("a", [4.0] * 6), leave("b", [5.0] * 6), predict=[1])
    assert [row.run for row in table.rows] == ["a", "b", ""]
    assert 4.0 < table.rows[2].step_s < 5.0
    assert replace(table, rows=table.rows[:1]).reference.run == "a"


@pytest.mark.slow
def test_real_runs_on_one_and_two_ranks_make_a_table(bertjobs: Bertjobs, speeches_data: Path) -> None:
    for nodes in (1, 2):
        words = ["--recipe", "laptop-scratch", "--model", "bert-nano", "--data", speeches_data, "--backend", "local"]
        words += ["--nodes", nodes, "--run", f"on-{nodes}", "--phase", 1, "--set", "phase1.steps=9"]
        done = bertjobs("submit", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(bertjobs("scaling", "on-1", "on-2", "--predict", 8, "--json").stdout)
    one, two, eight = content["phases"][0]["rows"]
    assert [(row["run"], row["ranks"], row["steps_counted"]) for row in (one, two, eight)] == [
        ("on-1", 1, 6),
        ("on-2", 2, 6),
        (None, 8, None),
    ]
    assert one["speed_up"] == 1.0
    assert min(row["step_time_s"] for row in (one, two, eight)) > 0


def test_measured_knows_its_world(leave: Leave) -> None:
    (one,) = read_measured(leave("node", [3.0] * 6, recipe="h200", nodes=2))
    assert isinstance(one, Measured)
    assert (one.world.nodes, one.world.ranks_per_node, one.world.ranks) == (2, 8, 16)
