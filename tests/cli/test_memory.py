"""Memory handled for speed leaves Python as it was."""

from __future__ import annotations

import gc

import pytest

from bertjobs.cli.memory import keep_freed_memory, seldom_collected


def test_garbage_is_collected_as_before_once_the_block_has_ended() -> None:
    before = gc.get_threshold()
    with seldom_collected():
        assert gc.get_threshold()[0] > 100 * before[0]
    assert gc.get_threshold() == before


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    keep_freed_memory()
