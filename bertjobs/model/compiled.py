"""The token-wise parts of the unpadded path, compiled by torch.compile: bias, GELU, dropout, residual sum and LayerNorm
become a few kernels, with the matrix products between them as they are.

Each part compiles once for all layers and for each shape: all tokens, and the rows that heads read. Dropout in compiled
code takes its seed from torch's generator, so ``torch.manual_seed`` fixes it as it fixes eager code's, though to other
masks: to keep its bits, a run has to continue with the parts that it began with.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bertjobs.errors import first_line
from bertjobs.model import packed
from bertjobs.model.attention import Attend
from bertjobs.model.bert import BertForPreTraining
from bertjobs.model.packed import EAGER, Pack, TokenWise, by_head, packed_sums

MODES = {"default": "default", "max-autotune": "max-autotune-no-cudagraphs"}
"""`compile_mode` to torch.compile's. With the second, inductor measures its own products against the library's."""


def choose_parts(
    device: torch.device, layers: str = "inductor", mode: str = "default", *, compiles: bool = True
) -> TokenWise:
    """Eager on CPUs; on GPUs compiled, and with ``layers`` "triton" by `triton_layer` instead in each layer.

    ``compiles``: False compiles nothing by torch.compile.

    On a CPU (float32, BERT-base, dropout 0.1) compiled parts took 1.10 times as long as eager ones: their random
    numbers are made one by one. Without dropout they took 0.99.
    """
    compiles = compiles and layers != "eager" and device.type != "cpu"
    parts = compile_parts(device, mode) if compiles else EAGER
    if layers != "triton":
        return parts
    from bertjobs.model import triton_layer

    return replace(parts, project=triton_layer.project, finish=triton_layer.finish)


def compile_parts(device: torch.device, mode: str = "default") -> TokenWise:
    """The parts compiled for a device, or eager, with a warning, where nothing can be compiled.

    Compiled ones have fixed shapes, those of the first pack. ``mode``: one of `MODES`.
    """
    problem = _problem(device)
    if problem is not None:
        warnings.warn(f"training continues without compiled kernels, more slowly: {problem}", stacklevel=2)
        return EAGER
    compiled = functools.partial(torch.compile, fullgraph=True, dynamic=False, mode=MODES[mode])
    return TokenWise(
        embed=compiled(packed.embed),
        project=by_head(compiled(packed.project)),
        finish=compiled(packed.finish),
        score=compiled(packed.score_aligned),
        fixed_shapes=True,
    )


def _problem(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device, determined by compiling a sum."""

    def add(numbers: Tensor) -> Tensor:
        return numbers + 1

    try:
        torch.compile(add, fullgraph=True)(torch.zeros(8, device=device))
    except Exception as error:  # a compiler, a header or a cache folder: much can be missing, in many ways
        return first_line(error)
    return None


def warm_up(
    model: BertForPreTraining,
    pack: Pack,
    attend: Attend,
    parts: TokenWise,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Compile what training on packs of these shapes needs.

    Leaves no trace except the compiled code: no step is taken, gradients and the states of torch's generators stay.

    Args:
        model: the bare one, in training; what wraps it for several ranks would exchange gradients.
        pack: on the model's device; it may be all tail.
        autocast: makes the context of a forward pass.
    """
    device = pack.input_ids.device
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        with autocast():
            sums = packed_sums(model, pack, attend, parts)
        torch.autograd.grad(sums.mlm_loss_sum + sums.nsp_loss_sum, parameters)


def no_recompilation() -> AbstractContextManager[Any]:
    """A context in which torch.compile raises RuntimeError instead of compiling anything more."""
    return torch.compiler.set_stance("fail_on_recompile")
