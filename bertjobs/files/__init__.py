"""Atomic files, JSON lines, arrays, YAML that people write, and locks."""
