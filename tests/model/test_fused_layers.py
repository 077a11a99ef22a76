"""What computes the layers: measured once, by shapes, and never other numbers than torch's own parts give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bertjobs.errors import InputError
from bertjobs.model import fused_layers
from bertjobs.model.compiled import choose_parts
from bertjobs.model.fused_layers import (
    LayerChoice,
    LayerShapes,
    choose_layers,
    disagreement,
    mask_problem,
    measured,
)
from bertjobs.model.packed import EAGER
from bertjobs.recipe.spec import ModelSpec

GPU = torch.cuda.is_available()
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MODEL = ModelSpec("small", 128, 2, 2, 256, vocab_size=100)
SHAPES = LayerShapes(MODEL, tokens=64, dtype=torch.float32)


def _works() -> str | None:
    """Why the interpreter cannot be used."""
    if GPU:
        return "a GPU is here: tests/gpu tests the same on it"
    pytest.importorskip("triton", reason="Triton is not installed")
    from bertjobs.model.triton_layer import join_gradients

    try:
        join_gradients([torch.ones(3, 16), torch.ones(3, 16)])
    except Exception as error:  # Triton 3.6's cannot loop under numpy 2.4
        return f"Triton's interpreter fails: {error}"
    return None


@pytest.fixture
def _interpreted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer rows and tiles, as the interpreter is slow."""
    if (problem := _works()) is not None:
        pytest.skip(problem)
    request.getfixturevalue("tall_tiles")
    monkeypatch.setattr(fused_layers, "CHECKED_ROWS", 67)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What a layer takes by each way, on a GPU where Triton works."""
    seconds = {"inductor": 2e-3, "triton": 1e-3}
    monkeypatch.setattr(fused_layers, "why_not_triton", lambda _device, _shapes: None)
    monkeypatch.setattr(fused_layers, "measured", lambda _device, _shapes, _mode: seconds)
    return seconds


def chosen(name: str = "auto", device: torch.device = CUDA, **settings: Any) -> LayerChoice:
    return choose_layers(name, device, SHAPES, **{"compiles": True, "deterministic": False, **settings})


def test_auto_takes_the_faster_and_says_both_times(clock: dict[str, float]) -> None:
    assert chosen() == LayerChoice("triton", "ms per layer without attention: inductor 2.00, triton 1.00")
    clock["inductor"] = 0.5e-3
    assert chosen().name == "inductor"
    assert chosen().describe() == (
        "fused layers: inductor (ms per layer without attention: inductor 0.50, triton 1.00)"
    )


@pytest.mark.usefixtures("clock")
def test_a_name_is_taken_as_it_is() -> None:
    assert [chosen(name).name for name in ("inductor", "triton")] == ["inductor", "triton"]
    assert chosen("triton", compiles=False).name == "triton"


@pytest.mark.usefixtures("clock")
def test_nothing_is_fused_on_cpus_or_where_nothing_is_compiled() -> None:
    for name in ("auto", "inductor"):
        assert chosen(name, CPU).name == chosen(name, compiles=False).name == "eager"


def test_a_deterministic_run_asks_no_clock(clock: dict[str, float]) -> None:
    clock.clear()
    assert chosen(deterministic=True) == LayerChoice("inductor", "fixed, as the run is deterministic")
    assert chosen("triton", deterministic=True).name == "triton"


def test_what_does_not_work_is_not_measured(monkeypatch: pytest.MonkeyPatch, clock: dict[str, float]) -> None:
    clock.clear()
    monkeypatch.setattr(fused_layers, "why_not_triton", lambda _device, _shapes: "no compiler")
    assert chosen() == LayerChoice("inductor", "not triton: no compiler")
    with pytest.raises(InputError, match="'triton' does not work: no compiler"):
        chosen("triton")


@pytest.mark.usefixtures("clock")
def test_a_measurement_that_finds_no_memory_leaves_the_run_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(fused_layers, "measured", failing)
    assert chosen() == LayerChoice("inductor", "not measured: CUDA out of memory.")


def test_a_cpu_has_no_triton() -> None:
    with pytest.raises(InputError, match="it needs a GPU"):
        chosen("triton", CPU)


def test_a_failing_triton_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> str:
        raise OSError("no driver\nat all")

    monkeypatch.setattr(fused_layers, "disagreement", failing)
    monkeypatch.setattr(fused_layers, "_generators_kept", lambda _device: torch.random.fork_rng([]))
    assert fused_layers.why_not_triton(CUDA, SHAPES) == "no driver"


@pytest.mark.usefixtures("_interpreted")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_triton_parts_agree_with_torchs(dtype: torch.dtype) -> None:
    shapes = replace(SHAPES, dtype=dtype)
    assert disagreement(CPU, shapes) is None
    assert mask_problem(CPU, shapes) is None


@pytest.mark.usefixtures("_interpreted")
def test_wrong_numbers_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from bertjobs.model import triton_layer

    right_backward, right = triton_layer.gelu_backward, triton_layer.add_norm

    def one_row_less(gradient: Tensor, inputs: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
        result, sums = right_backward(gradient, inputs, approximate)
        return result, sums - result[-1]

    monkeypatch.setattr(triton_layer, "gelu_backward", one_row_less)
    problem = disagreement(CPU, SHAPES)
    assert problem is not None
    assert problem.startswith("gradient of intermediate.dense.bias differs from the reference by ")
    monkeypatch.setattr(triton_layer, "add_norm", lambda *arguments: right(*arguments[:-1], arguments[-1] + 1))
    assert mask_problem(CPU, SHAPES) == "dropout's backward pass has another mask"
    monkeypatch.setattr(triton_layer, "add_norm", lambda *arguments: right(*arguments[:-3], 0.2, *arguments[-2:]))
    assert str(mask_problem(CPU, SHAPES)).startswith("dropout drops a share of 0.")
    large = replace(SHAPES, model=replace(MODEL, hidden_size=8192))
    assert disagreement(CPU, large) == "a hidden size of 8192 is above 4096"


@pytest.mark.usefixtures("_interpreted")
def test_both_ways_are_measured_in_turns_with_dropout_and_no_generator_moves() -> None:
    calls: list[list[Tensor]] = []

    def seconds(call: Any) -> float:
        calls.append(call())
        return (5.0, 1.0, 4.0, 2.0, 3.0, 3.0)[len(calls) - 1]

    before = torch.get_rng_state()
    assert measured(CPU, SHAPES, seconds=seconds) == {"inductor": 4.0, "triton": 2.0}
    assert torch.equal(torch.get_rng_state(), before)
    outputs = [tensors[0] for tensors in calls]
    assert not torch.equal(outputs[1], outputs[3])  # other masks
    assert all(output.shape == (64, 128) for output in outputs)


def test_the_parts_that_a_choice_means() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from bertjobs.model import triton_layer

    parts = choose_parts(CPU, "triton")
    assert (parts.project, parts.finish) == (triton_layer.project, triton_layer.finish)
    assert replace(parts, project=EAGER.project, finish=EAGER.finish) == EAGER
    assert choose_parts(CUDA, "eager") is EAGER
    assert choose_parts(CUDA, "inductor", compiles=False) is EAGER
