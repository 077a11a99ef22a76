"""Which parts of torch a worker needs: code for its GPU, which is looked for before anything is opened on that, and no
compiler if nothing is compiled."""

from __future__ import annotations

import subprocess
import sys
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


def test_a_run_that_compiles_nothing_does_not_import_torch_s_compiler(trial: Trial) -> None:
    """That would take seconds of CPU time and 150 MB in each process; torch's DDP needs it, a single rank does not."""
    code = (
        "import os, sys; from bertjobs.train.signals import StopRequest; from bertjobs.train.worker import main; "
        "ended = main(os.environ, StopRequest()); assert ended == 75, ended; "
        "print('imported:', sorted({'torch._dynamo', 'sympy'} & set(sys.modules)))"
    )
    environ = trial.having(STEPS_THIS_RUN=2).environment(1)
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.stdout.endswith("imported: []\n"), done
