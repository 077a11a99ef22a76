"""Which code computes what lies between a layer's matrix products: inductor's or ours in Triton, chosen at run start.

The faster on this device and these shapes, after both gave the same numbers. Not "auto" are names that say it all:
"eager", "inductor" (torch.compile, `bertjobs.model.compiled`), "triton" (`bertjobs.model.triton_layer`).
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bertjobs.errors import InputError, first_line
from bertjobs.model.attention import SequenceLayout
from bertjobs.model.bert import Layer
from bertjobs.model.compiled import choose_parts
from bertjobs.model.dropout import rounded_rate
from bertjobs.model.packed import EAGER, TokenWise, run_layer
from bertjobs.recipe.spec import ModelSpec

CHECKED_ROWS = 515
ROUNDS, STEPS = 3, 5
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""How far a tensor may be from the reference, as a share of its length. Float32 products may be rounded to tf32."""

Seconds = Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class LayerChoice:
    """What a run computes its layers with.

    Attributes:
        name: "eager", "inductor" or "triton".
        why: how it was chosen, for people.
    """

    name: str
    why: str

    def describe(self) -> str:
        """Words for the log."""
        return f"fused layers: {self.name} ({self.why})"


@dataclass(frozen=True)
class LayerShapes:
    """What layers are measured with.

    Attributes:
        model: of the layers.
        tokens: of a pack.
        dtype: autocast's, else float32.
    """

    model: ModelSpec
    tokens: int
    dtype: torch.dtype


def choose_layers(
    name: str, device: torch.device, shapes: LayerShapes, *, compiles: bool, deterministic: bool, mode: str = "default"
) -> LayerChoice:
    """The choice of a run; several ranks have to take that of one of them.

    Args:
        name: "auto", "inductor" or "triton".
        compiles: whether the run asks for compiled parts.
        deterministic: "auto" must not depend on a clock.
        mode: of compiled parts.

    Raises:
        InputError: "triton" is asked for by its name, and does not work here.
    """
    if name == "triton":
        if (problem := why_not_triton(device, shapes)) is not None:
            where = f"fused_layers, on {device}"
            raise InputError(f"'triton' does not work: {problem}", where=where, hint="choose fused_layers 'auto'")
        return LayerChoice(name, "as asked for")
    if not compiles or device.type == "cpu":
        return LayerChoice("eager", "compile is false" if not compiles else "the fastest on CPUs")
    if name != "auto":
        return LayerChoice(name, "as asked for")
    if deterministic:
        return LayerChoice("inductor", "fixed, as the run is deterministic")
    if (problem := why_not_triton(device, shapes)) is not None:
        return LayerChoice("inductor", f"not triton: {problem}")
    try:
        seconds = measured(device, shapes, mode)
    except RuntimeError as failure:  # no memory left, above all
        return LayerChoice("inductor", f"not measured: {first_line(failure)}")
    times = ", ".join(f"{way} {took * 1e3:.2f}" for way, took in seconds.items())
    return LayerChoice(min(seconds, key=lambda way: seconds[way]), f"ms per layer without attention: {times}")


def why_not_triton(device: torch.device, shapes: LayerShapes) -> str | None:
    """Why the Triton parts cannot be used: they fail, or their output, gradients or masks are not right."""
    if device.type != "cuda":
        return "it needs a GPU"
    try:
        with _generators_kept(device):
            return disagreement(device, shapes) or mask_problem(device, shapes)
    except Exception as failure:  # Triton, its compiler, its driver: much can be missing, in many ways
        return first_line(failure)


