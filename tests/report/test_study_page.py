"""The page of a study, and `bertjobs report STUDY`."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from bertjobs.cli.main import main
from bertjobs.launch.watch.study import MemberResult
from bertjobs.report.study_page import study_page
from bertjobs.report.study_plot import draw_study
from bertjobs.run.study import Study
from tests.report.conftest import START, MakeRun, write_attempt, write_checkpoint, write_done, write_validation
from tests.report.test_report_command import HOSTILE, Tags

SETTINGS = [{"phase1.lr": lr, "seed": seed} for lr in ("1e-5", "2e-5") for seed in ("42", "43")]
VALUES = (0.5, 0.7, 0.25, None)


def results(settings: list[dict[str, str]] = SETTINGS) -> list[MemberResult]:
    """Three runs that are done, and one that has failed."""
    made = [
        MemberResult(f"st-{number}", one, "DONE", 1, 4, 4, "accuracy", value)
        for number, (one, value) in enumerate(zip(settings, VALUES, strict=True), 1)
    ]
    failed = MemberResult(
        "st-4", settings[3], "FAILED", 1, 2, 4, why="crashed: a rank ended", command="bertjobs logs st-4"
    )
    return [*made[:3], failed]


def rows_of(page: str) -> list[list[str]]:
    """The cells of all rows of its tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.S)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in rows]


def test_the_page_has_each_setting_each_run_and_what_failed(tmp_path: Path) -> None:
    study = Study.of(tmp_path, "st", SETTINGS)
    members = results()
    page = study_page(study, members, draw_study(members).decode())
    rows = rows_of(page)
    assert ["phase1.lr", "runs done", "mean", "std (n-1)", "min", "max"] in rows
    assert ["1e-5", "2 of 2", "0.6000", "0.1414", "0.5000", "0.7000"] in rows
    assert ["2e-5", "1 of 2", "0.2500", "-", "0.2500", "0.2500"] in rows
    assert ["st-2", "1e-5", "43", "DONE", "1", "4/4", "0.7000"] in rows
    assert ["st-4", "2e-5", "43", "FAILED", "1", "2/4", "-"] in rows
    assert "<dt>st-4</dt><dd>failed: crashed: a rank ended<br><code>bertjobs logs st-4</code></dd>" in page
    words = Tags(page).words
    assert "study st: 3 of 4 runs done" in words
    assert "phase1.lr=2e-5" in words, "the figure names its rows"


def test_the_figure_has_a_dot_per_run_that_was_measured() -> None:
    svg = draw_study(results()).decode()
    assert len(re.findall(r"<use [^>]*fill: #2563a8", svg)) == 3
    assert draw_study(results()) == draw_study(results())
    assert draw_study(results(), "png").startswith(b"\x89PNG")


def test_settings_are_no_formulas() -> None:
    settings = [{"data": "/$x^$", "seed": str(seed)} for seed in range(4)]
    assert "data=/$x^$" in draw_study(results(settings)).decode()


def test_a_study_that_was_not_measured_yet_has_a_page_without_figure(tmp_path: Path) -> None:
    (member,) = results()[3:]
    page = study_page(Study.of(tmp_path, "st", SETTINGS[3:]), [member], "")
    assert "svg" not in Tags(page).tags
    assert "Over the seeds" not in page
    assert ["st-4", "2e-5", "43", "FAILED", "1", "2/4", "-"] in rows_of(page)


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    settings = [{HOSTILE: HOSTILE, "seed": str(seed)} for seed in range(4)]
    page = study_page(Study.of(tmp_path, "st", settings), results(settings), draw_study(results(settings)).decode())
    assert not Tags(page).tags & {"script", "b"}
    assert HOSTILE not in page
    assert html.escape(HOSTILE) in page


@pytest.fixture
def study(make_run: MakeRun, tmp_path: Path) -> Study:
    """A study of two runs of pretraining that are done, and one that has not begun."""
    for number, loss in ((1, 5.5), (2, 5.75), (3, None)):
        directory = make_run(f"st-{number}")
        for phase in (directory.phase(1), directory.phase(2)) if loss else ():
            phase.create()
            write_attempt(directory, phase.number, START, START + 30, step=10)
            write_checkpoint(phase, 10)
            write_validation(phase, 10, loss, 6.5)
            write_done(phase, 10)
    made = Study.of(tmp_path, "st", [{"seed": str(41 + number)} for number in (1, 2, 3)])
    made.write()
    return made


def test_report_of_a_study(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "st", "--results", str(study.results)]) == 0
    shown = capsys.readouterr().out
    assert "study st: 2 of 3 runs done" in shown
    assert shown.rstrip().endswith(f"report {study.report}")
    page = study.report.read_text()
    assert ["2 of 3", "5.6250", "0.1768", "5.5000", "5.7500"] in rows_of(page)
    assert "st-3" in page
    assert "<dt>Below, those of</dt><dd>st-1</dd>" in page
    assert "<dt>Recipe</dt><dd>laptop, system laptop</dd>" in page
    assert re.findall(r"\w+://", page) == []
    assert main(["study", "st", "--results", str(study.results), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main(["report", "st", "--results", str(study.results), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**plain, "report": str(study.report)}


def test_a_study_is_not_judged(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "st", "--results", str(study.results), "--require-learnt", "0.5"]) == 64
    assert "a study is not judged" in capsys.readouterr().err


def test_a_first_run_whose_settings_are_damaged_costs_its_lines_alone(study: Study) -> None:
    study.directories[0].lockfile.write_text("{")
    assert main(["report", "st", "--results", str(study.results)]) == 0
    page = study.report.read_text()
    assert ["st-1", "42", "UNREADABLE", "-", "0/0", "-"] in rows_of(page)
    assert ["1 of 3", "5.7500", "-", "5.7500", "5.7500"] in rows_of(page)
    assert "<dt>Below, those of</dt><dd>st-2</dd>" in page


def test_a_report_that_cannot_be_written_is_bad_input(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study.report.mkdir()
    assert main(["report", "st", "--results", str(study.results)]) == 64
    assert "the report cannot be written" in capsys.readouterr().err
