"""apex's LAMB behind the common interface.

apex itself is not available here: it is built from source with a CUDA compiler, and runs only on a GPU. The adapter is
tested against a stand-in (apex_stand_in/) that does in torch what a caller of the real class sees: rate and step count
are tensors of each group, the gradient scaler says on the device whether a step is taken, gradients are overwritten.
Where the real one is installed and there is a GPU, the tests run on that.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bertjobs.optim.apex_lamb import ApexLamb, why_not_apex
from bertjobs.optim.lamb import Lamb
from bertjobs.optim.sharding import StateShare

REAL = torch.cuda.is_available() and why_not_apex() is None
DEVICE = torch.device("cuda" if REAL else "cpu")
SHAPES = ((30, 20), (7,), (513, 3), (1,), (5, 1, 2))
LR = 0.02


def forget_apex() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("apex", "amp_C")]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture(autouse=True)
def _apex(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if REAL:
        yield
        return
    monkeypatch.syspath_prepend(Path(__file__).parent / "apex_stand_in")
    yield
    forget_apex()


def both(decay: float = 0.01, **settings: object) -> tuple[ApexLamb, Lamb]:
    """The adapter and the reference, over equal parameters."""
    optimizers = []
    for kind in (ApexLamb, Lamb):
        generator = torch.Generator().manual_seed(3)
        parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(DEVICE)) for shape in SHAPES]
        groups = [
            {"params": parameters[:3], "weight_decay": decay},
            {"params": parameters[3:], "weight_decay": 0.0, "betas": (0.8, 0.99), "epsilon": 1e-5},
        ]
        optimizers.append(kind(groups, LR, **settings))
    return optimizers[0], optimizers[1]


def parameters_of(optimizer: Lamb) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def set_gradients(optimizer: Lamb, step: int, size: float) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in parameters_of(optimizer):
        parameter.grad = (size * torch.randn(parameter.shape, generator=generator)).to(DEVICE)


def assert_equal_states(one: Lamb, two: Lamb) -> None:
    for ours, theirs in zip(parameters_of(one), parameters_of(two), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        for mine, other in zip(one.moments()[ours], two.moments()[theirs], strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    assert one.step_count == two.step_count


@pytest.mark.parametrize("size", [0.001, 3.0], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize(("decay", "nvlamb"), [(0.01, False), (0.0, False), (0.0, True)])
def test_its_steps_are_those_of_the_reference(size: float, scale: float, decay: float, nvlamb: bool) -> None:
    apex, reference = both(decay, use_nvlamb=nvlamb)
    for step in range(12):
        for optimizer in (apex, reference):
            optimizer.set_learning_rate(LR / (1 + step))
            set_gradients(optimizer, step, size * scale)
        actual, expected = apex.step(scale), reference.step(scale)
        torch.testing.assert_close(actual.gradient_norm, expected.gradient_norm)
        assert not actual.skipped
    assert apex.backend == "apex"
    assert_equal_states(apex, reference)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_changes_nothing(value: float) -> None:
    apex, reference = both()
    for step in range(4):
        for optimizer in (apex, reference):
            set_gradients(optimizer, step, 1.0)
            if step == 2:
                parameters_of(optimizer)[1].grad[-1] = value
            assert optimizer.step(8.0).skipped == (step == 2)
    assert apex.step_count == 3
    assert_equal_states(apex, reference)


def test_it_continues_from_the_references_moments_and_counts_from_0() -> None:
    apex, reference = both()
    for step in range(3):
        set_gradients(reference, step, 1.0)
        reference.step()
    moments = reference.moments()
    for ours, theirs in zip(parameters_of(apex), parameters_of(reference), strict=True):
        ours.data.copy_(theirs.data)
    pairs = zip(parameters_of(apex), parameters_of(reference), strict=True)
    loaded = {ours: (moments[theirs][0].clone(), moments[theirs][1].clone()) for ours, theirs in pairs}
    apex.load_moments(loaded, reference.step_count)
    for count, step in ((4, 3), (1, 4)):
        for optimizer in (apex, reference):
            set_gradients(optimizer, step, 1.0)
            optimizer.step()
        assert apex.step_count == count
        assert_equal_states(apex, reference)
        for optimizer in (apex, reference):
            optimizer.reset_step_count()
    assert apex.step_count == 0


def test_its_states_are_not_shared() -> None:
    with pytest.raises(ValueError, match="cannot be sharded"):
        both(shard=StateShare(0, 2))


@pytest.mark.skipif(REAL, reason="apex is installed")
def test_it_is_distinguished_from_other_packages_of_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert why_not_apex() is None
    monkeypatch.undo()
    forget_apex()
    assert "no module amp_C" in str(why_not_apex())
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert "no module amp_C" in str(why_not_apex())
    for compiled, why in (
        ("raise ImportError('undefined symbol: _ZN3c10')", "undefined symbol"),
        ("", "apex.optimizers"),
    ):
        (tmp_path / "amp_C.py").write_text(compiled)
        forget_apex()
        assert why in str(why_not_apex())
