"""What a packed step of BERT-large costs on a GPU, computed without one: operations and bytes of each of its parts.

    .venv/bin/python benchmarks/costs.py [--output FILE.json] [--product-tflops 610] [--copy-tb 3.9] ...

The token-wise parts are captured as torch.compile captures them (forward and backward graphs, autocast to bf16, dropout
0.1, on tensors without contents), for the packs of the recipe h200. Counted are:

- matrix products: their operations, at the rate of products of such shapes;
- everything between two products as one kernel, as torch's compiler fuses it: it reads each tensor that comes from
  outside once and writes each that is used outside once; sums over all tokens (of biases and LayerNorms) read again;
- random numbers: one draw per element that dropout decides on;
- attention: whole tiles of 64 x 64 of each sequence's scores, at a rate that flash kernels reach with heads of 64 and
  dropout, and the bytes of its tensors; and its gradients' copy into one tensor;
- lookups, gradients added up over micro-batches, and LAMB: bytes.

The rates are those of one H200 as others have published or measured them, see `RATES`. What is left out: launches, the
host, and whatever overlaps. benchmarks/gpu_summary.py shows the prediction beside what is measured.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captured_graphs import bytes_of, captured, draws_of, kernels_of, products_of
from torch import Tensor

from bertjobs.bench.profile import ATTENTION, ELEMENTWISE, INDEXING, LOSS, OPTIMIZER, PRODUCTS
from bertjobs.bench.sequences import VOCABULARY_SIZE, synthetic_data
from bertjobs.bench.sweep import rank_step
from bertjobs.data.batches.packed_batches import PackedBatch
from bertjobs.files.atomic import write_json
from bertjobs.model import packed
from bertjobs.model.packed import Affine, Normalised
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.flops import StepCounts, step_flops
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.size import parameter_count
from bertjobs.recipe.spec import ModelSpec, PhaseSpec, RunSpec
from bertjobs.train.pretraining.measures import counts_of

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks/results/costs.json"
RANDOM = "random numbers"
KINDS = (PRODUCTS, ATTENTION, ELEMENTWISE, RANDOM, INDEXING, LOSS, OPTIMIZER)
BF16 = torch.bfloat16
TILE = 64  # rows and columns of scores that a flash kernel computes whole
LAMB_BYTES = 44  # a parameter: its gradient for the norm; g, p, m, v read; m, v, u written; u, p read; p written


@dataclass(frozen=True)
class Rates:
    """What one GPU reaches.

    Attributes:
        square_product_tflops: a large square product in bf16: the peak that shares are of.
        product_tflops: the products of a layer.
        attention_tflops: a flash kernel on whole tiles, heads of 64, with dropout.
        copy_tb_per_s: bytes read plus written.
        draws_per_ns: random numbers of Philox.
    """

    square_product_tflops: float = 790.0
    product_tflops: float = 610.0
    attention_tflops: float = 250.0
    copy_tb_per_s: float = 3.9
    draws_per_ns: float = 300.0


@dataclass(frozen=True)
class Cost:
    """Of one part: operations of products, bytes read and written, random draws; ``times`` in a micro-batch."""

    part: str
    kind: str
    times: int = 1
    flops: float = 0.0
    bytes: float = 0.0
    draws: float = 0.0

    def milliseconds(self, rates: Rates) -> float:
        """Of all times together."""
        rate = rates.attention_tflops if self.kind == ATTENTION else rates.product_tflops
        seconds = (
            self.flops / rate / 1e12 + self.bytes / rates.copy_tb_per_s / 1e12 + self.draws / rates.draws_per_ns / 1e9
        )
        return 1e3 * self.times * seconds


def part_costs(
    part: str, function: Callable[..., Any], make_arguments: Callable[[], Sequence[Any]], times: int,
    kind: str = ELEMENTWISE,
) -> list[Cost]:  # fmt: skip
    """A compiled part's products, its other kernels (of a ``kind``), and its random numbers."""
    graphs = captured(function, make_arguments)
    moved = sum(bytes_of(kernel) for graph in graphs for kernel in kernels_of(graph))
    return [
        Cost(part, PRODUCTS, times, flops=sum(map(products_of, graphs))),
        Cost(part, kind, times, bytes=moved),
        Cost(part, RANDOM, times, draws=sum(map(draws_of, graphs))),
    ]


# The step: which parts it has, on packs of which shapes.


@dataclass(frozen=True)
class Shapes:
    """A pack of a recipe's phase.

    Attributes:
        tokens, slots, predictions: places for tokens, sequences and masked tokens.
        counts: of the sequences in it.
        scores: whole tiles of the scores of one head, for all queries.
        read_scores: the same for the rows that heads read.
    """

    tokens: int
    slots: int
    predictions: int
    counts: StepCounts
    scores: float
    read_scores: float


