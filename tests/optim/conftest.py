"""One thread in the tests of optimizers."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In all of this folder's tests."""
