"""How long training pauses for a checkpoint of BERT-base, against the time until the checkpoint exists.

    .venv/bin/python benchmarks/checkpoint.py [--checkpoints 5] [--folder FOLDER] [--output FILE.json]

The weights and the moments of LAMB are 1.3 GB. Measured on one rank, and on two over gloo, each a process with one
torch thread, on a GPU where there is one. Between the snapshot and the commit each rank trains: forward, backward and
LAMB's step on a few random sequences, as small as a step can be. "stall": what training waits for, in the call that
begins a checkpoint, before the optimizer's step until all is copied, and in the call that commits; the longest of any
rank. On a GPU it is the time of the copies, which are waited for. "wall": from the beginning until the folder has its
name. Medians of the checkpoints after the first, and the largest share of the wall time in which training paused;
the median share decides. "step": one without a checkpoint, and the longest with one, slowed down by the threads
that write. The host memory is allocated before the first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed

from bertjobs.data.batches.order import StreamState
from bertjobs.files.atomic import write_json
from bertjobs.launch.local import free_port
from bertjobs.model.bert import BertForPreTraining
from bertjobs.optim.groups import parameter_groups
from bertjobs.optim.lamb import Lamb
from bertjobs.recipe.spec import ModelSpec
from bertjobs.run.checkpoints import newest_valid
from bertjobs.run.directory import PhaseDirectory
from bertjobs.train.checkpoint.state import Progress, read_training_state
from bertjobs.train.checkpoint.writer import CheckpointSeries, CheckpointWriter
from bertjobs.train.pretraining.objective import description_of

BERT_BASE = ModelSpec("bert-base", 768, 12, 12, 3072, vocab_size=30522)
LIMIT = 0.1  # of a checkpoint's wall time
SEQUENCES, LENGTH = 4, 128
TIMES = ("stall_s", "wall_s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=5, help="how many each process writes")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; the system's temporary one otherwise")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    parser.add_argument("--child", nargs=3, metavar="ARGUMENT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        rank, world_size, port = map(int, args.child)
        print(json.dumps(measure(args.folder, rank, world_size, port, args.checkpoints)))
        return
    print("ranks  checkpoint (MB)  allocating (s)  stall, first (s)  stall (s)  wall (s)  share  largest  step (s)  "
          "longest (s)  verifying (s)  loading (s)")  # fmt: skip
    figures = [run(ranks, args.checkpoints, args.folder) for ranks in (1, 2)]
    worst = max(figure["share"] for figure in figures)
    print(f"{worst:.1%} of the wall time at most: {'within' if worst < LIMIT else 'NOT within'} {LIMIT:.0%}")
    if args.output:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count(),
                   "torch": torch.__version__, "device": device}  # fmt: skip
        write_json(args.output, {"date": time.strftime("%Y-%m-%d"), **machine, "runs": figures})
    sys.exit(worst >= LIMIT)


def run(ranks: int, checkpoints: int, parent: Path | None) -> dict[str, Any]:
    """Measure with ``ranks`` ranks and print a line of the table: rank 0's figures, but the longest stall of any."""
    port = free_port()
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        own = ["--folder", folder, "--checkpoints", str(checkpoints)]
        children = [
            subprocess.Popen([sys.executable, __file__, *own, "--child", str(rank), str(ranks), str(port)],
                             stdout=subprocess.PIPE, text=True)
            for rank in range(ranks)
        ]  # fmt: skip
        outputs = [child.communicate()[0] for child in children]
        if any(child.returncode for child in children):
            sys.exit("a rank has failed")
    all_ranks = [json.loads(output) for output in outputs]
    figure = all_ranks[0] | {
        key: [max(values) for values in zip(*(rank[key] for rank in all_ranks), strict=True)] for key in TIMES
    }
    stall, wall = (figure[key] for key in TIMES)
    shares = [part / whole for part, whole in zip(stall, wall, strict=True)]
    figure |= {"ranks": ranks, "share": median(shares[1:]), "share_largest": max(shares[1:]), "share_first": shares[0]}
    print(f"{ranks:5}  {figure['checkpoint_mb']:15.0f}  {figure['allocate_s']:14.2f}  {stall[0]:16.3f}  "
          f"{median(stall[1:]):9.3f}  {median(wall[1:]):8.2f}  {figure['share']:5.1%}  "
          f"{figure['share_largest']:7.1%}  {figure['step_s']:8.2f}  {figure['step_longest_s']:11.2f}  "
          f"{figure['verify_s']:13.2f}  {figure['load_s']:11.2f}", flush=True)  # fmt: skip
    return figure