def shapes_of(spec: RunSpec, phase: PhaseSpec) -> Shapes:
    """Those of a run's packs, and what is in one of them on average, on sequences as long as articles'."""
    data = synthetic_data(spec, phase)
    packs = rank_step(spec, phase, data, phase.micro_batch, torch.device("cpu"))
    first = packs[0]
    assert isinstance(first, PackedBatch)
    counts = StepCounts(*(round(count / len(packs)) for count in counts_of(packs)))
    rows = data.shards.kept
    lengths = data.shards.num_tokens(rows)
    read = data.masking.predictions(data.shards, rows) + 1
    per_sequence = counts.sequences / len(rows)

    def tiles(numbers: Any) -> Any:
        return TILE * np.ceil(numbers / TILE)

    return Shapes(
        tokens=len(first.input_ids),
        slots=len(first.first_tokens),
        predictions=len(first.labels),
        counts=counts,
        scores=per_sequence * float((tiles(lengths) ** 2).sum()),
        read_scores=per_sequence * float((tiles(read) * tiles(lengths)).sum()),
    )


def step_costs(model: ModelSpec, shapes: Shapes, steps: int) -> list[Cost]:
    """The parts of a micro-batch, of which an optimizer step has ``steps``."""
    hidden, inner, layers, size = model.hidden_size, model.intermediate_size, model.num_hidden_layers, model.vocab_size
    tokens, rows = shapes.tokens, shapes.slots + shapes.predictions
    parameters = parameter_count(model, size)
    rate = model.hidden_dropout_prob

    def weights(*shape: int) -> Tensor:
        return torch.empty(shape, requires_grad=True)

    def hidden_states(count: int, width: int = hidden, dtype: torch.dtype = BF16) -> Tensor:
        return torch.empty(count, width, dtype=dtype, requires_grad=True)

    def affine(outputs: int, inputs: int) -> Affine:
        return Affine(weights(outputs, inputs), weights(outputs))

    def norm() -> Normalised:
        return Normalised(weights(hidden), weights(hidden), model.layer_norm_eps)

    def finish(count: int) -> Callable[[], Sequence[Any]]:
        return lambda: (hidden_states(count), hidden_states(count), affine(hidden, hidden), norm(),
                        affine(inner, hidden), affine(hidden, inner), norm(), rate, "none")  # fmt: skip

    def project(parts: int) -> Callable[[], Sequence[Any]]:
        return lambda: (hidden_states(tokens), tuple(affine(hidden, hidden) for _ in range(parts)))

    def embed() -> Sequence[Any]:
        return (*(hidden_states(tokens, dtype=torch.float32) for _ in range(3)), norm(), rate, BF16)

    def score() -> Sequence[Any]:
        labels = torch.empty(shapes.predictions, dtype=torch.int64)
        return hidden_states(shapes.predictions), labels, affine(hidden, hidden), norm(), affine(size, hidden), "none"

    per_token = 2.0 * hidden  # bytes of a hidden state
    looked_up = tokens * 4.0 * hidden  # of a table's rows, in float32
    return [
        *part_costs("embeddings", packed.embed, embed, 1),
        # Rows of three tables are read and written; backward they are read and added to others, which were zeroed.
        Cost("lookups", INDEXING, 1, bytes=3 * 2 * looked_up + 3 * 3 * looked_up + 4.0 * size * hidden),
        *part_costs("query, key, value", packed.project, project(3), layers - 1),
        *part_costs("after attention", packed.finish, finish(tokens), layers - 1),
        attention_cost("attention", model, shapes.scores, tokens, tokens, layers - 1),
        Cost("gradients of query, key, value in one tensor", ELEMENTWISE, layers - 1, bytes=6 * per_token * tokens),
        *part_costs("key, value of the last layer", packed.project, project(2), 1),
        *part_costs("after attention, the last layer's rows", packed.finish, finish(rows), 1),
        Cost("queries of the last layer", PRODUCTS, 1, flops=3 * 2.0 * rows * hidden**2),
        attention_cost("attention, the last layer's rows", model, shapes.read_scores, rows, tokens, 1),
        Cost("rows that heads read", INDEXING, 1, bytes=per_token * (4 * rows + 2 * tokens + 4 * shapes.predictions)),
        *part_costs("masked-LM head", packed.score, score, 1, LOSS),
        Cost("gradients added up", ELEMENTWISE, 1, bytes=12.0 * parameters),
        Cost("LAMB", OPTIMIZER, 1, bytes=LAMB_BYTES * parameters / steps),
    ]


