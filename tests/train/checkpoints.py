"""A small model with an optimizer that has taken steps, and the writers of all ranks in one process."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bertjobs.data.batches.order import StreamState
from bertjobs.files.json_lines import append_line
from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.base import Optimizer
from bertjobs.optim.groups import parameter_groups
from bertjobs.optim.lamb import Lamb
from bertjobs.optim.loss_scale import DynamicLossScale
from bertjobs.optim.sharding import StateShare
from bertjobs.recipe.spec import ModelSpec
from bertjobs.run.directory import PhaseDirectory
from bertjobs.train.checkpoint.state import Progress
from bertjobs.train.checkpoint.writer import CheckpointSeries, CheckpointWriter
from bertjobs.train.pretraining.objective import description_of

SPEC = ModelSpec("tiny", 24, 2, 3, 40, vocab_size=41, max_position_embeddings=16, initializer_range=0.3)
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "union", "state", "##s")
SETTINGS = {"precision": "fp16", "optimizer.beta1": 0.9, "phase1.lr": 0.01}


def trained(updates: int = 3, spec: ModelSpec = SPEC) -> tuple[BertForPreTraining, Lamb]:
    """A model and its optimizer after some updates with random gradients."""
    torch.manual_seed(7)
    model = BertForPreTraining(spec)
    optimizer = Lamb(parameter_groups(model, 0.01), 0.01)
    for _ in range(updates):
        update(model, optimizer)
    return model, optimizer


def update(model: BertForPreTraining, optimizer: Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def untrained(spec: ModelSpec = SPEC, shard: StateShare | None = None) -> tuple[BertForPreTraining, Lamb]:
    """Another model of the same shape; its optimizer has no moments."""
    torch.manual_seed(8)
    model = BertForPreTraining(spec)
    return model, Lamb(parameter_groups(model, 0.01), 0.01, **({"shard": shard} if shard else {}))


def progress(step: int) -> Progress:
    return Progress(step, 2, DynamicLossScale(512.0, 7))


def data(step: int) -> StreamState:
    return StreamState(1, 5 * step, step, 42, "d" * 64, ("train/shard-3",))


def writers(root: Path, world_size: int = 1, *, keep: int = 3) -> list[CheckpointWriter]:
    """One writer per rank, for phase 1 below ``root``."""
    directory = PhaseDirectory(root / "phase1", 1)
    directory.create()
    return [
        CheckpointWriter(
            CheckpointSeries(directory, "abc", SETTINGS, description(root), "17-0", rank, world_size, keep)
        )
        for rank in range(world_size)
    ]


def description(root: Path) -> Callable[[], dict[str, bytes]]:
    """The small files of the model's folder, with a vocabulary that lies below ``root``."""
    vocabulary = root / "words.txt"
    vocabulary.write_text("".join(f"{word}\n" for word in WORDS))
    return lambda: description_of(SPEC, vocabulary, lowercase=True)


def begin(ranks: Sequence[CheckpointWriter], step: int, model: BertForPreTraining, *optimizers: Optimizer) -> None:
    """All ranks take their snapshot and write it; with one optimizer it is that of all."""
    for rank, writer in enumerate(ranks):
        writer.begin(model, optimizers[rank if len(optimizers) > 1 else 0], progress(step), data(step))
    for writer in ranks:
        writer.wait()


def write(ranks: Sequence[CheckpointWriter], step: int, model: BertForPreTraining, *optimizers: Optimizer) -> Path:
    """Write a checkpoint, from the snapshot to the final rename."""
    begin(ranks, step, model, *optimizers)
    assert [writer.state for writer in ranks] == ["written"] * len(ranks), [writer.error for writer in ranks]
    folders = {writer.commit() for writer in ranks}
    for writer in ranks:
        writer.wait()
    (folder,) = folders
    return folder


def named_moments(model: BertForPreTraining, optimizer: Optimizer) -> dict[str, tuple[Tensor, Tensor]]:
    """Copies of an optimizer's moments by the parameters' names."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: (m.clone(), v.clone()) for parameter, (m, v) in optimizer.moments().items()}


def same_moments(one: dict[str, tuple[Tensor, Tensor]], two: dict[str, tuple[Tensor, Tensor]]) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(mine, yours) for name in one for mine, yours in zip(one[name], two[name], strict=True)
    )


def write_for_ever(root: Path, model: BertForPreTraining, optimizer: Optimizer) -> None:
    """Write checkpoints on two ranks, and record the finished ones in ``root/steps-written``."""
    ranks = writers(root, 2)
    for step in itertools.count(1):
        write(ranks, step, model, optimizer)
        append_line(root / "steps-written", {"step": step})


def kill_writers(root: Path, count: int) -> None:
    """Start ``count`` processes, one after the other, that write forever, and kill each at a random moment."""
    draw, fork, state = random.Random(2026), multiprocessing.get_context("fork"), trained()
    for number in range(count):
        (root / str(number)).mkdir()
        process = fork.Process(target=write_for_ever, args=(root / str(number), *state))
        process.start()
        while not (root / str(number) / "steps-written").exists():
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, 0.1))
        process.kill()
        process.join()


def write_into_a_pipe(root: Path) -> None:
    """Begin a checkpoint whose weights go into a pipe that no process reads."""
    (writer,) = writers(root)
    folder = root / "phase1" / "checkpoints" / ".tmp-step-00000020-17-0-1"
    folder.mkdir()
    os.mkfifo(folder / "model.safetensors")
    writer.begin(*trained(), progress(20), data(20))
    assert writer.state == "writing"
