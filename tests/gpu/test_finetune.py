"""A task's loss, gradients and outputs on a GPU are those of a CPU, in each precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bertjobs.finetune.batches import make_batch
from bertjobs.finetune.forward import open_forward
from bertjobs.finetune.model import BertForTask
from bertjobs.train.precision import AUTOCAST, autocast
from tests.finetune.nano import HEADS, NANO, made_rows, nano_forward, written
from tests.gpu.conftest import GPU

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Of a gradient, by its largest number."""


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", HEADS)
def test_loss_and_gradients_are_those_of_a_cpu(tmp_path: Path, name: str, precision: str) -> None:
    head = HEADS[name]
    rows = made_rows(head, 12)
    batch = make_batch(written(tmp_path / "split", rows), np.arange(len(rows)), head)
    cpu = nano_forward(head)
    model = BertForTask(NANO, head).to(GPU)
    model.load_state_dict(cpu.model.state_dict())
    gpu = open_forward(model, precision, GPU)
    (expected,) = cpu(batch)
    with autocast(precision, GPU):
        (term,) = gpu(batch)
    rounding = TOLERANCE[precision]
    assert term.loss_sum.dtype == torch.float32
    assert float(term.loss_sum) == pytest.approx(float(expected.loss_sum), rel=rounding)
    assert int(term.count) == int(expected.count)
    expected.loss_sum.backward()
    (term.loss_sum * (1024.0 if precision in AUTOCAST else 1.0)).backward()
    theirs = dict(cpu.model.named_parameters())
    for parameter_name, parameter in model.named_parameters():
        right = theirs[parameter_name].grad
        assert right is not None
        assert parameter.grad is not None
        ours = parameter.grad.cpu() / (1024.0 if precision in AUTOCAST else 1.0)
        assert (ours - right).abs().max() <= rounding * max(float(right.abs().max()), 1e-3), parameter_name
