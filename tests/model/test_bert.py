"""The model's outputs, loss sums and start values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from bertjobs.errors import InputError
from bertjobs.model.bert import BertForPreTraining
from bertjobs.recipe.spec import ModelSpec

Batch = dict[str, Tensor]
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def inputs(batch: Batch) -> Batch:
    return {name: batch[name] for name in INPUTS}


def hugging_face(spec: ModelSpec, **changes: object) -> transformers.BertForPreTraining:
    fields = {name: value for name, value in vars(spec).items() if name != "name"}
    config = transformers.BertConfig(**fields, **changes)
    return transformers.BertForPreTraining(config).eval()


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh"])
def test_logits_are_those_of_hugging_face_with_its_weights(spec: ModelSpec, batch: Batch, activation: str) -> None:
    spec = replace(spec, hidden_act=activation)
    torch.manual_seed(1)
    theirs = hugging_face(spec)
    ours = BertForPreTraining(spec).eval()
    assert ours.load_state_dict(theirs.state_dict()).missing_keys == []
    expected = theirs(**inputs(batch))
    prediction, relationship = ours.logits(**inputs(batch))
    tokens = batch["attention_mask"].bool()
    torch.testing.assert_close(prediction[tokens], expected.prediction_logits[tokens], atol=1e-5, rtol=0)
    torch.testing.assert_close(relationship, expected.seq_relationship_logits, atol=1e-5, rtol=0)


def test_the_two_gelus_differ(spec: ModelSpec, model: BertForPreTraining, batch: Batch) -> None:
    other = BertForPreTraining(replace(spec, hidden_act="gelu_new")).eval()
    other.load_state_dict(model.state_dict())
    difference = (model.logits(**inputs(batch))[0] - other.logits(**inputs(batch))[0]).abs().max()
    assert 1e-5 < difference < 0.1


def test_parameter_names_and_shapes_are_hugging_faces(spec: ModelSpec) -> None:
    def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in model.state_dict().items()}

    assert shapes(BertForPreTraining(spec)) == shapes(hugging_face(spec))
    assert BertForPreTraining(spec).cls.predictions.decoder.weight.shape == (41, 24)


def test_padding_changes_nothing(model: BertForPreTraining, batch: Batch) -> None:
    short = {name: tensor[1:2, :6] for name, tensor in inputs(batch).items()}
    garbage = dict(inputs(batch), input_ids=batch["input_ids"] + 5 * (1 - batch["attention_mask"]))
    alone, _ = model.encode(**short)
    padded, _ = model.encode(**garbage)
    torch.testing.assert_close(padded[1:2, :6], alone, atol=1e-5, rtol=0)


def test_sums_are_hugging_faces_mean_losses_times_the_counts(
    spec: ModelSpec, model: BertForPreTraining, batch: Batch
) -> None:
    theirs = hugging_face(spec)
    theirs.load_state_dict(model.state_dict())
    labels = batch["labels"].masked_fill(batch["labels"] == -1, -100)
    output = theirs(**inputs(batch), labels=labels, next_sentence_label=batch["next_sentence_labels"])
    sums = model(**batch)
    mean = sums.mlm_loss_sum / sums.mlm_count + sums.nsp_loss_sum / sums.nsp_count
    torch.testing.assert_close(mean, output.loss, atol=1e-5, rtol=0)
    assert (sums.mlm_count.item(), sums.nsp_count.item()) == (4, 3)
    all_logits = output.prediction_logits
    masked = F.cross_entropy(all_logits.transpose(1, 2), labels, reduction="sum")
    torch.testing.assert_close(sums.mlm_loss_sum, masked, atol=1e-5, rtol=0)
    assert sums.mlm_correct == (all_logits.argmax(-1) == labels).sum()
    right = output.seq_relationship_logits.argmax(-1) == batch["next_sentence_labels"]
    assert sums.nsp_correct == right.sum()


def test_gradients_are_those_of_hugging_face(spec: ModelSpec, model: BertForPreTraining, batch: Batch) -> None:
    theirs = hugging_face(spec)
    theirs.load_state_dict(model.state_dict())
    labels = batch["labels"].masked_fill(batch["labels"] == -1, -100)
    theirs(**inputs(batch), labels=labels, next_sentence_label=batch["next_sentence_labels"]).loss.backward()
    sums = model(**batch)
    (sums.mlm_loss_sum / 4 + sums.nsp_loss_sum / 3).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-5, rtol=1e-5, msg=name)


def test_correct_counts_follow_the_labels(model: BertForPreTraining, batch: Batch) -> None:
    prediction, relationship = model.logits(**inputs(batch))
    best = prediction.argmax(-1)
    labels = torch.where(batch["labels"] == -1, -1, best)
    labels[0, 1] = (best[0, 1] + 1) % 41
    sums = model(**inputs(batch), labels=labels, next_sentence_labels=relationship.argmax(-1))
    assert (sums.mlm_correct.item(), sums.nsp_correct.item()) == (3, 3)


def test_sums_of_micro_batches_add_up(model: BertForPreTraining, batch: Batch) -> None:
    whole = model(**batch)
    parts = [model(**{name: tensor[i : i + 1] for name, tensor in batch.items()}) for i in range(3)]
    for name in whole._fields:
        total = sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(total, getattr(whole, name), atol=1e-5, rtol=0)


def test_a_micro_batch_without_masked_tokens_gives_zero_and_all_gradients(
    model: BertForPreTraining, batch: Batch
) -> None:
    sums = model(**dict(batch, labels=torch.full((3, 11), -1)))
    assert (sums.mlm_loss_sum.item(), sums.mlm_correct.item(), sums.mlm_count.item()) == (0, 0, 0)
    (sums.mlm_loss_sum + sums.nsp_loss_sum).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_losses_are_float32_under_autocast(model: BertForPreTraining, batch: Batch) -> None:
    exact = model(**batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = model(**batch)
        assert model.encode(**inputs(batch))[1].dtype == torch.bfloat16
    assert (sums.mlm_loss_sum.dtype, sums.nsp_loss_sum.dtype) == (torch.float32, torch.float32)
    assert sums.mlm_loss_sum != exact.mlm_loss_sum
    torch.testing.assert_close(sums.mlm_loss_sum, exact.mlm_loss_sum, rtol=0.05, atol=0)


def test_dropout_only_in_training_and_by_the_seed(model: BertForPreTraining, batch: Batch) -> None:
    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return model(**batch).mlm_loss_sum.item()

    assert loss(1) == loss(2)
    model.train()
    assert loss(1) == loss(1)
    assert loss(1) != loss(2)


def test_start_values_follow_the_seed_and_hugging_faces_rules(spec: ModelSpec) -> None:
    spec = replace(spec, vocab_size=5000, initializer_range=0.02)
    torch.manual_seed(5)
    first = BertForPreTraining(spec)
    torch.manual_seed(5)
    second = BertForPreTraining(spec)
    for (name, one), two in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two), name
        if name.endswith("bias"):
            assert one.count_nonzero() == 0, name
        elif "LayerNorm" in name:
            assert (one == 1).all(), name
        else:
            assert 0.015 < one.std() < 0.025, name
    words = first.bert.embeddings.word_embeddings.weight
    assert words[0].count_nonzero() == 0
    assert words[1].count_nonzero() > 0
    assert first.cls.predictions.decoder.weight is words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "gelu_nwe"}, "did you mean 'gelu_new'"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"num_attention_heads": 5}, "hidden_size 24 is not a multiple of num_attention_heads 5"),
    ],
)
def test_an_impossible_shape_is_an_input_error(spec: ModelSpec, changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        BertForPreTraining(replace(spec, **changes))


def test_too_long_a_sequence_is_an_input_error(model: BertForPreTraining) -> None:
    ids = torch.ones(1, 17, dtype=torch.long)
    with pytest.raises(InputError, match="17 tokens is longer than max_position_embeddings 16"):
        model.encode(ids, ids * 0, ids)
