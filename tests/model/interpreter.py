"""Whether Triton's interpreter can run the kernels of a layer here."""

from __future__ import annotations

import pytest
import torch

from bertjobs.model.triton_layer import join_gradients


def _works() -> str | None:
    """Why the interpreter cannot be used."""
    if torch.cuda.is_available():
        return "a GPU is here: tests/gpu tests the same on it"
    try:
        join_gradients([torch.ones(3, 16), torch.ones(3, 16)])
    except Exception as error:  # Triton 3.6's cannot loop under numpy 2.4
        return f"Triton's interpreter fails: {error}"
    return None


_PROBLEM = _works()
interpreted = pytest.mark.skipif(_PROBLEM is not None, reason=str(_PROBLEM))
