"""From a recipe to an optimizer over a real model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bertjobs.errors import InputError
from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.adam import Adam, AdamW
from bertjobs.optim.build import OPTIMIZERS, build_optimizer, choose_backend
from bertjobs.optim.fused import why_not_fused
from bertjobs.optim.groups import parameter_groups
from bertjobs.optim.lamb import Lamb
from bertjobs.optim.sharding import WHOLE, StateShare
from bertjobs.recipe.spec import ModelSpec, OptimizerSpec


@pytest.fixture
def model() -> BertForPreTraining:
    torch.manual_seed(0)
    return BertForPreTraining(ModelSpec("tiny", 24, 2, 3, 40, vocab_size=41, max_position_embeddings=16))


def test_biases_and_layer_norms_do_not_decay_and_the_tied_decoder_is_included_once(
    model: BertForPreTraining,
) -> None:
    decayed, undecayed = parameter_groups(model, 0.01)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.01, 0.0)
    # 3 embeddings; 6 matrices in each of 2 layers; pooler, transform, next-sentence head
    assert len(decayed["params"]) == 3 + 2 * 6 + 3
    # the embeddings' LayerNorm; 6 biases and 2 LayerNorms per layer; pooler; transform and its LayerNorm; heads
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


@pytest.mark.parametrize(("name", "kind"), [("lamb", Lamb), ("adamw", AdamW), ("adam", Adam)])
def test_the_recipes_settings_arrive(model: BertForPreTraining, name: str, kind: type) -> None:
    spec = OptimizerSpec(name, weight_decay=0.1, beta1=0.8, beta2=0.9, epsilon=1e-5, clip_norm=0.5)
    optimizer = build_optimizer(model, spec, lr=0.003)
    assert type(optimizer) is kind
    assert optimizer.backend == "torch"
    assert optimizer.clip_norm == 0.5
    for group, decay in zip(optimizer.param_groups, (0.1, 0.0), strict=True):
        settings = {key: group[key] for key in ("lr", "betas", "epsilon", "weight_decay", "step")}
        expected = {"lr": 0.003, "betas": (0.8, 0.9), "epsilon": 1e-5, "weight_decay": decay, "step": 0}
        assert settings == expected


@pytest.mark.parametrize("name", ["lamb", "adamw", "adam"])
def test_a_model_memorises_one_batch(model: BertForPreTraining, name: str) -> None:
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


def check_saying(why: str | None = None):
    return lambda: why


def choose(backend: str = "auto", name: str = "lamb", *, gpu: bool = True, sharded: bool = False, **why: str) -> str:
    """The backend chosen if all software can be used except what ``why`` names."""
    checks = {kind: check_saying(why.get(kind)) for kind in ("apex", "fused")}
    return choose_backend(OptimizerSpec(name, backend=backend), gpu=gpu, sharded=sharded, checks=checks)


def test_auto_prefers_apex_then_the_fused_one_then_torch() -> None:
    assert choose() == "apex"
    assert choose(sharded=True) == "fused"
    assert choose(apex="absent") == "fused"
    assert choose(apex="absent", fused="absent") == "torch"
    assert choose(fused="absent", sharded=True) == "torch"
    assert choose(gpu=False) == "torch"
    assert choose(name="adamw") == choose(name="adam") == "torch"


def test_the_requested_backend_runs() -> None:
    for backend in ("apex", "fused", "torch"):
        assert choose(backend) == backend
    assert choose("torch", gpu=False, sharded=True) == "torch"


@pytest.mark.parametrize(
    ("asked", "why", "usable"),
    [
        ({"backend": "apex", "gpu": False}, "it needs a GPU", "auto, torch"),
        ({"backend": "fused", "gpu": False}, "it needs a GPU", "auto, torch"),
        ({"backend": "apex", "sharded": True}, "shard_states", "auto, fused, torch"),
        ({"backend": "apex", "apex": "it is absent"}, "it is absent", "auto, fused, torch"),
        ({"backend": "fused", "fused": "it is absent"}, "it is absent", "auto, apex, torch"),
        ({"backend": "fused", "name": "adamw"}, "'adamw' has no such backend", "auto, torch"),
        ({"backend": "cuda"}, "'lamb' has no such backend", "auto, apex, fused, torch"),
    ],
)
def test_a_backend_that_cannot_be_used_is_refused_with_the_reason(asked: dict, why: str, usable: str) -> None:
    with pytest.raises(InputError) as error:
        choose(**asked)
    assert why in error.value.what
    assert error.value.where == "optimizer.backend"
    assert error.value.hint == f"choose one of: {usable}"


def test_a_backend_that_needs_a_gpu_is_refused_on_a_cpu(model: BertForPreTraining) -> None:
    assert build_optimizer(model, OptimizerSpec(), 0.1, device=torch.device("cpu")).backend == "torch"
    for backend in ("apex", "fused"):
        with pytest.raises(InputError, match="needs a GPU"):
            build_optimizer(model, OptimizerSpec(backend=backend), 0.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_are_shared_only_if_the_recipe_says_so(model: BertForPreTraining, name: str) -> None:
    group = StateShare(1, 3)
    whole = build_optimizer(model, OptimizerSpec(name), 0.1, group=group)
    shared = build_optimizer(model, OptimizerSpec(name, shard_states=True), 0.1, group=group)
    assert whole.shard == WHOLE
    assert whole.owned == set(model.parameters())
    assert shared.shard == group
    assert shared.owned < whole.owned


def test_why_the_fused_one_cannot_be_used_is_explained_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is no Triton, and if it has no C compiler to build its launcher with."""

    def fail(_: list) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one via CC")

    monkeypatch.setattr("bertjobs.optim.fused.find_spec", lambda _: None)
    assert why_not_fused(torch.device("cpu")) == "Triton is not installed"
    monkeypatch.setattr("bertjobs.optim.fused.find_spec", lambda name: name)
    monkeypatch.setattr("bertjobs.optim.fused._sum_squares", fail)
    assert why_not_fused(torch.device("cpu")) == "Triton cannot run a kernel: Failed to find C compiler."


@pytest.mark.parametrize(
    ("sum_of_squares", "why"), [(12.0, None), (0.0, "Triton's kernels compute 2^2 + 2^2 + 2^2 = 0")]
)
def test_a_kernel_s_result_is_read_before_it_is_trusted(
    monkeypatch: pytest.MonkeyPatch, sum_of_squares: float, why: str | None
) -> None:
    monkeypatch.setattr("bertjobs.optim.fused.find_spec", lambda name: name)
    monkeypatch.setattr("bertjobs.optim.fused._sum_squares", lambda _: torch.tensor([sum_of_squares]))
    assert why_not_fused(torch.device("cpu")) == why


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gets_a_fused_lamb(model: BertForPreTraining) -> None:
    optimizer = build_optimizer(model.cuda(), OptimizerSpec(), 0.1)
    assert optimizer.backend in ("apex", "fused")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert not optimizer.step().skipped
    assert optimizer.step_count == 1
