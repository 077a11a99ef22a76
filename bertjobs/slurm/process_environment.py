"""This process's own environment, replaced for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def process_environment(environ: Mapping[str, str]) -> Iterator[None]:
    """Give this process the environment ``environ``: submitit starts sbatch with the one it finds."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
