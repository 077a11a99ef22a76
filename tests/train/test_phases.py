"""Both phases on two ranks over gloo, from random weights to a model that Hugging Face loads."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer
from transformers import BertForPreTraining as HuggingFaceBert

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.files.atomic import sha256_of
from bertjobs.files.json_lines import read_lines
from bertjobs.run.checkpoints import MANIFEST, steps, verify
from tests.train.conftest import PHASES, Ended, Trial


@pytest.fixture(scope="module")
def outcome(
    recipe_home: Path, data: DataManifest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trial, list[Ended], list[Ended]]:
    trial = Trial(recipe_home, data.folder, tmp_path_factory.mktemp("both") / "results")
    return trial, trial.run(1, 2), trial.run(2, 2)


def test_both_phases_end_with_code_0_and_a_done_file(outcome: tuple[Trial, list[Ended], list[Ended]]) -> None:
    trial, *phases = outcome
    for number, ranks in enumerate(phases, start=1):
        assert [rank.code for rank in ranks] == [0, 0], ranks
        assert [rank.err for rank in ranks] == ["", ""]
        done = trial.phase(number).done()
        assert done is not None
        folder = trial.phase(number).checkpoints / done.checkpoint
        assert (done.phase, done.step) == (number, PHASES[number]["steps"])
        assert done.sha256 == sha256_of(folder / MANIFEST)
        assert verify(folder).recipe_hash == done.recipe_hash


def test_phase_2_starts_from_phase_1s_last_checkpoint(outcome: tuple[Trial, list[Ended], list[Ended]]) -> None:
    trial, _, ranks = outcome
    last = trial.phase(1).checkpoints / "step-00000030"
    assert f"starting from {last}, moments carried" in ranks[0].out
    # Three small steps later the weights are near their starting values, and far from random ones.
    name = "bert.embeddings.word_embeddings.weight"
    before = load_file(last / "model.safetensors")[name]
    after = load_file(trial.phase(2).checkpoints / "step-00000003" / "model.safetensors")[name]
    assert 0 < (after - before).norm() < 0.1 * before.norm()


def test_metrics_hold_every_step_once(outcome: tuple[Trial, list[Ended], list[Ended]]) -> None:
    trial = outcome[0]
    for number, settings in PHASES.items():
        assert [line["step"] for line in trial.metrics(number)] == list(range(1, int(settings["steps"]) + 1))
    assert [line["step"] for line in read_lines(trial.phase(1).validation)] == [15, 30]
    assert [line["step"] for line in read_lines(trial.phase(2).validation)] == [3]


def test_the_loss_falls_over_a_run(outcome: tuple[Trial, list[Ended], list[Ended]]) -> None:
    lines = outcome[0].metrics(1)
    assert sum(line["loss_nats"] for line in lines[-5:]) < sum(line["loss_nats"] for line in lines[:5]) - 0.5


def test_the_final_checkpoint_loads_in_transformers(
    outcome: tuple[Trial, list[Ended], list[Ended]], data: DataManifest
) -> None:
    folder = outcome[0].phase(2).checkpoints / "step-00000003"
    loaded: Any = HuggingFaceBert.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == data.vocabulary_size
    out = model(**tokenizer("The state of the union is strong.", return_tensors="pt"))
    assert torch.isfinite(out.prediction_logits).all()


def test_the_journal_says_how_each_attempt_began_and_ended(outcome: tuple[Trial, list[Ended], list[Ended]]) -> None:
    directory = outcome[0].directory
    events = directory.events()
    ends = [event for event in events if event["event"] in ("started", "ended")]  # a rank may be slow meanwhile
    assert [(event["event"], event["phase"]) for event in ends] == [
        ("started", 1), ("ended", 1), ("started", 2), ("ended", 2),
    ]  # fmt: skip
    for number in (1, 2):
        written = [event["step"] for event in events if (event["event"], event["phase"]) == ("checkpoint", number)]
        assert written[-len(steps(directory.phase(number).checkpoints)) :] == [
            int(folder.name.removeprefix("step-")) for folder in steps(directory.phase(number).checkpoints)
        ]
        assert directory.phase(number).done().step == written[-1]
    assert [event["cause"] for event in events if event["event"] == "ended"] == ["done", "done"]
    assert [event["exit_code"] for event in events if event["event"] == "ended"] == [0, 0]


def test_only_the_owner_may_enter_the_run(outcome: tuple[Trial, list[Ended], list[Ended]]) -> None:
    directory = outcome[0].directory
    for folder in (directory.root, *(phase.root for phase in directory.phases())):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.journal.stat().st_mode) == 0o600


def test_no_temporary_file_is_left(outcome: tuple[Trial, list[Ended], list[Ended]]) -> None:
    assert not list(outcome[0].directory.root.rglob(".tmp-*"))
