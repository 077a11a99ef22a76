"""From a recipe to an optimizer over a real model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bertjobs.errors import InputError
from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.adamw import AdamW
from bertjobs.optim.build import build_optimizer
from bertjobs.optim.groups import parameter_groups
from bertjobs.optim.lamb import Lamb
from bertjobs.recipe.spec import ModelSpec, OptimizerSpec


@pytest.fixture
def model() -> BertForPreTraining:
    torch.manual_seed(0)
    return BertForPreTraining(ModelSpec("tiny", 24, 2, 3, 40, vocab_size=41, max_position_embeddings=16))


def test_biases_and_layer_norms_do_not_decay_and_the_tied_decoder_is_in_once(
    model: BertForPreTraining,
) -> None:
    decayed, undecayed = parameter_groups(model, 0.01)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.01, 0.0)
    # 3 embeddings; 6 matrices in each of 2 layers; pooler, transform, next-sentence head
    assert len(decayed["params"]) == 3 + 2 * 6 + 3
    # the embeddings' LayerNorm; 6 biases and 2 LayerNorms a layer; pooler; transform and its LayerNorm; heads
    assert len(undecayed["params"]) == 2 + 2 * (6 + 4) + 1 + 3 + 2
    everything = [id(p) for p in decayed["params"] + undecayed["params"]]
    assert len(everything) == len(set(everything)) == len(list(model.parameters()))
    assert all(p.dim() == 2 for p in decayed["params"])
    assert all(p.dim() == 1 for p in undecayed["params"])


def test_the_old_names_of_layer_norm_do_not_decay() -> None:
    model = torch.nn.Module()
    for name in ("gamma", "beta", "weight"):
        model.register_parameter(name, torch.nn.Parameter(torch.zeros(2)))
    decayed, undecayed = parameter_groups(model, 0.5)
    assert [id(p) for p in decayed["params"]] == [id(model.weight)]
    assert len(undecayed["params"]) == 2


@pytest.mark.parametrize(("name", "kind"), [("lamb", Lamb), ("adamw", AdamW)])
def test_the_recipes_settings_arrive(model: BertForPreTraining, name: str, kind: type) -> None:
    spec = OptimizerSpec(name, weight_decay=0.1, beta1=0.8, beta2=0.9, epsilon=1e-5, clip_norm=0.5)
    optimizer = build_optimizer(model, spec, lr=0.003)
    assert type(optimizer) is kind
    assert optimizer.clip_norm == 0.5
    for group, decay in zip(optimizer.param_groups, (0.1, 0.0), strict=True):
        settings = {key: group[key] for key in ("lr", "betas", "epsilon", "weight_decay", "step")}
        expected = {"lr": 0.003, "betas": (0.8, 0.9), "epsilon": 1e-5, "weight_decay": decay, "step": 0}
        assert settings == expected


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_a_model_learns_one_batch_by_heart(model: BertForPreTraining, name: str) -> None:
    ids = torch.arange(1, 33).view(4, 8)
    labels = torch.where(ids % 3 == 0, ids, -1)
    batch = (ids.masked_fill(labels != -1, 4), ids * 0, ids * 0 + 1, labels, torch.tensor([0, 1, 1, 0]))
    optimizer = build_optimizer(model.eval(), OptimizerSpec(name), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        sums = model(*batch)
        loss = sums.mlm_loss_sum / sums.mlm_count + sums.nsp_loss_sum / sums.nsp_count
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 4.0
    assert losses[-1] < 0.5 * losses[0]


def test_an_unknown_optimizer_names_the_nearest(model: BertForPreTraining) -> None:
    with pytest.raises(InputError, match="did you mean 'lamb'"):
        build_optimizer(model, replace(OptimizerSpec(), name="lamp"), lr=0.1)
