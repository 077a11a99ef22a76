"""The forward pass that a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bertjobs.model.attention import ChosenAttention
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.compiled import choose_parts
from bertjobs.model.fused_layers import LayerChoice, LayerShapes
from bertjobs.model.packed import EAGER
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import ModelSpec, RunSpec
from bertjobs.train.pretraining import forward
from bertjobs.train.pretraining.forward import Forward, choose_fused_layers, open_forward

CPU = torch.device("cpu")
TINY = BertForPreTraining(ModelSpec("tiny", 16, 1, 1, 16, vocab_size=8))


def spec_of(**sets: Any) -> RunSpec:
    words = tuple(f"{key}={value}" for key, value in sets.items())
    flags = {"recipe": "h200", "data": "/no/such/folder"}
    return resolve(load_catalogue([builtin_file()]), flags=flags, environ={}, sets=words).spec


Asked = tuple[str, torch.device, LayerShapes, dict[str, Any]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[RunSpec], Asked]:
    """What the choice is asked to decide."""
    calls: list[Asked] = []

    def choose(name: str, device: torch.device, shapes: LayerShapes, **settings: Any) -> LayerChoice:
        calls.append((name, device, shapes, settings))
        return LayerChoice("triton", "said so")

    def ask(spec: RunSpec, tokens: int | None = None) -> Asked:
        assert choose_fused_layers(spec, CPU, tokens).name == "triton"
        return calls[-1]

    monkeypatch.setattr(forward, "choose_layers", choose)
    return ask


def test_the_layers_are_chosen_by_the_recipes_own_shapes(asked: Callable[[RunSpec], Asked]) -> None:
    spec = spec_of(fused_layers="inductor", compile="false", deterministic="true", compile_mode="max-autotune")
    name, device, shapes, settings = asked(spec)
    assert (name, device) == ("inductor", CPU)
    assert shapes == LayerShapes(spec.model, spec.pack_tokens(spec.phases[0]), torch.bfloat16)
    assert settings == {"compiles": False, "deterministic": True, "mode": "max-autotune"}
    assert asked(spec_of(), 4096)[2].tokens == 4096
    assert asked(spec_of(precision="fp32"))[2].dtype == torch.float32
    assert asked(spec_of())[3] == {"compiles": True, "deterministic": False, "mode": "default"}


def test_a_choice_that_was_made_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """So all ranks have that of one."""
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr(forward, "choose_layers", None)
    opened = open_forward(TINY, spec_of(precision="fp32"), CPU, LayerChoice("triton", "said so"))
    assert opened.parts == choose_parts(CPU, "triton")
    assert opened.describe().endswith(", eager, fused layers: triton (said so)")
    assert open_forward(TINY, spec_of(precision="fp32"), CPU, LayerChoice("eager", "")).parts is EAGER


def test_padded_batches_need_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "choose_layers", None)
    assert choose_fused_layers(spec_of(unpad="false"), CPU).name == "eager"


def test_the_log_says_what_computes() -> None:
    attention = ChosenAttention("flash", "as asked for")
    assert Forward(TINY).describe() == "padded micro-batches"
    assert Forward(TINY, attention, EAGER, LayerChoice("eager", "")).describe() == (
        "attention: flash (as asked for), eager"
    )
