"""Worker processes that do not outlive the process that they work for."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context

from bertjobs.errors import EXIT_FAILURE


@contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of forked processes, all of them started.

    They end with this process, however it ends, and when the block is interrupted: each waits for the end of a pipe
    that only this process holds open. Ctrl-C, which reaches them too, is left to this process.
    """
    watched, held = os.pipe()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until a new process ignores it
    try:
        pool = ProcessPoolExecutor(processes, get_context("fork"), initializer=_begin, initargs=(watched, held))
        wait([pool.submit(os.getpid) for _ in range(processes)])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(watched)
    try:
        yield pool
    except Exception:
        raise
    except BaseException:
        os.close(held)
        held = -1
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        if held >= 0:
            os.close(held)


def _begin(watched: int, held: int) -> None:
    """In a new process."""
    os.close(held)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with, args=(watched,), name="end with parent", daemon=True).start()


def _end_with(watched: int) -> None:
    os.read(watched, 1)
    os._exit(EXIT_FAILURE)
