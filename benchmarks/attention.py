"""Attention on variable lengths: every way that works here, forward and backward, on BERT-large's heads.

    python benchmarks/attention.py [--tokens N,N] [--seconds 0.2] [--dropout 0.1] [--output FILE] [--lines FILE]

One layer, packs of ``--tokens`` tokens whose lengths average about 106 of 128 and 254 of 512; bf16 on a GPU (packs of
65,536 and 32,768 tokens), float32 on a CPU (2,048). On a GPU the kernels are timed by events around many calls, without
the host's part. Medians; "x" is the time divided by that of the first way that ran; "TFLOP/s" counts what the
mathematics requires. Each way's row is printed and added to ``--lines`` as soon as it is measured.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertjobs.bench.device import time_calls
from bertjobs.errors import InputError
from bertjobs.files.atomic import write_json
from bertjobs.files.json_lines import append_line
from bertjobs.model.attention import ATTENTIONS, Attend, SequenceLayout, choose_attention

HEADS, HEAD_SIZE = 16, 64
MEANS = {128: 106, 512: 254}
DEFAULT_TOKENS = {"cuda": [65536, 32768], "cpu": [2048]}
FIRST = ("flash", "triton", "nested")
ORDER = (*FIRST, *sorted(set(ATTENTIONS) - set(FIRST)))
"""The ways that matter most first: the time may be limited."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=sizes, help="of a pack; several, separated by commas")
    parser.add_argument("--seconds", type=float, default=0.2, help="for each direction of each way (0.2)")
    parser.add_argument("--dropout", type=float, default=0.1, help="probability (0.1)")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: the GPU if there is one")
    parser.add_argument("--ways", default="", help="some of them, separated by commas (all)")
    parser.add_argument("--output", type=Path, help="write JSON here")
    parser.add_argument("--lines", type=Path, help="add each row to this file at once, as a JSON line")
    arguments = parser.parse_args()
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"{name}, torch {torch.__version__}, dropout {arguments.dropout}; milliseconds")
    print(
        f"{'tokens':>8}{'longest':>8}{'mean':>6}  {'attention':<14}{'forward':>9}{'backward':>9}{'TFLOP/s':>9}{'x':>7}"
    )
    rows: list[dict[str, Any]] = []
    for tokens in arguments.tokens or DEFAULT_TOKENS[device.type]:
        for longest in MEANS:
            rows += measured(device, longest, tokens, arguments)
    if arguments.output:
        head = {"device": name, "torch": torch.__version__, "dropout": arguments.dropout}
        write_json(arguments.output, {**head, "rows": rows})


def sizes(text: str) -> list[int]:
    """Whole numbers, separated by commas."""
    return [int(word) for word in text.split(",")]


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


def measured(device: torch.device, longest: int, tokens: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way on packs of one size and length; one that fails is a row with its reason."""
    lengths = lengths_of(longest, tokens)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    cumulative = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
    layout = SequenceLayout(
        cumulative_queries=cumulative,
        cumulative_keys=cumulative,
        max_queries=longest,
        max_keys=longest,
        sequences=len(lengths),
    )
    shape = (tokens, HEADS, HEAD_SIZE)
    inputs = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    gradient = torch.randn(shape, device=device, dtype=dtype)
    products = 3 * 4 * HEADS * HEAD_SIZE * sum(length**2 for length in lengths)
    rows: list[dict[str, Any]] = []
    for name in arguments.ways.split(",") if arguments.ways else ORDER:
        row = {"what": "attention", "tokens": tokens, "longest": longest, "mean": round(tokens / len(lengths), 1),
               "attention": name, "dropout": arguments.dropout}  # fmt: skip
        try:
            attention = choose_attention(name, device, dtype, HEAD_SIZE)
            row |= milliseconds(attention, inputs, gradient, layout, arguments)
        except Exception as error:  # a kernel, a compiler, memory: the next way is measured all the same
            reason = error.what if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            row["failed"] = " ".join(reason.split())[:200]
            print(f"{tokens:>8,}{longest:>8}{row['mean']:>6.0f}  {name:<14}left out: {row['failed']}", flush=True)
        else:
            took = row["forward_ms"] + row["backward_ms"]
            rows.append(row)
            first = rows[0]["forward_ms"] + rows[0]["backward_ms"]
            row |= {"tflops": round(products / took / 1e9, 1), "times_the_first": round(took / first, 2)}
            print(
                f"{tokens:>8,}{longest:>8}{row['mean']:>6.0f}  {name:<14}{row['forward_ms']:>9.3f}"
                f"{row['backward_ms']:>9.3f}{row['tflops']:>9.1f}{row['times_the_first']:>7.2f}",
                flush=True,
            )
        if arguments.lines:
            append_line(arguments.lines, row)
    return rows


def milliseconds(
    attention: Attend,
    inputs: list[torch.Tensor],
    gradient: torch.Tensor,
    layout: SequenceLayout,
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """Of the forward and of the backward pass."""
    query, key, value = inputs

    def forward() -> torch.Tensor:
        return attention(query, key, value, layout, arguments.dropout)

    out = forward()

    def backward() -> object:
        return torch.autograd.grad(out, inputs, gradient, retain_graph=True)

    ways = {"forward_ms": forward, "backward_ms": backward}
    return {name: round(1e3 * time_calls(way, out.device, arguments.seconds), 4) for name, way in ways.items()}


if __name__ == "__main__":
    main()
