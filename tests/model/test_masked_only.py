"""BERT without next sentences is Hugging Face's ``BertForMaskedLM``: the same losses, gradients and weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from bertjobs.model.attention import ATTENTIONS
from bertjobs.model.bert import BertForPreTraining, PretrainingSums
from bertjobs.model.huggingface import initialise_from, save_pretrained
from bertjobs.model.packed import EAGER, packed_sums
from bertjobs.recipe.spec import ModelSpec
from tests.model.packs import make_pack, padded

FIXED = replace(EAGER, fixed_shapes=True)
ONLY_PAIRS = {f"{name}.{kind}" for name in ("bert.pooler.dense", "cls.seq_relationship") for kind in ("weight", "bias")}


@pytest.fixture
def masked_only(spec: ModelSpec) -> BertForPreTraining:
    """Random, with biases that are not zero, in evaluation mode."""
    torch.manual_seed(7)
    model = BertForPreTraining(spec, next_sentence=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def gradients_of(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_it_lacks_the_pooler_and_the_next_sentence_head(
    spec: ModelSpec, model: BertForPreTraining, masked_only: BertForPreTraining
) -> None:
    assert dict(model.named_parameters()).keys() - dict(masked_only.named_parameters()).keys() == ONLY_PAIRS
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**vars_of(spec)))
    shapes = [{name: parameter.shape for name, parameter in one.named_parameters()} for one in (masked_only, theirs)]
    assert shapes[0] == shapes[1]


def vars_of(spec: ModelSpec) -> dict[str, Any]:
    return {name: value for name, value in vars(spec).items() if name != "name"}


def test_hugging_face_loads_it_and_agrees_on_the_loss_and_the_gradients(
    masked_only: BertForPreTraining, batch: dict[str, Tensor], vocabulary: Path, tmp_path: Path
) -> None:
    save_pretrained(masked_only, vocabulary, tmp_path, lowercase=True)
    loaded: Any = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    theirs, info = loaded
    assert isinstance(theirs, transformers.BertForMaskedLM)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    labels = batch["labels"].masked_fill(batch["labels"] == -1, -100)
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    loss = theirs.eval()(**inputs, labels=labels).loss
    sums = masked_only(**batch)
    torch.testing.assert_close(sums.mlm_loss_sum / sums.mlm_count, loss, rtol=1e-5, atol=0)
    ours = gradients_of(masked_only, sums.mlm_loss_sum / sums.mlm_count)
    for name, gradient in gradients_of(theirs, loss).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    assert ours.keys() == dict(masked_only.named_parameters()).keys()


def test_next_sentences_add_nothing(masked_only: BertForPreTraining, batch: dict[str, Tensor]) -> None:
    sums = masked_only(**batch)
    assert (float(sums.nsp_loss_sum), int(sums.nsp_correct), int(sums.nsp_count)) == (0, 0, 0)
    other = masked_only(**batch | {"next_sentence_labels": 1 - batch["next_sentence_labels"]})
    assert torch.equal(torch.stack(list(sums)), torch.stack(list(other)))


@pytest.mark.parametrize("parts", [EAGER, FIXED], ids=["eager", "fixed"])
@pytest.mark.parametrize(
    ("way", "lengths"),
    [(way, lengths) for way in ("per_sequence", "padded", "nested") for lengths in ([16, 5, 9, 16, 2], [16])]
    + [("per_sequence", [])],
)
def test_a_pack_gives_the_padded_losses_and_gradients(
    spec: ModelSpec, way: str, parts: Any, lengths: list[int]
) -> None:
    torch.manual_seed(7)
    model = BertForPreTraining(replace(spec, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
                               next_sentence=False)  # fmt: skip
    pack = make_pack(lengths, tokens=80, slots=12, predictions=32, max_length=16, vocabulary=41)
    actual = packed_sums(model, pack, ATTENTIONS[way], parts)
    gradients = gradients_of(model, actual.mlm_loss_sum + actual.nsp_loss_sum)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    if not lengths:
        assert float(actual.mlm_loss_sum.detach()) == 0
        assert not any(gradient.any() for gradient in gradients.values())
        return
    expected = model(**padded(pack))
    for name, one, other in zip(PretrainingSums._fields, expected, actual, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=0, msg=name)
    for name, gradient in gradients_of(model, expected.mlm_loss_sum).items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


def test_weights_pass_between_the_two_kinds(
    model: BertForPreTraining, masked_only: BertForPreTraining, vocabulary: Path, tmp_path: Path
) -> None:
    """What the other kind lacks keeps its random start, and is named; what it has more is left."""
    for name, one in (("pairs", model), ("masked", masked_only)):
        (tmp_path / name).mkdir()
        save_pretrained(one, vocabulary, tmp_path / name, lowercase=True)
    kinds = {name: json.loads((tmp_path / name / "config.json").read_text()) for name in ("pairs", "masked")}
    assert {name: config.pop("architectures") for name, config in kinds.items()} == {
        "pairs": ["BertForPreTraining"], "masked": ["BertForMaskedLM"],
    }  # fmt: skip
    assert kinds["pairs"] == kinds["masked"]
    fresh = BertForPreTraining(model.spec)
    assert set(initialise_from(fresh, tmp_path / "masked")) == ONLY_PAIRS
    alone = BertForPreTraining(model.spec, next_sentence=False)
    assert initialise_from(alone, tmp_path / "masked") == ()
    assert all(torch.equal(one, other) for one, other in zip(alone.parameters(), masked_only.parameters(), strict=True))
    assert initialise_from(alone, tmp_path / "pairs") == ()
    weights = dict(model.named_parameters())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in alone.named_parameters())
