"""What the tests of the launcher share with those of slurm/."""

from __future__ import annotations

from tests.slurm.conftest import Tool, tool

__all__ = ["Tool", "tool"]
