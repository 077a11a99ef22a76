"""Ctrl-C, and the signals that ask for the same: at whatever moment they come, the command ends without a traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_INTERRUPTED = 130

_AGAIN_S = 0.05


def run(command: Callable[[], int]) -> int:
    """The exit code of a command; 130 if it was interrupted, whatever a library made of the interrupt."""
    interrupted = False

    def note(*_: Any) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as a shell has it for what runs in the background
        signal.signal(signal.SIGINT, note)
    sys.unraisablehook = _deliver_again(sys.unraisablehook)
    try:
        return command()
    except SystemExit:
        raise
    except BaseException:
        if interrupted:
            return EXIT_INTERRUPTED
        raise
    finally:
        # What Python does at its end can be interrupted too: that ends it at once, and says nothing.
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def stops(*of_one: signal.Signals) -> Iterator[Callable[[], bool]]:
    """In the block, `bertjobs cancel` (TERM) and a closed terminal (HUP) interrupt as ctrl-C does, unless they are
    ignored, as under nohup; and so do the signals ``of_one``, which stop only what is being done at the moment.

    Yields whether one came that stops all.
    """
    came = False
    interrupt = signal.getsignal(signal.SIGINT)
    raised = interrupt if callable(interrupt) else signal.default_int_handler

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        raised(number, frame)

    wanted: dict[signal.Signals, Any] = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stop)
    wanted |= dict.fromkeys(of_one, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in wanted}
    heard = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, wanted[number])
    try:
        yield lambda: came
    finally:
        for number in heard:
            signal.signal(number, before[number])


def _deliver_again(hook: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A hook for errors that Python can raise nowhere, as in a destructor: an interrupt is sent again."""

    def deliver(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            hook(unraisable)
            return
        timer = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True
        timer.start()

    return deliver


@contextmanager
def interrupts_held() -> Iterator[None]:
    """An interrupt in the block is raised at its end: for imports, as some libraries print a traceback of their own."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def note(*_: Any) -> None:
        nonlocal came
        came = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)
