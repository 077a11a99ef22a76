"""Tasks that were fine-tuned from a run, beside the same from random weights."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.cli.main import main
from bertjobs.cli.report import finish
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.report.gains import Gain, gains_of, is_gain
from bertjobs.run.directory import RunDirectory
from tests.report.conftest import MakeRun, write_checkpoint, write_result, write_steps, write_validation


@pytest.fixture
def pretrained(make_run: MakeRun) -> RunDirectory:
    """A run of pretraining with a checkpoint, 0.75 nats below the line."""
    directory = make_run("tried")
    write_steps(directory.phase(1), [1, 2])
    write_validation(directory.phase(1), 2, 5.75, 6.5)
    write_checkpoint(directory.phase(1), 2)
    return directory


@pytest.fixture
def pair(pretrained: RunDirectory, make_run: MakeRun) -> RunDirectory:
    """The same, and two runs that fine-tuned: from it, and from random weights."""
    start = str(pretrained.phase(1).checkpoints / "step-00000002")
    write_result(make_run("news", task="sentences", init_checkpoint=start), 0.875)
    model = replace(read_lockfile(pretrained.lockfile).model, name="of-another-folder")
    write_result(make_run("news-random", task="sentences", init_checkpoint="", model=model), 0.25)
    return pretrained


GAIN = Gain("sentences", "accuracy", "news", 0.875, "news-random", 0.25)


def test_a_run_and_its_twin_from_random_weights_are_compared(pair: RunDirectory) -> None:
    assert gains_of(pair) == [GAIN]
    assert GAIN.gain == 0.625


@pytest.mark.parametrize("changes", [{"seed": 7}, {"data": "/other"}, {"tune_layers": 1}])
def test_only_the_same_run_but_for_its_start_is_a_twin(
    pretrained: RunDirectory, make_run: MakeRun, changes: dict[str, object]
) -> None:
    start = str(pretrained.phase(1).checkpoints / "step-00000002")
    write_result(make_run("news", task="sentences", init_checkpoint=start), 0.875)
    write_result(make_run("news-random", task="sentences", init_checkpoint="", **changes), 0.25)
    (gain,) = gains_of(pretrained)
    assert (gain.run, gain.random_run, gain.gain) == ("news", None, None)


def test_runs_from_elsewhere_unfinished_and_damaged_ones_do_not_count(pair: RunDirectory, make_run: MakeRun) -> None:
    write_result(make_run("other", task="sentences", init_checkpoint=f"{pair.root}-2/phase1/checkpoints/step-1"), 1.0)
    start = str(pair.phase(1).checkpoints / "step-00000002")
    make_run("not-done", task="sentences", init_checkpoint=start)
    damaged = make_run("damaged", task="sentences", init_checkpoint=start)
    write_result(damaged, 1.0)
    damaged.phase(2).result.write_text("{")
    write_result(make_run("no-lockfile", task="sentences", init_checkpoint=start), 1.0)
    (pair.root.parent / "no-lockfile" / "run.yml").write_text("{")
    assert gains_of(pair) == [GAIN]


def test_a_gain_is_needed_and_each_must_be_large_enough() -> None:
    small = Gain("sentences", "accuracy", "small", 0.5, "small-random", 0.4)
    alone = Gain("sentences", "accuracy", "alone", 0.1)
    assert is_gain([GAIN], 0.625)
    assert not is_gain([GAIN], 0.63)
    assert not is_gain([GAIN, small], 0.2)
    assert is_gain([GAIN, alone], 0.2), "what was not compared does not count"
    assert not is_gain([alone], 0.0)


def test_the_report_shows_them(pair: RunDirectory) -> None:
    shown = finish(pair)
    assert re.search(r"sentences +news +accuracy +0\.8750 +0\.2500 +\+0\.6250", shown)
    page = pair.report.read_text()
    assert "<h2>Tasks fine-tuned from this run</h2>" in page
    assert "<td>0.8750</td><td>0.2500</td><td>+0.6250</td>" in page


def test_a_run_from_which_nothing_was_fine_tuned_has_no_such_table(pretrained: RunDirectory) -> None:
    assert "fine-tuned" not in finish(pretrained)
    assert "fine-tuned" not in pretrained.report.read_text()


@pytest.mark.parametrize(("flags", "code"), [
    (("--require-gain", "0.5"), 0),
    (("--require-gain", "0.7"), 70),
    (("--require-gain", "0.5", "--require-learnt", "0.5"), 0),
    (("--require-gain", "0.5", "--require-learnt", "0.8"), 70),
])  # fmt: skip
def test_require_gain_decides_the_exit_code(
    pair: RunDirectory, flags: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(pair.root), *flags]) == code
    printed = capsys.readouterr()
    assert not pair.report.exists()
    if code == 0:
        assert "accuracy 0.8750 from this run's weights, 0.2500 from random ones (+0.6250)" in printed.out
    elif flags[1] == "0.7":
        assert "not 0.7 better than from random weights" in printed.err
        assert "accuracy 0.8750 from this run's weights, 0.2500 from random ones (+0.6250)" in printed.err


def test_nothing_to_compare_is_bad_input(pretrained: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(pretrained.root), "--require-gain", "0.1"]) == 64
    assert "no task was fine-tuned both from this run and from random weights" in capsys.readouterr().err


def test_only_runs_of_pretraining_are_judged(pair: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(pair.root.parent / "news"), "--require-gain", "0.1"]) == 64
    assert "only runs of pretraining are judged" in capsys.readouterr().err


def test_json_has_the_same(pair: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(pair.root), "--json", "--require-gain", "0.1"]) == 0
    (gain,) = json.loads(capsys.readouterr().out)["gains"]
    assert gain == {
        "task": "sentences", "measure": "accuracy", "run": "news", "value": 0.875,
        "random_run": "news-random", "random_value": 0.25, "gain": 0.625,
    }  # fmt: skip


def test_a_link_to_the_run_is_the_run(pair: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pair.root)
    assert gains_of(RunDirectory(tmp_path / "link")) == [GAIN]
