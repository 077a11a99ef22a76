"""The engine trains any objective: the worker that pretrains BERT fits a line, is stopped, and resumes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import bertjobs.train
from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE, EXIT_DONE
from bertjobs.files.json_lines import read_lines
from bertjobs.run.checkpoints import read_manifest
from bertjobs.train.signals import StopRequest
from bertjobs.train.worker import main
from tests.train.conftest import Trial
from tests.train.forked import attempt, output_of
from tests.train.line_fit import FILE, Line, LineFit

STEPS, POINTS = 40, 50
SLOPE, OFFSET = 3.0, -1.0
PHASE = {"global_batch": 12, "steps": STEPS, "lr": 0.3, "warmup": 0.1, "micro_batch": 2, "checkpoint_every": 15,
         "validate_every": 20}  # fmt: skip
ENGINE = ("loop", "step", "phase", "job", "ranks", "metrics", "diagnosis", "watchdog", "objective", "checkpoint/*")
HEADS = re.compile(r"(?<![a-z])(mlm|nsp)|next_sentence|BertForPreTraining|masked", re.IGNORECASE)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In all of this module's tests."""


@pytest.fixture
def line(tmp_path: Path) -> Trial:
    """A run that fits a line to points which lie on one."""
    recipe = {"system": "cpu-node", "model": "bert-nano", "precision": "fp32", "optimizer": {"name": "adam"},
              "phases": {1: PHASE}}  # fmt: skip
    (tmp_path / "home" / "bertjobs").mkdir(parents=True)
    (tmp_path / "home" / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump({"recipes": {"trial": recipe}}))
    x = torch.linspace(-1, 1, POINTS)[torch.randperm(POINTS, generator=torch.Generator().manual_seed(1))]
    (tmp_path / "data").mkdir()
    save_file({"points": torch.stack([x, SLOPE * x + OFFSET], dim=1)}, tmp_path / "data" / FILE)
    return Trial(tmp_path / "home", tmp_path / "data", tmp_path / "results")


def fit(trial: Trial) -> int:
    """The exit code of a worker on one rank."""
    return main(trial.environment(1), StopRequest(), LineFit.of)


def test_it_is_trained_and_its_checkpoint_can_be_loaded(line: Trial, capfd: pytest.CaptureFixture[str]) -> None:
    assert fit(line) == EXIT_DONE
    done = line.phase(1).done()
    assert done is not None
    folder = line.phase(1).checkpoints / done.checkpoint
    assert set(read_manifest(folder).files) == {
        "line.txt", "model.safetensors", "training_state.json", "training_state-00000-of-00001.safetensors",
    }  # fmt: skip
    model = Line()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    assert model.line.weight.item() == pytest.approx(SLOPE, abs=0.5)
    assert model.line.bias.item() == pytest.approx(OFFSET, abs=0.3)

    steps, validations = line.metrics(1), read_lines(line.phase(1).validation)
    assert [entry["step"] for entry in steps] == list(range(1, STEPS + 1))
    assert steps[-1]["squared_error"] < 0.2 * steps[0]["squared_error"]
    assert {entry["tokens"] for entry in steps} == {PHASE["global_batch"]}
    assert [entry["step"] for entry in validations] == [20, 40]
    assert not HEADS.search(json.dumps([steps, validations]))
    out = capfd.readouterr().out
    assert f"step {STEPS}/{STEPS}  squared error {steps[-1]['squared_error']:.4f}  lr" in out
    events = [event for event in line.directory.events() if event["event"] != "checkpoint"]
    assert [event["event"] for event in events] == ["started", "opened points", "ended"]
    assert events[1]["points"] == POINTS


@pytest.mark.parametrize("ranks", [1, 2])
def test_stopped_and_resumed_it_ends_with_the_same_bits(line: Trial, tmp_path: Path, ranks: int) -> None:
    whole = Trial(line.home, line.data, tmp_path / "whole")
    codes = attempt(whole, 1, ranks, tmp_path / "logs" / "whole", objective_of=LineFit.of)
    assert codes == [EXIT_DONE] * ranks, output_of(tmp_path / "logs" / "whole")
    for number in range(3):
        codes = attempt(line.having(STEPS_THIS_RUN=11), 1, ranks, tmp_path / "logs" / str(number),
                        objective_of=LineFit.of)  # fmt: skip
        assert codes[0] == EXIT_CONTINUE, output_of(tmp_path / "logs" / str(number))
        assert len(line.metrics(1)) == 11 * (number + 1)
    assert attempt(line, 1, ranks, tmp_path / "logs" / "last", objective_of=LineFit.of) == [EXIT_DONE] * ranks
    assert line.weights(1) == whole.weights(1)
    same = ("step", "squared_error", "absolute_error", "gradient_norm", "learning_rate")
    assert [[entry[key] for key in same] for entry in line.metrics(1)] == [
        [entry[key] for key in same] for entry in whole.metrics(1)
    ]


def test_other_points_are_refused_and_so_are_other_weights(line: Trial, capfd: pytest.CaptureFixture[str]) -> None:
    assert fit(line.having(STEPS_THIS_RUN=5)) == EXIT_CONTINUE
    save_file({"points": torch.zeros(POINTS, 2)}, line.data / FILE)
    assert fit(line) == EXIT_BAD_INPUT
    assert "was started on data whose manifest is" in capfd.readouterr().err
    assert fit(line.having(RUN="other", INIT_CHECKPOINT=line.data)) == EXIT_BAD_INPUT
    assert "not the weights of a line" in capfd.readouterr().err


@pytest.mark.parametrize("name", ENGINE)
def test_the_engine_names_no_head_of_a_model_and_no_objective(name: str) -> None:
    files = sorted(Path(bertjobs.train.__path__[0]).glob(f"{name}.py"))
    assert files
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not HEADS.search(text), file
        assert "train.pretraining" not in text, file
        assert "bertjobs.model.bert" not in text, file
