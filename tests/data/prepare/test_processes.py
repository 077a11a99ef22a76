"""Worker processes end with the process that they work for, and are not interrupted beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bertjobs.data.prepare.processes import worker_pool

BUSY = """\
import os, sys, time
from bertjobs.data.prepare.processes import worker_pool

def work(number):
    os.write(1, b"works\\n")  # in one: others write too
    time.sleep(60)

try:
    with worker_pool(3) as pool:
        list(pool.map(work, range(3)))
except KeyboardInterrupt:
    sys.exit(130)
"""


@contextmanager
def busy() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process with three workers that have much to do, and the workers' numbers."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout
        for _ in range(3):
            assert process.stdout.readline() == "works\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield process, [int(child) for child in children]
    finally:
        process.kill()
        process.communicate()


def runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def end_within(processes: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(runs, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(sent: int) -> None:
    with busy() as (process, workers):
        assert len(workers) == 3
        assert all(map(runs, workers))
        process.send_signal(sent)
        assert end_within(workers, 30)


def test_ctrl_c_ends_all_at_once_and_prints_nothing() -> None:
    with busy() as (process, workers):
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to all of them
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - began < 30  # the work would take a minute
        assert (process.returncode, errors) == (130, "")
        assert end_within(workers, 30)


def test_workers_are_not_interrupted_beside_their_parent() -> None:
    with worker_pool(2) as pool:
        for worker in pool._processes:
            os.kill(worker, signal.SIGINT)
        assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))


def test_an_error_lets_running_tasks_end() -> None:
    with suppress(ZeroDivisionError), worker_pool(2) as pool:
        running = pool.submit(time.sleep, 0.5)
        time.sleep(0.1)
        _ = 1 / 0
    assert running.exception() is None


def test_no_pipe_is_left_open() -> None:
    def count() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = count()
    with worker_pool(2):
        assert count() > before
    assert count() == before
