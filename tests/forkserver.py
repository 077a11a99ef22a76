"""Processes that start in a tenth of a second, from a server that has torch and the tests' own modules loaded."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
_LOADED = ["torch._dynamo"]  # torch loads it at the first use of DDP, which takes seconds


def preload(module: str) -> None:
    """Have the server load ``module`` too, whose functions processes will run; called as the module is imported.

    There is one server for all test modules of a session, and what it loads can be set only once.
    """
    _LOADED.append(module)
    CONTEXT.set_forkserver_preload(_LOADED)
