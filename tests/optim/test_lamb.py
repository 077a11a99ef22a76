"""LAMB, AdamW and Adam against independent implementations, and what a step must not change."""

from __future__ import annotations

import importlib.util
import math
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bertjobs.optim import base
from bertjobs.optim.adam import Adam, AdamW
from bertjobs.optim.base import Optimizer
from bertjobs.optim.lamb import Lamb

SHAPES = ((7, 5), (1,), (3, 1, 2), (11,), (), (64, 33))
LR = 0.02


def random_parameters(seed: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def set_gradients(parameters: list[torch.nn.Parameter], step: int, size: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in parameters:
        parameter.grad = size * torch.randn(parameter.shape, generator=generator)


def groups(parameters: list[torch.nn.Parameter]) -> list[dict]:
    """The first three parameters decay, the others do not."""
    return [
        {"params": parameters[:3], "weight_decay": 0.01},
        {"params": parameters[3:], "weight_decay": 0.0},
    ]


def snapshot(optimizer: Optimizer) -> list[Tensor]:
    """Copies of all that a step may change."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = [m for p in parameters for m in optimizer.state[p].values()]
    steps = [torch.tensor(group["step"]) for group in optimizer.param_groups]
    return [tensor.detach().clone() for tensor in [*parameters, *moments, *steps]]


def same_bits(one: list[Tensor], two: list[Tensor]) -> bool:
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.fixture(scope="module")
def timm_lamb() -> type[torch.optim.Optimizer]:
    """timm's Lamb without the rest of timm, which needs torchvision."""
    folder = importlib.util.find_spec("timm").submodule_search_locations[0]
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "timm"}
    for name in before:
        del sys.modules[name]
    for name, path in (("timm", folder), ("timm.optim", f"{folder}/optim")):
        package = types.ModuleType(name)
        package.__path__ = [path]
        sys.modules[name] = package
    try:
        return importlib.import_module("timm.optim.lamb").Lamb
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
            del sys.modules[name]
        sys.modules.update(before)


@pytest.mark.parametrize("size", [0.001, 3.0], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("nvlamb", [False, True])
def test_steps_agree_with_timm(timm_lamb: type, size: float, nvlamb: bool) -> None:
    ours, theirs = random_parameters(0), random_parameters(0)
    lamb = Lamb(groups(ours), LR, use_nvlamb=nvlamb)
    oracle = timm_lamb(groups(theirs), lr=LR, always_adapt=nvlamb)
    for step in range(12):
        set_gradients(ours, step, size)
        set_gradients(theirs, step, size)
        lamb.step()
        oracle.step()
        for one, two in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(ours[0], random_parameters(0)[0], atol=0.01)


def reference_step(p, g, m, v, t, *, norm, decay, lr=LR, b1=0.9, b2=0.999, eps=1e-6, clip=1.0):
    """One LAMB step in float64, written from the paper's formula and the clipping rule."""
    g = g / max(1.0, norm / clip)
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g**2
    u = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * p
    lengths = np.sqrt((p**2).sum()), np.sqrt((u**2).sum())
    ratio = lengths[0] / lengths[1] if decay and all(lengths) else 1.0
    return p - lr * ratio * u, m, v


@pytest.mark.parametrize("size", [0.001, 3.0], ids=["unclipped", "clipped"])
def test_steps_agree_with_the_formula_in_float64(size: float) -> None:
    parameters = random_parameters(2)
    parameters[1].data.zero_()  # a decaying parameter of norm 0: its ratio is 1
    lamb = Lamb(groups(parameters), LR)
    state = [(p.detach().double().numpy(), 0.0, 0.0) for p in parameters]
    for step in range(3):
        set_gradients(parameters, step, size)
        gradients = [p.grad.double().numpy().copy() for p in parameters]
        norm = math.sqrt(sum((g**2).sum() for g in gradients))
        state = [
            reference_step(p, g, m, v, step + 1, norm=norm, decay=decay)
            for (p, m, v), g, decay in zip(state, gradients, [0.01] * 3 + [0.0] * 3, strict=True)
        ]
        result = lamb.step()
        assert result.gradient_norm.item() == pytest.approx(norm, rel=1e-6)
        for parameter, (expected, _, _) in zip(parameters, state, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), [(AdamW, torch.optim.AdamW), (Adam, torch.optim.Adam)])
def test_adam_steps_agree_with_torch(ours: type[Optimizer], theirs: type[torch.optim.Optimizer]) -> None:
    some, others = random_parameters(0), random_parameters(0)
    optimizer, oracle = ours(groups(some), LR), theirs(groups(others), lr=LR, eps=1e-6)
    for step in range(8):
        set_gradients(some, step)
        set_gradients(others, step)
        optimizer.step()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        oracle.step()
        for one, two in zip(some, others, strict=True):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def test_decay_is_coupled_in_adam_and_decoupled_in_adamw() -> None:
    """Without a gradient of the loss, Adam's direction is the decay's alone: its sign; AdamW shrinks by lr wd."""
    ends = []
    for kind in (Adam, AdamW):
        parameter = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
        parameter.grad = torch.zeros(2)
        kind([parameter], LR, weight_decay=0.1).step()
        ends.append(parameter.detach())
    torch.testing.assert_close(ends[0], torch.tensor([3.0 - LR, -4.0 + LR]))
    torch.testing.assert_close(ends[1], torch.tensor([3.0, -4.0]) * (1 - LR * 0.1))


@pytest.mark.parametrize("optimizer_class", [Lamb, AdamW, Adam])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", range(len(SHAPES)))
def test_a_gradient_that_is_not_finite_changes_nothing(
    optimizer_class: type[Optimizer], value: float, place: int
) -> None:
    parameters = random_parameters(4)
    optimizer = optimizer_class(groups(parameters), LR)
    set_gradients(parameters, 0)
    assert not optimizer.step().skipped
    before = snapshot(optimizer)
    set_gradients(parameters, 1)
    parameters[place].grad.view(-1)[-1] = value
    result = optimizer.step()
    assert result.skipped
    assert not torch.isfinite(result.gradient_norm)
    assert same_bits(snapshot(optimizer), before)
    set_gradients(parameters, 1)
    assert not optimizer.step().skipped
    assert not same_bits(snapshot(optimizer), before)


@given(exponent=st.integers(-10, 30), size=st.sampled_from([0.001, 5.0]))
@settings(max_examples=20, deadline=None)
def test_a_loss_scale_that_is_a_power_of_two_changes_no_bit(exponent: int, size: float) -> None:
    plain, scaled = random_parameters(1), random_parameters(1)
    one, two = Lamb(groups(plain), LR), Lamb(groups(scaled), LR)
    for step in range(2):
        set_gradients(plain, step, size)
        set_gradients(scaled, step, size)
        for parameter in scaled:
            parameter.grad.mul_(2.0**exponent)
        expected, actual = one.step(), two.step(2.0**exponent)
        assert torch.equal(expected.gradient_norm, actual.gradient_norm)
    assert same_bits(snapshot(one), snapshot(two))


def test_the_order_of_chunks_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for elements in (1, 40, 1 << 20):
        monkeypatch.setitem(base.CHUNK_ELEMENTS, "cpu", elements)
        parameters = random_parameters(1)
        lamb = Lamb(groups(parameters), LR)
        for step in range(3):
            set_gradients(parameters, step)
            lamb.step()
        results.append(snapshot(lamb))
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])


