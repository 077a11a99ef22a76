"""Ends a run that hangs.

The loop says what it does (`Watchdog.beat`) and two daemon threads watch over it. One only looks at the clock. The
other posts this rank's last beat, about once a second, to the key-value store that rank 0 hosts, over a connection of
its own. A rank without a beat for too long raises an alarm in the store. Then all ranks write the stacks of their
threads, compare the posts, name the ranks that the others wait for, and exit.

A rank that gets no CPU looks like a dead one for a while. So time in which this process could not run does not count
as time without a beat, and the later the ranks' earlier posts were, the longer the others wait for them.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import timedelta
from types import TracebackType

from torch.distributed import TCPStore

from bertjobs.errors import EXIT_FAILURE, BertjobsError
from bertjobs.run.causes import ABSENT_RANKS, Cause
from bertjobs.train.placement import Placement

GRACE_S = 30.0
"""A rank exits within this many seconds of an alarm, whatever blocks it."""

_WINDOW_S, _LONGEST_WINDOW_S = 5.0, 15.0  # a rank that posts nothing for this long is silent, see `window_s`
_VERDICT_S = 22.0  # after an alarm; then a rank says that it does not know
_LONGEST_TICK_S = 10.0  # between two looks at the clock; for any longer the process could not run
_CONNECT_S = 120.0  # for a connection to the store, from a busy node
_NAME = "watchdog"  # its threads' names begin with this
_STDERR = 2  # the file descriptor: `sys.stderr` may be locked by the thread that hangs
_POST, _ALARM, _ENDED = "watchdog/post/", "watchdog/alarm", "watchdog/ended"
_NAMED = 8  # ranks that a message describes one by one


@dataclass(frozen=True)
class Post:
    """What a rank last said about itself.

    Attributes:
        number: posts of this rank so far.
        arrivals: collective operations it has begun.
        step, doing: of its last beat.
        age_s: seconds from that beat to this post.
        gap_s: the longest time between two of its posts so far, in seconds.
    """

    number: int
    arrivals: int
    step: int
    doing: str
    age_s: float
    gap_s: float = 0.0

    def __str__(self) -> str:
        return f"step {self.step}, {self.doing}, for {self.age_s:.0f} s"


class AwakeClock:
    """Seconds in which this process could run. If two ticks are further apart than ``longest_s``, it was stopped, or
    got no CPU: the time beyond that is left out."""

    def __init__(self, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest, self._clock = longest_s, clock
        self._tick = (clock(), 0.0)  # the last one, and what is left out so far: one value, as several threads read it

    def tick(self) -> None:
        """Called regularly, by one thread."""
        (before, left_out), now = self._tick, self._clock()
        self._tick = (now, left_out + max(0.0, now - before - self._longest))

    def now(self) -> float:
        """The seconds that count; they never decrease."""
        ticked, left_out = self._tick
        return min(self._clock(), ticked + self._longest) - left_out


def window_s(posts: Sequence[Post | None]) -> float:
    """Seconds to wait for each rank before it counts as silent: longer than any post was ever late."""
    latest = max((post.gap_s for post in posts if post is not None), default=0.0)
    return min(max(_WINDOW_S, 2 * latest), _LONGEST_WINDOW_S)


def silent_ranks(before: Sequence[Post | None], after: Sequence[Post | None]) -> list[int]:
    """The ranks that posted nothing between two readings of all posts."""
    pairs = enumerate(zip(before, after, strict=True))
    return [rank for rank, (old, new) in pairs if new is None or (old is not None and old.number == new.number)]


def absent_ranks(posts: Sequence[Post | None], silent: Sequence[int]) -> list[int]:
    """The ranks that the others wait for; none if all have come equally far.

    These are the ranks that have begun the fewest collective operations: all ranks begin the same ones in the same
    order, and none ends before all have begun it. If all have begun the same number, it is the silent ones: stopped,
    dead, or cut off in the middle of it. Silence alone proves nothing, as a rank that gets no CPU is silent too.
    """
    begun = [-1 if post is None else post.arrivals for post in posts]
    if min(begun) == max(begun):
        return list(silent)
    return [rank for rank, count in enumerate(begun) if count == min(begun)]


class HangError(BertjobsError):
    """The run hung; ``absent`` are the ranks that the others waited for, () if all stood at the same point."""

    def __init__(self, what: str, *, where: str, hint: str, absent: Sequence[int] = ()):
        self.absent = tuple(absent)
        super().__init__(what, where=where, hint=hint, cause=Cause.HANG)

    def facts(self) -> dict[str, str]:
        """The same as for other errors, and the absent ranks."""
        absent = {ABSENT_RANKS: ", ".join(map(str, self.absent))} if self.absent else {}
        return {**super().facts(), **absent}


def hang(posts: Sequence[Post | None], silent: Sequence[int], timeout_s: float) -> HangError:
    """What a user reads about a hang: which ranks did not arrive, and where they were."""
    absent = absent_ranks(posts, silent)
    what = f"nothing moved for {timeout_s:g} s (hang_timeout_s)"
    if not absent:
        together = f": all {len(posts)} ranks wait at the same point" if len(posts) > 1 else ""
        hint = "a device, the network or the file system hangs: see the stacks above; the last checkpoint is intact"
        return HangError(what + together, where=str(posts[0]), hint=hint)
    lines = [
        f"rank {rank}: {posts[rank] or 'never began'}{', and no longer answers' if rank in silent else ''}"
        for rank in absent[:_NAMED]
    ]
    arrived = [rank for rank in silent if rank not in absent]
    lines += [f"rank {rank}: {posts[rank]}; it has arrived, but no longer answers" for rank in arrived[:_NAMED]]
    return HangError(
        f"{what}: {_named(absent)} did not arrive",
        where="\n         ".join(lines),
        hint="see the stacks of these ranks in the log, and the logs of their nodes; the last checkpoint is intact",
        absent=absent,
    )


def unanswered(placement: Placement, last: Post, timeout_s: float) -> HangError:
    """What a user reads when rank 0's store does not answer."""
    return HangError(
        f"nothing moved for {timeout_s:g} s (hang_timeout_s): rank 0 did not arrive, and no longer answers",
        where=f"{placement.master}:{placement.port}; rank {placement.rank}: {last}",
        hint="see the log of the node of rank 0; the last checkpoint is intact",
        absent=[0],
    )


