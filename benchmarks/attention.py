"""Attention on variable lengths: every way that works here, forward and backward, on BERT-large's heads.

    python benchmarks/attention.py [--tokens 16384] [--rounds 20] [--dropout 0.1] [--output FILE.json]

One layer, packs of ``--tokens`` tokens whose lengths average about 106 of 128 and 254 of 512; bf16 on a GPU, float32
on a CPU (where fewer tokens will do). Medians; "x" is the time divided by that of the fastest.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertjobs.errors import InputError
from bertjobs.files.atomic import write_json
from bertjobs.model.attention import ATTENTIONS, SequenceLayout, choose_attention

HEADS, HEAD_SIZE = 16, 64
MEANS = {128: 106, 512: 254}
WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=16384, help="of a pack (16384)")
    parser.add_argument("--rounds", type=int, default=20, help="how often each is measured (20)")
    parser.add_argument("--dropout", type=float, default=0.1, help="probability (0.1)")
    parser.add_argument("--output", type=Path, help="write JSON here")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    rows = [row for longest in MEANS for row in measured(device, longest, arguments)]
    print(f"\n{name}, torch {torch.__version__}, {arguments.tokens} tokens, dropout {arguments.dropout}")
    print(f"{'longest':>8}{'mean':>6}  {'attention':<14}{'forward ms':>12}{'backward ms':>13}{'x':>7}")
    for row in rows:
        best = min(r["forward_ms"] + r["backward_ms"] for r in rows if r["longest"] == row["longest"])
        row["times_the_fastest"] = round((row["forward_ms"] + row["backward_ms"]) / best, 2)
        print(
            f"{row['longest']:>8}{row['mean']:>6.0f}  {row['attention']:<14}{row['forward_ms']:>12.3f}"
            f"{row['backward_ms']:>13.3f}{row['times_the_fastest']:>7.2f}"
        )
    if arguments.output:
        head = {"device": name, "torch": torch.__version__, "tokens": arguments.tokens, "dropout": arguments.dropout}
        write_json(arguments.output, {**head, "rows": rows})


def lengths_of(longest: int, tokens: int) -> list[int]:
    """Tokens of sequences, longest first: some full, the others uniform, so that they have about the usual mean."""
    random = np.random.default_rng(0)
    uniform_mean = (longest + 8) / 2
    full_share = max(0.0, (MEANS[longest] - uniform_mean) / (longest - uniform_mean))
    lengths: list[int] = []
    while (left := tokens - sum(lengths)) > longest:
        length = longest if random.random() < full_share else int(random.integers(8, longest))
        if MEANS[longest] < uniform_mean and random.random() < 1 - MEANS[longest] / uniform_mean:
            length = max(8, length // 2)
        lengths.append(min(length, left))
    return sorted([*lengths, left], reverse=True)


def measured(device: torch.device, longest: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    lengths = lengths_of(longest, arguments.tokens)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    cumulative = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
    layout = SequenceLayout(
        cumulative_queries=cumulative,
        cumulative_keys=cumulative,
        max_queries=longest,
        max_keys=longest,
        sequences=len(lengths),
    )
    shape = (arguments.tokens, HEADS, HEAD_SIZE)
    inputs = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    gradient = torch.randn(shape, device=device, dtype=dtype)
    rows = []
    for name in sorted(ATTENTIONS):
        try:
            attention = choose_attention(name, device, dtype, HEAD_SIZE)
        except InputError as error:
            print(f"{name}: left out: {error.what}")
            continue

        def forward(attention: Callable[..., torch.Tensor] = attention) -> torch.Tensor:
            return attention(*inputs, layout, arguments.dropout)

        out = forward()
        rows.append(
            {
                "longest": longest,
                "mean": arguments.tokens / len(lengths),
                "attention": name,
                "forward_ms": milliseconds(forward, device, arguments.rounds),
                "backward_ms": milliseconds(
                    lambda out=out: torch.autograd.grad(out, inputs, gradient, retain_graph=True),  # type: ignore[misc]
                    device,
                    arguments.rounds,
                ),
            }
        )
    return rows


def milliseconds(call: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The median time of a call."""
    times = []
    for number in range(WARM_UP + rounds):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= WARM_UP:
            times.append(1e3 * (time.perf_counter() - started))
    return round(statistics.median(times), 4)


if __name__ == "__main__":
    main()
