"""What is reported about a model whose gradients are not finite."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bertjobs.errors import EXIT_FAILURE
from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.lamb import Lamb
from bertjobs.recipe.spec import ModelSpec
from bertjobs.train.diagnosis import Diagnosis, NotFinite, diagnose

SPEC = ModelSpec("tiny", 8, 2, 2, 16, vocab_size=31, max_position_embeddings=8)
LOSSES = {"mlm_loss_nats": 7.5, "nsp_loss_nats": 0.7}
IN_WORDS = {"mlm_loss_nats": "MLM loss {:g}", "nsp_loss_nats": "NSP loss {:g} nats"}
BIAS, WORDS = "cls.predictions.bias", "bert.embeddings.word_embeddings.weight"


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In all of this module's tests."""


@pytest.fixture
def model() -> BertForPreTraining:
    """A model with the gradients of one batch, all finite."""
    torch.manual_seed(0)
    model = BertForPreTraining(SPEC)
    backward(model)
    return model


def backward(model: BertForPreTraining) -> float:
    model.zero_grad()
    ids = torch.arange(1, 13).reshape(2, 6)
    labels = torch.where(ids % 4 == 0, ids, -1)
    sums = model(ids, ids * 0, ids * 0 + 1, labels, ids[:, 0] % 2)
    (sums.mlm_loss_sum + sums.nsp_loss_sum).backward()
    return float(sums.mlm_loss_sum.detach())


def looked_at(model: BertForPreTraining, **changes: Any) -> Diagnosis:
    step: dict[str, Any] = {
        "phase": 1, "step": 50, "skipped_in_a_row": 25, "precision": "fp16", "loss_scale": 4.0, "losses": LOSSES,
        "sequences": ["shard-0.parquet:3", "shard-1.parquet:0"],
    }  # fmt: skip
    return diagnose(model, **{**step, **changes})


def test_a_diagnosis_names_and_counts_what_is_not_finite(model: BertForPreTraining) -> None:
    parameters = dict(model.named_parameters())
    parameters[BIAS].grad[[1, 4]] = math.nan
    parameters[BIAS].grad[7] = -math.inf
    parameters[WORDS].grad[2, 3] = math.inf
    with torch.no_grad():
        parameters[WORDS][30, 0] = math.nan
    diagnosis = looked_at(model)
    assert diagnosis.gradients == (NotFinite(WORDS, 31 * 8, 0, 1), NotFinite(BIAS, 31, 2, 1))
    assert diagnosis.parameters == (NotFinite(WORDS, 31 * 8, 1, 0),)
    assert diagnosis.tensors == len(parameters)


def test_the_gradients_of_a_skipped_step_are_still_there(model: BertForPreTraining) -> None:
    """Corrupted weights give gradients that are not finite; the optimizer skips the step and leaves them."""
    optimizer = Lamb(model.parameters(), 1e-3)
    with torch.no_grad():
        model.bert.encoder.layer[1].intermediate.dense.weight[0, 0] = math.nan
    assert math.isnan(backward(model))
    assert optimizer.step().skipped
    diagnosis = looked_at(model, losses=LOSSES | {"mlm_loss_nats": math.nan})
    assert [tensor.name for tensor in diagnosis.parameters] == ["bert.encoder.layer.1.intermediate.dense.weight"]
    assert len(diagnosis.gradients) > 10
    assert not diagnosis.is_loss_finite


def test_the_file_is_strict_json_with_the_sequences(model: BertForPreTraining, tmp_path: Path) -> None:
    dict(model.named_parameters())[BIAS].grad[0] = math.nan
    file = looked_at(model, losses=LOSSES | {"mlm_loss_nats": math.nan}, loss_scale=math.inf).write(tmp_path)
    assert file == tmp_path / "diagnosis-step-00000050.json"

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    content = json.loads(file.read_text(), parse_constant=refuse)
    assert content["gradients"] == [{"name": BIAS, "elements": 31, "nan": 1, "inf": 0}]
    assert content["sequences"] == ["shard-0.parquet:3", "shard-1.parquet:0"]
    assert (content["phase"], content["step"], content["skipped_in_a_row"]) == (1, 50, 25)
    assert (content["mlm_loss_nats"], content["nsp_loss_nats"], content["loss_scale"]) == ("nan", 0.7, "inf")


def test_the_error_says_which_parameter_and_where_the_rest_is(model: BertForPreTraining, tmp_path: Path) -> None:
    for index, parameter in enumerate(model.parameters()):
        if index < 5:
            parameter.grad.view(-1)[0] = math.inf
    error = looked_at(model).error(tmp_path / "x.json", IN_WORDS)
    text = error.render()
    assert error.exit_code == EXIT_FAILURE
    assert f"25 steps in a row had gradients that are not finite, in 5 of {len(list(model.parameters()))}" in text
    assert f"{WORDS} (1 inf of 248)" in text
    assert "and 2 more" in text
    assert "phase 1, step 50, MLM loss 7.5 and NSP loss 0.7 nats, loss scale 4" in text
    assert str(tmp_path / "x.json") in text


def test_finite_gradients_whose_norm_overflows_are_distinguished(model: BertForPreTraining) -> None:
    for parameter in model.parameters():
        parameter.grad.fill_(1e30)
    assert Lamb(model.parameters(), 1e-3).step().skipped
    assert "their norm exceeds float32" in looked_at(model).error(Path("x.json"), IN_WORDS).render()


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({}, "lower the learning rate, or set a lower loss_scale, or train in bf16 or fp32"),
        ({"loss_scale": 1.0}, "lower the learning rate, or train in bf16 or fp32"),
        ({"precision": "bf16", "loss_scale": 1.0}, "lower the learning rate, or train in fp32"),
        (
            {"precision": "fp32", "loss_scale": 1.0, "losses": {"nsp_loss_nats": math.inf}},
            "look at the step's sequences, or lower",
        ),
    ],
)
def test_the_hint_follows_from_the_diagnosis(model: BertForPreTraining, changes: dict[str, Any], hint: str) -> None:
    dict(model.named_parameters())[BIAS].grad[0] = math.nan
    assert (looked_at(model, **changes).error(Path("x.json"), IN_WORDS).hint or "").startswith(hint)


def test_corrupted_weights_call_for_an_earlier_checkpoint(model: BertForPreTraining) -> None:
    with torch.no_grad():
        dict(model.named_parameters())[BIAS][0] = math.nan
    assert "resume from an earlier one" in (looked_at(model).error(Path("x.json"), IN_WORDS).hint or "")