def measure(folder: Path, rank: int, world_size: int, port: int, checkpoints: int) -> dict[str, Any]:
    """Write checkpoints as one of the ranks."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if world_size > 1:
        distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    device = torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else "cpu"
    model = BertForPreTraining(BERT_BASE).to(device)
    optimizer = Lamb(parameter_groups(model, 0.01), 1e-3)
    moments = {p: (1e-3 * torch.randn_like(p), 1e-6 * torch.rand_like(p)) for p in model.parameters()}
    optimizer.load_moments({p: (m.detach(), v.detach()) for p, (m, v) in moments.items()}, 100)
    directory = PhaseDirectory(folder / "phase1", 1)
    directory.create()
    vocabulary = folder / f"vocab-{rank}.txt"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(BERT_BASE.vocab_size - 5))]
    vocabulary.write_text("".join(f"{word}\n" for word in words))
    description = partial(description_of, BERT_BASE, vocabulary, lowercase=True)
    series = CheckpointSeries(directory, "0" * 64, {}, description, "0-0", rank, world_size)
    writer = CheckpointWriter(series)
    started = time.perf_counter()
    writer.reserve(model, optimizer)
    allocate_s = time.perf_counter() - started
    steps = [one_step(model, optimizer) for _ in range(4)]
    progress, times = Progress(), []
    slowed: list[float] = []
    for _ in range(checkpoints):
        progress = replace(progress, step=progress.step + 100)
        total(0)  # all begin together
        times.append(one_checkpoint(writer, model, optimizer, progress, slowed))
        writer.wait()
    figure: dict[str, Any] = {"allocate_s": allocate_s, "step_s": median(steps[1:]), "step_longest_s": max(slowed)}
    figure |= {name: list(each) for name, each in zip(TIMES, zip(*times, strict=True), strict=True)}
    if rank == 0:
        started = time.perf_counter()
        newest, damaged = newest_valid(directory.checkpoints)
        verified = time.perf_counter()
        assert newest is not None
        assert not damaged
        assert read_training_state(newest, model, optimizer).step == progress.step
        figure["checkpoint_mb"] = sum(file.stat().st_size for file in newest.iterdir()) / 1e6
        figure |= {"verify_s": verified - started, "load_s": time.perf_counter() - verified}
    total(0)
    return figure


def one_checkpoint(
    writer: CheckpointWriter, model: BertForPreTraining, optimizer: Lamb, progress: Progress, steps: list[float]
) -> tuple[float, float]:
    """Seconds of one checkpoint, by ``TIMES``; those of the steps meanwhile go to ``steps``."""
    started = time.perf_counter()
    writer.begin(model, optimizer, progress, StreamState(0, 0, progress.step, 1, "0" * 64))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin_s = time.perf_counter() - started
    while True:
        steps.append(one_step(model, optimizer))
        if not total(writer.state == "writing"):
            break
    if writer.error is not None:
        raise writer.error
    before = time.perf_counter()
    writer.commit()
    ended = time.perf_counter()
    return max(begin_s, writer.stall_s) + ended - before, ended - started


def one_step(model: BertForPreTraining, optimizer: Lamb) -> float:
    """Seconds of a step on ``SEQUENCES`` random ones of ``LENGTH`` tokens; ranks do not exchange gradients."""
    started = time.perf_counter()
    device = next(model.parameters()).device
    tokens = torch.randint(1000, BERT_BASE.vocab_size, (SEQUENCES, LENGTH), device=device)
    labels = torch.where(torch.rand(tokens.shape, device=device) < 0.15, tokens, -1)
    out = model(tokens, torch.zeros_like(tokens), torch.ones_like(tokens), labels, tokens[:, 0] % 2)
    (out.mlm_loss_sum + out.nsp_loss_sum).backward()
    optimizer.step()
    optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def total(count: int) -> int:
    """The sum over ranks."""
    tensor = torch.tensor(int(count))
    if distributed.is_initialized():
        distributed.all_reduce(tensor)
    return int(tensor)


if __name__ == "__main__":
    main()
