"""Page-locked memory is as large as asked for, and is given back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bertjobs.train.checkpoint.page_locked import page_locked


class Runtime:
    """CUDA's two functions, as torch offers them; they return 0 if they succeed."""

    def __init__(self, result: int = 0) -> None:
        self.result = result
        self.registered: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        assert flags == 0
        if not self.result:
            self.registered[address] = size
        return self.result

    def cudaHostUnregister(self, address: int) -> int:
        del self.registered[address]
        return 0


class Owner:
    """Whatever uses the memory."""


def test_all_of_it_is_locked_and_no_more_until_its_owner_is_gone() -> None:
    runtime, owner = Runtime(), Owner()
    content = page_locked(1_000_001, owner, runtime)
    assert runtime.registered == {content.data_ptr(): 4_000_004}
    assert content.dtype == torch.float32
    assert not content.any()
    del owner
    assert runtime.registered == {}
    assert not content.any(), "it is still there"


def test_nothing_is_locked_for_an_empty_file() -> None:
    runtime = Runtime()
    assert page_locked(0, Owner(), runtime).shape == (0,)
    assert runtime.registered == {}


def test_where_cuda_refuses_torch_s_allocator_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    empty, asked = torch.empty, []

    def on_the_host(*shape: int, pin_memory: bool = False, **settings: Any) -> torch.Tensor:
        asked.append(pin_memory)
        return empty(*shape, **settings)

    monkeypatch.setattr(torch, "empty", on_the_host)
    assert page_locked(7, Owner(), Runtime(result=712)).tolist() == [0.0] * 7
    assert asked == [False, True]
