"""Files of examples for the tests of their readers, and what a reader says of a bad one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from bertjobs.errors import EXIT_BAD_INPUT, InputError


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def refused(examples: Iterable[object]) -> str:
    """The error, as a user reads it, that reading all of the examples ends with."""
    with pytest.raises(InputError) as caught:
        list(examples)
    assert caught.value.exit_code == EXIT_BAD_INPUT
    return str(caught.value)
