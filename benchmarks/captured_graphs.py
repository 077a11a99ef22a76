"""The graphs that torch.compile makes of a function, and how many bytes the kernels between their products move.

Nothing is compiled or computed: the tensors have no contents.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses.fake_tensor import FakeTensorMode

_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
_VIEWS = {
    "permute",
    "view",
    "t",
    "transpose",
    "expand",
    "unsqueeze",
    "squeeze",
    "reshape",
    "_unsafe_view",
    "alias",
    "detach",
}


def captured(function: Callable[..., Any], make_arguments: Callable[[], Sequence[Any]]) -> list[fx.Graph]:
    """The forward and the backward graph of a function, as torch's compiler would get them, under autocast to bf16.

    ``make_arguments`` is called where tensors have no contents. A CPU's autocast stands in for a GPU's, which treats
    all that the function does alike.
    """
    graphs: list[fx.Graph] = []

    def keep(module: fx.GraphModule, _: Any) -> Any:
        graphs.append(module.graph)
        return make_boxed_func(module.forward)

    backend = aot_autograd(
        fw_compiler=keep,
        bw_compiler=keep,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
    torch.compiler.reset()
    with FakeTensorMode(), torch.autocast("cpu", dtype=torch.bfloat16):
        out = torch.compile(function, backend=backend, fullgraph=True, dynamic=False)(*make_arguments())
        out = out if isinstance(out, Tensor) else out[0]
        out.backward(torch.empty_like(out))
    return graphs


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet).rpartition(".")[2] if packet else getattr(node.target, "__name__", "")


def _bytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _source(node: fx.Node) -> fx.Node:
    """What a view shows."""
    while node.op == "call_function" and _name(node) in _VIEWS:
        node = node.all_input_nodes[0]
    return node


def products_of(graph: fx.Graph) -> float:
    """Operations of the graph's matrix products."""
    total = 0.0
    for node in graph.nodes:
        if node.op == "call_function" and _name(node) in _PRODUCTS:
            left, right = [arg for arg in node.args if isinstance(arg, fx.Node)][-2:]
            total += 2.0 * left.meta["val"].numel() * right.meta["val"].shape[-1]
    return total


def draws_of(graph: fx.Graph) -> float:
    """Random numbers that a graph draws."""
    return float(sum(node.meta["val"].numel() for node in graph.nodes if _name(node) in ("rand", "rand_like")))


def kernels_of(graph: fx.Graph) -> list[set[fx.Node]]:
    """What lies between the graph's products, each piece as the nodes of one kernel.

    Two nodes are of one kernel if one reads what the other computes and both have the same level (`_levels`): else the
    kernel would have to wait for itself.
    """
    level = _levels(graph)
    leader: dict[fx.Node, fx.Node] = {}

    def find(node: fx.Node) -> fx.Node:
        while leader[node] is not node:
            node = leader[node]
        return node

    for node in filter(_is_fused, graph.nodes):
        leader[node] = node
        for one in map(_source, node.all_input_nodes):
            if one in leader and level[one] == level[node]:
                leader[find(one)] = find(node)
    kernels: dict[fx.Node, set[fx.Node]] = defaultdict(set)
    for node in leader:
        kernels[find(node)].add(node)
    return list(kernels.values())


def _is_product(node: fx.Node) -> bool:
    return node.op == "call_function" and _name(node) in _PRODUCTS


def _is_fused(node: fx.Node) -> bool:
    return node.op == "call_function" and _name(node) not in _PRODUCTS | _VIEWS


def _levels(graph: fx.Graph) -> dict[fx.Node, int]:
    """Of each node, how many products come before it on the longest way.

    What is needed only at a later level has that one, if it can be computed there without another tensor in memory:
    what follows from the graph's inputs alone, and wider formats of numbers. So torch's compiler does it.
    """
    level: dict[fx.Node, int] = {}
    for node in graph.nodes:
        level[node] = max((level[one] + _is_product(one) for one in node.all_input_nodes), default=0)
    needed: dict[fx.Node, int] = {}
    for node in reversed(graph.nodes):
        needed[node] = min((needed[user] for user in node.users if user.op != "output"), default=level[node])
        if _is_product(node):
            needed[node] = level[node]
    late = {node for node in graph.nodes if not node.all_input_nodes}
    for node in graph.nodes:
        if _is_product(node) or node.op != "call_function":
            continue
        from_inputs = late.issuperset(node.all_input_nodes)
        if from_inputs and (needed[node] > level[node] or not _is_fused(node)):
            late.add(node)
        if from_inputs or _widens(node):
            level[node] = max(level[node], needed[node])
    return level


def _widens(node: fx.Node) -> bool:
    return _name(node) == "convert_element_type" and _bytes(node) > _bytes(node.all_input_nodes[0])


def bytes_of(kernel: set[fx.Node]) -> float:
    """Bytes that a kernel reads and writes."""
    reads = {_source(one) for node in kernel for one in node.all_input_nodes} - kernel
    written = {node for node in kernel if any(user not in kernel for user in _users(node))}
    again: set[fx.Node] = set()
    for node in kernel:
        if _sums_rows(node):
            again |= _needed(node, kernel, written)
    return float(sum(map(_bytes, reads)) + sum(map(_bytes, written)) + sum(map(_bytes, again)))


def _users(node: fx.Node) -> Iterator[fx.Node]:
    """What reads a node's values, also by way of views."""
    for user in node.users:
        if user.op == "call_function" and _name(user) in _VIEWS:
            yield from _users(user)
        else:
            yield user


def _sums_rows(node: fx.Node) -> bool:
    """Whether it sums over the rows of a matrix, which needs a pass of its own over them."""
    if _name(node) != "sum" or len(node.args) < 2:
        return False
    rows = node.all_input_nodes[0].meta["val"].shape
    return len(rows) == 2 and list(node.args[1]) == [0] and rows[0] > 1  # type: ignore[arg-type]


def _needed(node: fx.Node, kernel: set[fx.Node], written: set[fx.Node]) -> set[fx.Node]:
    """The tensors in memory that a node follows from."""
    tensors: set[fx.Node] = set()
    for one in map(_source, node.all_input_nodes):
        tensors |= {one} if one not in kernel or one in written else _needed(one, kernel, written)
    return tensors
