"""Checkpoints that are copied from a GPU while it continues."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.base import Optimizer
from bertjobs.optim.build import build_optimizer
from bertjobs.recipe.spec import ModelSpec, OptimizerSpec
from bertjobs.train.checkpoint.snapshot import Snapshot, parts_of
from tests.gpu.conftest import GPU
from tests.train.checkpoints import data, progress, update, writers

SPEC = ModelSpec("small", 512, 4, 8, 2048, vocab_size=30522)  # 0.3 GB of weights and moments: 10 ms of copies


def trained() -> tuple[BertForPreTraining, Optimizer]:
    torch.manual_seed(0)
    model = BertForPreTraining(SPEC).to(GPU)
    optimizer = build_optimizer(model, OptimizerSpec(), 0.01, device=GPU)
    for _ in range(2):
        update(model, optimizer)
    return model, optimizer


def copied(model: BertForPreTraining, optimizer: Optimizer) -> dict[str, Tensor]:
    """Weights and moments by their names in a checkpoint; this waits for the GPU."""
    moments = optimizer.moments()
    state = {name: parameter.detach().to("cpu", copy=True) for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        first, second = moments[parameter]
        state |= {f"exp_avg/{name}": first.to("cpu", copy=True), f"exp_avg_sq/{name}": second.to("cpu", copy=True)}
    return state


def test_it_is_copied_to_page_locked_memory() -> None:
    model, optimizer = trained()
    snapshot = Snapshot(model, optimizer, parts_of(model, optimizer, 1), rank=0)
    assert len(snapshot.files) >= 2
    assert all(tensor.is_pinned() for file in snapshot.files for tensor in file.tensors.values())
    snapshot.take(model, optimizer)
    snapshot.wait()
    expected = copied(model, optimizer)
    for file in snapshot.files:
        for name, tensor in file.tensors.items():
            assert torch.equal(tensor, expected[name]), name


def test_steps_right_after_the_snapshot_are_not_in_it(tmp_path: Path) -> None:
    model, optimizer = trained()
    (writer,) = writers(tmp_path)
    writer.reserve(model, optimizer)
    for step in (20, 30):  # the second time into the same memory
        expected = copied(model, optimizer)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        torch.cuda.synchronize()
        writer.begin(model, optimizer, progress(step), data(step))
        optimizer.step()
        update(model, optimizer)
        writer.wait()
        assert writer.error is None
        folder = writer.commit()
        stored = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
        assert expected.keys() <= stored.keys()
        for name, tensor in expected.items():
            assert torch.equal(stored[name], tensor), name
        assert not any(torch.equal(after, expected[name]) for name, after in copied(model, optimizer).items())
