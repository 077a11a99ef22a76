"""A report of a run that predicts no next sentences says nothing of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bertjobs.report.curves import draw, read_series
from bertjobs.report.page import page
from bertjobs.report.summary import Summary, rows, summarise
from bertjobs.run.directory import RunDirectory
from tests.report.conftest import MakeRun, write_steps, write_validation


def without_next_sentences(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [{name: value for name, value in line.items() if "nsp" not in name} for line in lines]
    assert kept != lines
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))


@pytest.fixture
def run(make_run: MakeRun) -> RunDirectory:
    """30 steps and a validation."""
    directory = make_run(next_sentence=False)
    phase = directory.phase(1)
    write_steps(phase, range(1, 31))
    write_validation(phase, 30, 6.0, 7.0)
    for path in (phase.metrics, phase.validation):
        without_next_sentences(path)
    return directory


def texts(summary: Summary) -> dict[str, Any]:
    return {name: cells for name, *cells in rows(summary)}


def test_its_numbers(run: RunDirectory) -> None:
    summary = summarise(run)
    held_out = summary.phases[0].held_out
    assert held_out is not None
    assert held_out.nsp_accuracy is None
    assert held_out.below_unigram_nats == 1.0
    assert texts(summary)["masked words guessed, held-out"][0] == "25.0%"
    assert not [name for name in texts(summary) if "next sentence" in name]


def test_its_curves(run: RunDirectory, make_run: MakeRun) -> None:
    (series,) = read_series(run)
    assert series.of("mlm_accuracy")[0].tolist() == list(range(1, 31))
    assert series.held_out("mlm_loss_nats")[1].tolist() == [6.0]
    drawn = draw(run)
    assert b"masked words" in drawn
    assert b"next sentence" not in drawn
    pairs = make_run("pairs")
    write_steps(pairs.phase(1), range(1, 31))
    assert b"next sentence" in draw(pairs)


def test_its_page(run: RunDirectory) -> None:
    html = page(summarise(run), draw(run).decode(), ())
    assert "Training loss is masked-LM loss, of the first step" in html
    assert "next-sentence" not in html


def test_lines_that_lack_what_the_run_should_measure_do_not_count(make_run: MakeRun) -> None:
    """A run that predicts next sentences has them in each line."""
    directory = make_run()
    write_steps(directory.phase(1), range(1, 31))
    write_validation(directory.phase(1), 30, 6.0, 7.0)
    without_next_sentences(directory.phase(1).validation)
    assert summarise(directory).phases[0].held_out is None
