"""How the commands that compute with a model prepare the machine."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch

from bertjobs.cli.model_arguments import prepared_device


@pytest.mark.parametrize(("precision", "calls"), [("fp32", [(False,)]), ("bf16", [])])
def test_onednn_is_left_out_where_only_gelu_would_use_it(
    monkeypatch: pytest.MonkeyPatch, precision: str, calls: list[tuple[bool]]
) -> None:
    """Its kernels, one for each shape, let the heap of a server grow; matrix products in bf16 need it."""
    made: list[tuple[bool]] = []
    monkeypatch.setattr(torch.backends.mkldnn, "set_flags", lambda *flags: made.append(flags))
    assert prepared_device(Namespace(threads=0, device="cpu", precision=precision)) == torch.device("cpu")
    assert made == calls
