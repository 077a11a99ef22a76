"""What tests of the launcher share with those of Slurm's room."""

from __future__ import annotations

from tests.slurm.conftest import Tool, tool

__all__ = ["Tool", "tool"]
