"""NCCL and DistributedDataParallel with one rank on one GPU; and nested attention, which only CUDA can check."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import distributed

from bertjobs.model.attention import choose_attention
from bertjobs.model.compiled import compile_parts, no_recompilation
from bertjobs.model.packed import EAGER
from tests.gpu.conftest import GPU
from tests.train.averaged_steps import assert_equal, gradients, group_of_one

DEVICE = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def group() -> Iterator[distributed.ProcessGroup]:
    with group_of_one("nccl") as group:
        yield group


def test_the_group_sums_on_the_device_and_counts_its_operations(group: distributed.ProcessGroup) -> None:
    values = torch.arange(3.0, device=DEVICE)
    before = group._get_sequence_number_for_group()
    distributed.all_reduce(values, group=group)
    assert values.tolist() == [0, 1, 2]
    assert group._get_sequence_number_for_group() == before + 1


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_accumulated_gradients_are_those_of_the_bare_model(
    precision: str, tolerance: float, group: distributed.ProcessGroup
) -> None:
    """Not bit for bit: some backward passes on a GPU add in any order."""
    expected = gradients(None, DEVICE, precision=precision)
    assert_equal(gradients(group, DEVICE, precision=precision), expected, tolerance)


def test_compressed_gradients_are_rounded_to_bf16(group: distributed.ProcessGroup) -> None:
    expected = gradients(None, DEVICE)
    computed = gradients(group, DEVICE, compression="bf16")
    assert_equal(computed, expected, 2**-8 + 1e-4)
    assert all(torch.equal(gradient, gradient.bfloat16().float()) for gradient in computed[0].values())


def test_parts_that_were_compiled_before_are_not_compiled_again(group: distributed.ProcessGroup) -> None:
    expected = gradients(None, DEVICE, precision="bf16")
    parts = compile_parts(DEVICE)
    assert parts is not EAGER
    gradients(None, DEVICE, precision="bf16", parts=parts)
    with no_recompilation():
        computed = gradients(group, DEVICE, precision="bf16", parts=parts)
    assert_equal(computed, expected, 3e-2)


@pytest.mark.parametrize("name", ["flash", "nested", "triton"])
def test_each_attention_works_here(name: str) -> None:
    """What does not fails with the reason: `auto` would leave it out in silence."""
    assert choose_attention(name, GPU, torch.bfloat16, 64).name == name
