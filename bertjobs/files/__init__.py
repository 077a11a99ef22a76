"""Atomic files, JSON lines, arrays and locks."""
