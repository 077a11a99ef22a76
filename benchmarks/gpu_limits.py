"""What this device can do at most: copies, a large matrix product, and the products of BERT-large's step.

    python benchmarks/gpu_limits.py [--tokens N,N] [--size 8192] [--seconds 0.1] [--device cuda|cpu] [--lines FILE]

Copies: bytes read plus bytes written per second, from one buffer of ``--copy-mb`` MB to another. Products, in bf16 on a
GPU (float32 on a CPU) and on random numbers: ``--size`` cubed, and each product of a layer and of the masked-LM head on
packs of ``--tokens`` tokens: forward, and for the input's and the weight's gradient. Weights, which are trained in
float32, are in bf16 here, as autocast has them. A row is printed and added to ``--lines`` as soon as it is measured.

"share" is of the rate of the product of ``--size``. The last rows are sums over a layer: what a step of BERT-large
could reach if it consisted of its layers' products alone.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertjobs.bench.device import time_calls
from bertjobs.files.json_lines import append_line

HIDDEN, INNER, VOCABULARY, MASKED_SHARE = 1024, 4096, 30522, 0.155


@dataclass(frozen=True)
class Projection:
    """A linear map from ``inputs`` to ``outputs`` numbers of each of ``rows`` rows."""

    name: str
    rows: int
    inputs: int
    outputs: int
    in_layer: bool = True

    @property
    def flops(self) -> float:
        """Of one of its three products."""
        return 2.0 * self.rows * self.inputs * self.outputs


def projections(tokens: int, hidden: int, inner: int, vocabulary: int) -> list[Projection]:
    """Those of a layer, and the masked-LM head's without and with columns that align it."""
    masked = max(8, round(tokens * MASKED_SHARE))
    return [
        Projection("query, key, value", tokens, hidden, 3 * hidden),
        Projection("attention's output", tokens, hidden, hidden),
        Projection("widen", tokens, hidden, inner),
        Projection("narrow", tokens, inner, hidden),
        Projection("head", masked, hidden, vocabulary, in_layer=False),
        Projection("head, aligned", masked, hidden, -(-vocabulary // 64) * 64, in_layer=False),
    ]


def products(
    projection: Projection, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The three products as the step has them, each on its own tensors: their names and what computes them."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    x, weight = normal(projection.rows, projection.inputs), normal(projection.outputs, projection.inputs)
    gradient = normal(projection.rows, projection.outputs)
    yield "forward", lambda: x @ weight.t()
    yield "input's gradient", lambda: gradient @ weight
    yield "weight's gradient", lambda: gradient.t() @ x


def main() -> None:
    """Measure everything that fits the memory, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("--tokens", type=lambda text: [int(word) for word in text.split(",")], help="of packs (65536,32768)")
    option("--size", type=int, help="of the square product (8192; 1024 on a CPU)")
    option("--copy-mb", type=int, help="megabytes of the copied buffer (4096; 64 on a CPU)")
    option("--hidden", type=int, default=HIDDEN, help="width of the model (%(default)s)")
    option("--inner", type=int, default=INNER, help="width inside a layer (%(default)s)")
    option("--vocabulary", type=int, default=VOCABULARY, help="tokens (%(default)s)")
    option("--seconds", type=float, default=0.1, help="of each measurement (%(default)s)")
    option("--device", choices=("cuda", "cpu"), help="default: the GPU if there is one")
    option("--lines", type=Path, help="add each row to this file at once, as a JSON line")
    args = parser.parse_args()
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    gpu = device.type == "cuda"
    name = torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU"
    print(f"{name}, torch {torch.__version__}, {'bf16' if gpu else 'float32'}")
    measure(device, args, Table(args.lines, name))


class Table:
    """Rows as they come: printed, and kept as JSON lines."""

    def __init__(self, lines: Path | None, device: str):
        self._lines, self._device = lines, device

    def add(self, what: str, words: str, **fields: Any) -> None:
        """A row of a kind, with what it shows."""
        print(f"  {words}", flush=True)
        if self._lines:
            append_line(self._lines, {"what": what, "device": self._device, **fields})


def measure(device: torch.device, args: argparse.Namespace, table: Table) -> None:
    """All rows, the most telling first."""
    gpu = device.type == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    measure_copy(device, (args.copy_mb or (4096 if gpu else 64)) * 1_000_000, args.seconds, table)
    size = args.size or (8192 if gpu else 1024)
    square = Projection("square", size, size, size)
    _, call = next(products(square, device, dtype))
    peak = square.flops / time_calls(call, device, 3 * args.seconds)
    table.add("square product", f"{size}^3: {peak / 1e12:.4g} TFLOP/s", size=size, tflops=peak / 1e12)
    for tokens in args.tokens or ([65536, 32768] if gpu else [512]):
        seconds, flops = 0.0, 0.0
        for projection in projections(tokens, args.hidden, args.inner, args.vocabulary):
            for direction, call in products(projection, device, dtype):
                try:
                    took = time_calls(call, device, args.seconds)
                except RuntimeError as error:  # memory; the others are measured all the same
                    reason = " ".join(str(error).split())[:120]
                    table.add("product failed", f"{projection.name}, {direction}: {reason}", product=projection.name,
                              tokens=tokens, failed=reason)  # fmt: skip
                    continue
                rate = projection.flops / took
                if projection.in_layer:
                    seconds, flops = seconds + took, flops + projection.flops
                table.add(
                    "product",
                    f"{tokens:>7,} tokens  {projection.name:<20}{direction:<18}{1e3 * took:>9.3f} ms"
                    f"{rate / 1e12:>8.4g} TFLOP/s{rate / peak:>7.0%}",
                    tokens=tokens, product=projection.name, direction=direction, ms=1e3 * took, tflops=rate / 1e12,
                    share=rate / peak,
                )  # fmt: skip
        if seconds:
            rate = flops / seconds
            table.add(
                "products of a layer",
                f"{tokens:>7,} tokens  {'all of a layer':<38}{1e3 * seconds:>9.3f} ms{rate / 1e12:>8.4g} TFLOP/s"
                f"{rate / peak:>7.0%}",
                tokens=tokens, ms=1e3 * seconds, tflops=rate / 1e12, share=rate / peak,
            )  # fmt: skip


def measure_copy(device: torch.device, size: int, seconds: float, table: Table) -> None:
    """Bytes per second of copies on the device, and of a sum of two bf16 tensors into a third."""
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    rate = 2 * source.nbytes / time_calls(lambda: target.copy_(source), device, 2 * seconds)
    table.add("copy", f"copies: {rate / 1e12:.4g} TB/s, read and written", gb=size / 1e9, tb_per_s=rate / 1e12)
    one, two, out = (part.view(torch.bfloat16) for part in (source, target, torch.empty_like(source)))
    rate = 3 * source.nbytes / time_calls(lambda: torch.add(one, two, out=out), device, 2 * seconds)
    table.add("sum", f"sums of two tensors: {rate / 1e12:.4g} TB/s, read and written", gb=size / 1e9,
              tb_per_s=rate / 1e12)  # fmt: skip


if __name__ == "__main__":
    main()
