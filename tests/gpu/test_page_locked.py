"""Memory that is registered with CUDA takes copies from a GPU that nobody waits for."""

from __future__ import annotations

import torch

from bertjobs.train.checkpoint.page_locked import page_locked
from tests.gpu.conftest import GPU, no_waiting

ELEMENTS = (1 << 24) + 1  # torch's allocator would take twice as much


class Owner:
    """Whatever uses the memory."""


def test_a_gpu_copies_into_it_while_the_cpu_continues() -> None:
    owner = Owner()
    content = page_locked(ELEMENTS, owner)
    assert content.is_pinned()
    source = torch.arange(ELEMENTS, dtype=torch.float32, device=GPU)
    torch.cuda.synchronize()
    with no_waiting():
        content.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    assert torch.equal(content, torch.arange(ELEMENTS, dtype=torch.float32))
    del owner
    assert not content.is_pinned()


def test_it_can_be_had_again_and_again() -> None:
    for _ in range(20):
        assert page_locked(ELEMENTS, Owner()).shape == (ELEMENTS,)
