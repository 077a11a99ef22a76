"""Gradients averaged over a group of one rank, over gloo: the steps that tests/gpu/test_nccl.py takes over NCCL."""

from __future__ import annotations

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from bertjobs.model.bert import BertForPreTraining
from bertjobs.train.pretraining.forward import Forward
from bertjobs.train.pretraining.objective import probe
from bertjobs.train.ranks import averaged
from tests.train.averaged_steps import SPEC, assert_equal, gradients, group_of_one

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


def test_accumulated_gradients_are_those_of_the_bare_model() -> None:
    expected = gradients(None, CPU)
    with group_of_one("gloo") as group:
        computed = gradients(group, CPU)
    assert_equal(computed, expected, 0.0)


def test_compressed_gradients_are_rounded_to_bf16() -> None:
    expected = gradients(None, CPU)
    with group_of_one("gloo") as group:
        computed = gradients(group, CPU, compression="bf16")
    rounded = [{name: gradient.bfloat16().float() for name, gradient in expected[0].items()}]
    assert all(torch.equal(computed[0][name], gradient) for name, gradient in rounded[0].items())
    assert_equal(computed, expected, 2**-8)
    with pytest.raises(AssertionError):
        assert_equal(computed, expected, 0.0)


def test_the_group_may_be_of_any_size() -> None:
    with group_of_one("gloo") as group:
        wrapped = averaged(Forward(BertForPreTraining(SPEC)), probe(CPU), group)
        assert isinstance(wrapped, DistributedDataParallel)
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in wrapped.parameters())