def _generators_kept(device: torch.device) -> AbstractContextManager[Any]:
    """What is drawn inside is drawn again after."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def disagreement(device: torch.device, shapes: LayerShapes) -> str | None:
    """Where a layer's output or gradients differ from those of torch's own parts, without dropout."""
    from bertjobs.model.triton_layer import LARGEST

    if shapes.model.hidden_size > LARGEST:
        return f"a hidden size of {shapes.model.hidden_size} is above {LARGEST}"
    sample = _Sample(device, replace(shapes, tokens=CHECKED_ROWS))
    sample.layer.eval()
    names = ["output", "gradient of the input", *(f"gradient of {name}" for name, _ in sample.layer.named_parameters())]
    actual, expected = (sample.run(parts) for parts in (_triton(), EAGER))
    for what, one, other in zip(names, actual, expected, strict=True):
        error = float((one.float() - other.float()).norm() / other.float().norm().clamp(min=1e-30))
        if not error <= TOLERANCE[shapes.dtype]:
            return f"{what} differs from the reference by {error:.1e}"
    return None


def mask_problem(device: torch.device, shapes: LayerShapes, probability: float = 0.1) -> str | None:
    """Whether dropout has its rate, to five standard deviations, and its backward pass the same mask."""
    from bertjobs.model.triton_layer import add_norm, add_norm_backward

    ones = torch.ones(CHECKED_ROWS, shapes.model.hidden_size, device=device, dtype=shapes.dtype)
    weight, bias = torch.ones(2, ones.shape[1], device=device)
    seed = torch.full((1,), 11, dtype=torch.int64, device=device)
    _, normalised, scales = add_norm(ones, torch.zeros_like(ones), weight, bias, 1e-12, probability, seed, 0)
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(ones.shape, generator=generator).to(device, ones.dtype)
    of_vectors, _, _ = add_norm_backward(gradient, normalised, scales, weight, probability, seed, 0)
    kept, rate = normalised > 0, rounded_rate(probability)
    dropped = 1 - float(kept.double().mean())
    if abs(dropped - rate) > 5 * (rate * (1 - rate) / kept.numel()) ** 0.5:
        return f"dropout drops a share of {dropped:.4f} instead of {rate:.4f}"
    # A gradient may be exactly zero by chance; it is never other than zero where an element was dropped.
    if bool((of_vectors != 0)[~kept].any()) or float((of_vectors != 0)[kept].double().mean()) < 0.999:
        return "dropout's backward pass has another mask"
    return None


def measured(
    device: torch.device, shapes: LayerShapes, mode: str = "default", seconds: Seconds | None = None
) -> dict[str, float]:
    """Seconds of a layer, forward and backward, without attention, by "inductor" and by "triton": medians of rounds in
    turns. ``seconds``: of a call; the GPU's own clock by default."""
    seconds = seconds or _gpu_seconds
    ways = {"inductor": choose_parts(device, "inductor", mode), "triton": _triton()}
    with _generators_kept(device):
        sample = _Sample(device, shapes)
        for parts in ways.values():
            sample.run(parts)  # compiles
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, parts in ways.items():
                times[way].append(seconds(functools.partial(sample.run, parts)))
    return {way: statistics.median(each) for way, each in times.items()}


def _gpu_seconds(call: Callable[[], object]) -> float:
    call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(STEPS):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / STEPS


def _triton() -> TokenWise:
    """Parts of which a layer's are the Triton ones; the others are not compiled."""
    return choose_parts(torch.device("cpu"), "triton")


class _NoAttention(torch.autograd.Function):
    """In attention's place: takes values as they are; its gradients lie apart, as those of most kernels do."""

    @staticmethod
    def forward(_ctx: Any, _query: Tensor, _key: Tensor, value: Tensor) -> Tensor:
        return value.contiguous()

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, gradient, gradient


def _attend(query: Tensor, key: Tensor, value: Tensor, _layout: SequenceLayout, _dropout: float) -> Tensor:
    return _NoAttention.apply(query, key, value)


class _Sample:
    """A layer in training with random weights, its input and the gradient of its output."""

    def __init__(self, device: torch.device, shapes: LayerShapes):
        size, dtype = shapes.model.hidden_size, shapes.dtype
        torch.manual_seed(0)
        self.layer = Layer(shapes.model).to(device)
        self.hidden = torch.randn(shapes.tokens, size, device=device, dtype=dtype).requires_grad_()
        self.gradient = torch.randn(shapes.tokens, size, device=device, dtype=dtype)
        empty = torch.zeros(1, dtype=torch.int32)
        self.layout = SequenceLayout(empty, empty, 0, 0, 0)
        self.device, self.dtype = device, dtype

    def run(self, parts: TokenWise) -> list[Tensor]:
        """Output, and gradients of the input and the parameters."""
        autocast: AbstractContextManager = nullcontext()
        if self.dtype != torch.float32:
            autocast = torch.autocast(self.device.type, dtype=self.dtype)
        with autocast:
            result = run_layer(self.layer, self.hidden, self.layout, _attend, parts)
        inputs = [self.hidden, *self.layer.parameters()]
        return [result.detach(), *torch.autograd.grad(result, inputs, self.gradient)]
