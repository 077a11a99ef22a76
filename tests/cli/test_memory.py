"""Memory handled for speed."""

from __future__ import annotations

import pytest

from bertjobs.cli.memory import keep_freed_memory


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    keep_freed_memory()