@pytest.mark.parametrize("optimizer_class", [Lamb, AdamW, Adam])
def test_a_saved_state_continues_bit_for_bit(optimizer_class: type[Optimizer], tmp_path) -> None:
    parameters = random_parameters(5)
    optimizer = optimizer_class(groups(parameters), LR)
    for step in range(3):
        set_gradients(parameters, step)
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    restored = optimizer_class(groups(copies), lr=1.0)
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(3, 6):
        for one, some in ((optimizer, parameters), (restored, copies)):
            set_gradients(some, step)
            one.step()
    assert same_bits(snapshot(optimizer), snapshot(restored))


@pytest.mark.parametrize("optimizer_class", [Lamb, AdamW, Adam])
def test_loaded_moments_continue_bit_for_bit(optimizer_class: type[Optimizer]) -> None:
    parameters = random_parameters(5)
    optimizer = optimizer_class(groups(parameters), LR)
    assert optimizer.moments() == {}
    for step in range(3):
        set_gradients(parameters, step)
        optimizer.step()
    copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    restored = optimizer_class(groups(copies), LR)
    saved = optimizer.moments()
    assert list(saved) == parameters
    restored.load_moments(
        {copy: (saved[p][0].clone(), saved[p][1].clone()) for p, copy in zip(parameters, copies, strict=True)},
        optimizer.step_count,
    )
    assert (restored.step_count, optimizer.step_count) == (3, 3)
    for step in range(3, 6):
        for one, some in ((optimizer, parameters), (restored, copies)):
            set_gradients(some, step)
            one.step()
    assert same_bits(snapshot(optimizer), snapshot(restored))


def test_a_reset_step_count_keeps_the_moments_and_restarts_the_bias_correction() -> None:
    parameters = [torch.nn.Parameter(torch.tensor([3.0, 4.0]))]
    lamb = Lamb(parameters, LR, weight_decay=0.0, clip_norm=100.0)
    for _ in range(2):
        parameters[0].grad = torch.tensor([1.0, 2.0])
        lamb.step()
    moments = [m.clone() for m in lamb.state[parameters[0]].values()]
    lamb.reset_step_count()
    assert same_bits(list(lamb.state[parameters[0]].values()), moments)
    before = parameters[0].detach().clone()
    parameters[0].grad = torch.tensor([1.0, 2.0])
    lamb.step()
    # after 3 equal gradients g: m = g (1 - 0.9^3), v = g^2 (1 - 0.999^3), corrected as if after one
    ratio = ((1 - 0.9**3) / (1 - 0.9)) / math.sqrt((1 - 0.999**3) / (1 - 0.999))
    torch.testing.assert_close(before - parameters[0].detach(), torch.full((2,), LR * ratio))


def test_a_new_learning_rate_scales_the_step() -> None:
    moves = []
    for lr in (LR, 2 * LR, 0.0):
        parameters = random_parameters(6)
        lamb = Lamb(groups(parameters), LR)
        lamb.set_learning_rate(lr)
        set_gradients(parameters, 0)
        lamb.step()
        moves.append([new.detach() - old.detach() for new, old in zip(parameters, random_parameters(6), strict=True)])
    for one, two, none in zip(*moves, strict=True):
        torch.testing.assert_close(2 * one, two, atol=1e-6, rtol=1e-4)
        assert none.count_nonzero() == 0


def test_parameters_without_a_gradient_are_left_alone() -> None:
    parameters = random_parameters(6)
    lamb = Lamb(groups(parameters), LR)
    with pytest.raises(ValueError, match="call backward"):
        lamb.step()
    set_gradients(parameters, 0)
    parameters[0].grad = None
    lamb.step()
    assert torch.equal(parameters[0], random_parameters(6)[0])
    assert not torch.equal(parameters[1], random_parameters(6)[1])