def undecided(placement: Placement, last: Post, timeout_s: float) -> HangError:
    """What a user reads when this rank could not compare the posts in time, which says nothing about other ranks."""
    return HangError(
        f"nothing moved for {timeout_s:g} s (hang_timeout_s); rank {placement.rank} could not find out in time which "
        "ranks are missing",
        where=f"rank {placement.rank}: {last}",
        hint="see what the other ranks wrote: they may name them; this node may be overloaded; "
        "the last checkpoint is intact",
    )


def stacks() -> str:
    """Where each thread of this process is, except the watchdog's. Reads no source file: the file system itself may
    hang."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, innermost in sys._current_frames().items():
        name = names.get(ident, str(ident))
        if name.startswith(_NAME):
            continue
        lines.append(f"thread {name}, innermost call first:")
        frames = ((frame.f_code, line) for frame, line in traceback.walk_stack(innermost))
        lines += [f'  file "{code.co_filename}", line {line}, in {code.co_qualname}' for code, line in frames]
    return "\n".join(lines)


class Watchdog:
    """Watches the loop of this rank while in ``with``; exits the process with code 70 if the loop hangs.

    A rank that is stuck in C code without letting Python run is ended by ``faulthandler``, with code 1, a little
    later; the others name it before that.
    """

    def __init__(
        self,
        timeout_s: float,
        placement: Placement,
        arrivals: Callable[[], int],
        keep: Callable[[HangError], None] = lambda _: None,
    ) -> None:
        """Takes the longest time between beats, 0 for any; a function that counts the collective operations which this
        rank has begun (`Ranks.arrivals`); and one that records the error of a hang, if this rank survives that long."""
        self._keep = keep
        self._timeout, self._placement, self._arrivals = timeout_s, placement, arrivals
        self._interval = min(1.0, timeout_s / 10)
        self._clock = AwakeClock(min(_LONGEST_TICK_S, timeout_s / 4))
        self._last = (self._clock.now(), 0, "starting")
        self._posted, self._posted_at, self._gap = 0, time.monotonic(), 0.0
        self._asked: float | None = None  # since when the store has owed an answer
        self._host_died = False  # the store was gone before this hang could have ended rank 0
        self._closed, self._alarm = threading.Event(), threading.Event()
        self._judged, self._parted = threading.Event(), threading.Event()
        self._verdict: HangError | None = None
        self._threads: list[threading.Thread] = []

    def beat(self, step: int, doing: str) -> None:
        """Say that this rank is alive and what it begins to do. Takes less than a microsecond."""
        self._last = (self._clock.now(), step, doing)

    def __enter__(self) -> Watchdog:
        if self._timeout:
            self.beat(0, "starting")
            targets = [self._watch, self._talk] if self._placement.world_size > 1 else [self._watch]
            self._threads = [
                threading.Thread(target=target, name=f"{_NAME}{target.__name__}", daemon=True) for target in targets
            ]
            self._arm()
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        for thread in self._threads:
            # If the first is ending the process, it must not be overtaken; the second may be blocked.
            thread.join(None if thread is self._threads[0] else 2 * self._interval)
        if self._threads:
            faulthandler.cancel_dump_traceback_later()

    def _post(self) -> Post:
        _, step, doing = self._last
        return Post(self._posted, self._arrivals(), step, doing, round(self._age(), 1), round(self._gap, 1))

    def _age(self) -> float:
        """Seconds since the last beat in which this process could run."""
        return self._clock.now() - self._last[0]

    def _watch(self) -> None:
        """The first thread: nothing in it waits for another rank."""
        while not self._closed.wait(self._interval):
            self._arm()
            self._clock.tick()
            if self._alarm.is_set() or self._age() > self._timeout:
                self._end()

    def _arm(self) -> None:
        """Postpone ``faulthandler``'s end of the process, which needs no Python; only this thread does so."""
        faulthandler.dump_traceback_later(self._timeout + GRACE_S, file=_STDERR, exit=True)

    def _end(self) -> None:
        threading.Thread(target=self._end_anyway, name=f"{_NAME}_end", daemon=True).start()
        self._alarm.set()
        last = self._post()
        self._write(f"nothing moved for {self._timeout:g} s; at {last}; the stacks of all threads:\n{stacks()}")
        is_alone = self._placement.world_size == 1
        error = hang([last], [], self._timeout) if is_alone else self._decision(last)
        self._write(error.render())
        self._keep(error)
        if self._verdict:
            self._parted.wait(GRACE_S)
        os._exit(EXIT_FAILURE)

    def _decision(self, last: Post) -> HangError:
        """The second thread's verdict, after a long wait; without one, what is known about rank 0's store."""
        deadline = time.monotonic() + _VERDICT_S
        while not self._judged.wait(self._interval) and time.monotonic() < deadline:
            asked = self._asked  # the other thread may clear it
            if asked is not None and time.monotonic() - asked > window_s([self._post()]):
                return unanswered(self._placement, last, self._timeout)
        if self._host_died:
            return unanswered(self._placement, last, self._timeout)
        return self._verdict or undecided(self._placement, last, self._timeout)

    def _end_anyway(self) -> None:
        time.sleep(GRACE_S)  # writing may block as well
        os._exit(EXIT_FAILURE)

    def _write(self, text: str) -> None:
        """Each line names the rank, as a log may mix the lines of all ranks."""
        several = self._placement.world_size > 1
        left = (textwrap.indent(text, f"rank {self._placement.rank}: ") if several else text).encode() + b"\n"
        while left:
            left = left[os.write(_STDERR, left) :]

    def _talk(self) -> None:
        """The second thread: waits only for rank 0's store, forever if that hangs."""
        try:
            with self._asking():  # a rank 0 that was stopped takes the connection, and answers nothing
                store = TCPStore(
                    self._placement.master,
                    self._placement.port,
                    is_master=False,
                    wait_for_workers=False,
                    timeout=timedelta(seconds=_CONNECT_S),
                )
            self._posted_at = time.monotonic()
            while not self._closed.is_set():
                self._send(store)
                if self._alarm.is_set() or self._alarmed(store):
                    self._judge(store)
                    return
                self._closed.wait(self._interval)
        except RuntimeError:
            # The store is gone, and rank 0 with it. If that was long after the last beat, rank 0 exited because of
            # this hang before this rank could ask.
            self._host_died = self._age() < self._timeout / 2
        finally:
            self._judged.set()
            self._parted.set()

    def _alarmed(self, store: TCPStore) -> bool:
        with self._asking():
            return store.check([_ALARM])

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Wraps each request, so that the first thread sees how long the store has owed an answer."""
        self._asked = time.monotonic()
        yield
        self._asked = None

    def _send(self, store: TCPStore) -> None:
        now = time.monotonic()
        self._gap, self._posted_at = max(self._gap, now - self._posted_at), now
        self._posted += 1
        with self._asking():
            store.set(f"{_POST}{self._placement.rank}", json.dumps(astuple(self._post())))

    def _judge(self, store: TCPStore) -> None:
        """Alert the others, find out who is absent, and stay until all others have done so too.

        A rank that left earlier would look like one that hangs; and rank 0 takes the store with it.
        """
        with self._asking():
            store.set(_ALARM, "")
        self._alarm.set()
        before = after = self._read(store)
        silent = list(range(len(before)))
        began = time.monotonic()
        while silent and time.monotonic() - began < window_s(after):
            time.sleep(self._interval)
            self._send(store)
            after = self._read(store)
            silent = silent_ranks(before, after)
        self._verdict = hang(after, silent, self._timeout)
        self._judged.set()
        store.add(_ENDED, 1)
        while store.add(_ENDED, 0) < len(after) - len(silent):
            time.sleep(self._interval)
            self._send(store)
        if self._placement.is_first:
            time.sleep(2 * self._interval)

    def _read(self, store: TCPStore) -> list[Post | None]:
        """The last post of each rank; None if it has never posted."""
        keys = [f"{_POST}{rank}" for rank in range(self._placement.world_size)]
        with self._asking():
            if store.check(keys):
                return [Post(*json.loads(value)) for value in store.multi_get(keys)]
            return [Post(*json.loads(store.get(key))) if store.check([key]) else None for key in keys]


def _named(ranks: Sequence[int]) -> str:
    """``rank 3``; ``ranks 1, 2, 5``; if there are many, the first few and how many more."""
    more = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks[:_NAMED]))}{more}"
