"""A torch that has no code for the GPU is refused before anything is opened on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.train.conftest import Ended, Trial


def test_a_worker_ends_with_64_before_it_touches_the_gpu(
    trial: Trial, alone: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's answers on a node with a V100; a wheel for CPUs would fail at anything more."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100-SXM2-16GB")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90", "compute_120"])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    end = alone(trial.having(GPUS=1), 1)
    assert end.code == 64
    assert "needs code for sm_70" in end.err
    assert "--index-url https://download.pytorch.org/whl/cu126" in end.err
    assert "node check" not in end.out
    assert not trial.directory.root.exists()