def attention_cost(part: str, model: ModelSpec, scores: float, queries: int, keys: int, times: int) -> Cost:
    """Two products forward and five backward, on whole tiles of the scores; and the tensors, read and written once, but
    for the queries' gradients, which are added up in float32."""
    forward, backward = 2.0 * (2 * queries + 2 * keys), 2.0 * (4 * queries + 4 * keys) + 8.0 * queries
    moved = model.hidden_size * (forward + backward)
    return Cost(part, ATTENTION, times, flops=7 * 2.0 * model.hidden_size * scores, bytes=moved)


def predict(spec: RunSpec, phase: PhaseSpec, rates: Rates) -> dict[str, Any]:
    """A phase's parts and what follows from them."""
    model, shapes = spec.model, shapes_of(spec, phase)
    micro_batches = max(1, math.ceil(phase.rank_batch / shapes.counts.sequences))
    costs = step_costs(model, shapes, micro_batches)
    kinds = {kind: sum(cost.milliseconds(rates) for cost in costs if cost.kind == kind) for kind in KINDS}
    whole = sum(kinds.values())
    useful = step_flops(model, model.vocab_size, shapes.counts)
    layer = ("query, key, value", "after attention", "attention", "gradients of query, key, value in one tensor")
    of_a_layer = {
        kind: sum(cost.milliseconds(rates) / cost.times for cost in costs if cost.kind == kind and cost.part in layer)
        for kind in (PRODUCTS, ATTENTION, ELEMENTWISE, RANDOM)
    }
    shares = {kind: kinds[kind] / whole for kind in KINDS if kind != RANDOM}
    shares[ELEMENTWISE] += kinds[RANDOM] / whole
    return {
        "tokens": shapes.tokens,
        "sequences": shapes.counts.sequences,
        "masked_tokens": shapes.counts.masked_tokens,
        "micro_batches": micro_batches,
        "ms": whole,
        "sequences_per_s": shapes.counts.sequences / whole * 1e3,
        "share": useful / whole * 1e3 / (rates.square_product_tflops * 1e12),
        "optimizer_share": kinds[OPTIMIZER] / whole,
        "layer_ms": of_a_layer,
        "kinds_ms": kinds,
        "shares": shares,
        "parts": [{**asdict(cost), "ms": cost.milliseconds(rates)} for cost in costs if cost.milliseconds(rates)],
    }


def text(number: str, prediction: dict[str, Any]) -> str:
    """A phase's table."""
    lines = [f"phase {number}: packs of {prediction['tokens']:,} tokens, {prediction['sequences']:,} sequences, "
             f"{prediction['masked_tokens']:,} masked tokens"]  # fmt: skip
    for part in sorted(prediction["parts"], key=lambda part: -part["ms"]):
        each = f"{part['flops'] / 1e9:,.0f} GFLOP, {part['bytes'] / 1e6:,.0f} MB, {part['draws'] / 1e6:,.0f} M draws"
        share = part["ms"] / prediction["ms"]
        lines.append(
            f"{part['ms']:>9.2f} ms {share:>6.1%}  {part['times']:>2} x {part['part']}: {part['kind']} ({each})"
        )
    layer = ", ".join(f"{kind} {ms:.2f}" for kind, ms in prediction["layer_ms"].items())
    lines.append(f"  a layer, ms: {layer}")
    rate = f"{prediction['sequences_per_s']:,.0f} sequences/s, {prediction['share']:.1%} of the peak"
    lines.append(f"  {prediction['ms']:.1f} ms per pack: {rate}")
    return "\n".join(lines)


def main() -> None:
    """Predict both phases, print them and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--recipe", default="h200", help="whose packs and model (%(default)s)")
    option("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="a setting of the recipe")
    option("--output", type=Path, default=OUTPUT, help="the JSON file (%(default)s)")
    for name, value in asdict(Rates()).items():
        option(f"--{name.replace('_', '-')}", type=float, default=value, help="(%(default)s)")
    args = parser.parse_args()
    rates = Rates(**{name: getattr(args, name) for name in asdict(Rates())})
    flags = {"recipe": args.recipe, "gpus": 1, "data": "/no/such/folder"}
    spec = resolve(load_catalogue([builtin_file()]), flags=flags, environ={}, sets=args.sets).spec
    spec = replace(spec, model=replace(spec.model, vocab_size=spec.model.vocab_size or VOCABULARY_SIZE))
    phases = {}
    for phase in spec.phases:
        prediction = phases[str(phase.phase)] = predict(spec, phase, rates)
        print(text(str(phase.phase), prediction), flush=True)
    head = {"date": time.strftime("%Y-%m-%d"), "recipe": args.recipe, "settings": args.sets, "model": spec.model.name,
            "torch": torch.__version__}  # fmt: skip
    write_json(args.output, {**head, "rates": asdict(rates), "phases": phases})
    print(f"-> {args.output}")


if __name__ == "__main__":
    main()
