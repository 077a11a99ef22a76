"""A run that predicts masked words alone: trained, stopped, resumed, over ranks, and read by Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer, BertForMaskedLM

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE, EXIT_DONE
from bertjobs.files.json_lines import read_lines
from tests.train.conftest import PHASES, Ended, Trial, prepared

SHARE = 0.3
ALONE: dict[str, Any] = {"next_sentence": False, "across_documents": True, "short_sequence_share": 0.0}
RECIPE = {"system": "cpu-node", "model": "bert-nano", "precision": "fp32", "num_workers": 1, "phases": PHASES,
          "next_sentence": False, "masked_share": SHARE}  # fmt: skip
RECIPES = {"trial": RECIPE, "padded": {**RECIPE, "unpad": False}, "pairs": {**RECIPE, "next_sentence": True}}

Alone = Callable[..., Ended]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> DataManifest:
    """Contiguous text."""
    return prepared(slice(0, 10), tmp_path_factory.mktemp("text"), **ALONE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "bertjobs").mkdir()
    (home / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump({"recipes": RECIPES}))
    return home


@pytest.fixture(scope="module")
def both(home: Path, text: DataManifest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trial, list[list[Ended]]]:
    """Both phases on two ranks."""
    trial = Trial(home, text.folder, tmp_path_factory.mktemp("both") / "results")
    return trial, [trial.run(1, 2), trial.run(2, 2)]


@pytest.fixture
def trial(home: Path, text: DataManifest, tmp_path: Path) -> Trial:
    return Trial(home, text.folder, tmp_path / "results")


def test_no_next_sentence_is_measured(both: tuple[Trial, list[list[Ended]]]) -> None:
    trial, phases = both
    assert [[rank.code for rank in ranks] for ranks in phases] == [[EXIT_DONE] * 2] * 2, phases
    for number in (1, 2):
        steps, validations = trial.metrics(number), list(read_lines(trial.phase(number).validation))
        assert len(steps) == PHASES[number]["steps"]
        for line in (*steps, *validations):
            assert not [field for field in line if "nsp" in field]
            assert np.isfinite(line["mlm_loss_nats"])
        assert [line["loss_nats"] for line in steps] == [line["mlm_loss_nats"] for line in steps]
    losses = [line["loss_nats"] for line in trial.metrics(1)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    assert "nsp" not in phases[0][0].out


def test_the_share_of_the_tokens_is_masked(both: tuple[Trial, list[list[Ended]]]) -> None:
    for line in read_lines(both[0].phase(1).validation):
        tokens = DataManifest.read(both[0].data).phase(1).validation.tokens
        assert abs(line["masked_tokens"] / tokens - SHARE) < 0.005


def test_hugging_face_loads_the_checkpoint(both: tuple[Trial, list[list[Ended]]]) -> None:
    done = both[0].phase(2).done()
    assert done is not None
    folder = both[0].phase(2).checkpoints / done.checkpoint
    loaded: Any = BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    out = model(**AutoTokenizer.from_pretrained(folder)("The state of the union is strong.", return_tensors="pt"))
    assert torch.isfinite(out.logits).all()


def test_one_rank_takes_the_steps_of_two(both: tuple[Trial, list[list[Ended]]], trial: Trial, alone: Alone) -> None:
    assert alone(trial, 1).code == EXIT_DONE
    for one, other in zip(trial.metrics(1), both[0].metrics(1), strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["mlm_loss_nats"] == pytest.approx(other["mlm_loss_nats"], rel=1e-4)


def test_padded_batches_are_the_same_sequences(trial: Trial, alone: Alone) -> None:
    """With other dropout, so the losses differ a little."""
    packed, padded = trial, replace(trial.having(RECIPE="padded"), results=trial.results.parent / "padded")
    for run in (packed, padded):
        assert alone(run.having(STEPS_THIS_RUN=4), 1).code == EXIT_CONTINUE
    for one, other in zip(packed.metrics(1), padded.metrics(1), strict=True):
        assert one["tokens"] == other["tokens"]
        assert one["mlm_loss_nats"] == pytest.approx(other["mlm_loss_nats"], rel=0.05)


def test_a_stop_changes_nothing(trial: Trial, alone: Alone) -> None:
    """In both phases, bit for bit."""
    whole = replace(trial, results=trial.results.parent / "whole")
    for number in (1, 2):
        assert alone(whole, number).code == EXIT_DONE
        stop = int(PHASES[number]["steps"]) // 2
        assert alone(trial.having(STEPS_THIS_RUN=stop), number).code == EXIT_CONTINUE
        ended = alone(trial, number)
        assert ended.code == EXIT_DONE, ended
        assert "continuing from" in ended.out
        assert trial.weights(number) == whole.weights(number)


def test_a_run_that_predicts_next_sentences_refuses_such_data(trial: Trial, alone: Alone) -> None:
    ended = alone(trial.having(RECIPE="pairs"), 1)
    assert ended.code == EXIT_BAD_INPUT
    for words in ("without next-sentence pairs", "--set next_sentence=false", "without --no-next-sentence"):
        assert words in ended.err + ended.out


def test_pairs_are_read_as_text(trial: Trial, data: DataManifest, alone: Alone) -> None:
    on_pairs = replace(trial, data=data.folder)
    assert alone(on_pairs.having(STEPS_THIS_RUN=3), 1).code == EXIT_CONTINUE
    assert [[field for field in line if "nsp" in field] for line in on_pairs.metrics(1)] == [[]] * 3


def test_its_weights_start_a_run_that_predicts_next_sentences(
    both: tuple[Trial, list[list[Ended]]], trial: Trial, data: DataManifest, alone: Alone
) -> None:
    """The head that they lack is random, and named."""
    done = both[0].phase(1).done()
    assert done is not None
    weights = both[0].phase(1).checkpoints / done.checkpoint
    assert json.loads((weights / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    on_pairs = replace(trial, data=data.folder).having(RECIPE="pairs", INIT_CHECKPOINT=weights, STEPS_THIS_RUN=2)
    ended = alone(on_pairs, 1)
    assert ended.code == EXIT_CONTINUE, ended
    assert "random: bert.pooler.dense.weight, bert.pooler.dense.bias, cls.seq_relationship" in ended.out
