"""Running the server: a socket, uvicorn, and an end at which nobody loses an answer."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import FrameType

import uvicorn

from bertjobs.errors import InputError
from bertjobs.serve.app import Parts, make_app
from bertjobs.serve.engine import Engine
from bertjobs.serve.gate import State
from bertjobs.serve.heads import ImpatientProtocol
from bertjobs.serve.limits import Limits
from bertjobs.serve.metrics import Metrics
from bertjobs.serve.models import Models, Observer, Refresher
from bertjobs.serve.served import Served

_LOOK_S = 0.05


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def url(self, port: int) -> str:
        """With the port that was free, if any was asked for."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}"


def bound(address: Address) -> socket.socket:
    """A socket at the address.

    Raises:
        InputError: it is not this machine's, or taken.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio only sets TCP_NODELAY for this
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(f"there is no address {address.host!r}: {error}", where="--host") from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(place)
    except OSError as error:
        made.close()
        raise InputError(f"{address.host}:{address.port} cannot be used: {error.strerror}", where="--port",
                         hint="--port 0 takes a free one")  from error  # fmt: skip
    return made


class Log(Observer):
    """Says on standard error what happens to models, and passes it on."""

    def __init__(self, then: Observer) -> None:
        self._then = then

    def loaded(self, served: Served) -> None:
        what = f"task {served.task}" if served.task else "no task: vectors of texts"
        say(f"model {served.name}, version {served.version}: {what}, from {served.folder}")
        for note in served.notes:
            say(f"model {served.name}: {note}")
        self._then.loaded(served)

    def kept(self, served: Served, error: str) -> None:
        say(f"model {served.name}: its replacement cannot be loaded, version {served.version} stays: {error}")
        self._then.kept(served, error)

    def current(self, served: Served) -> None:
        say(f"model {served.name}: version {served.version} is what the folder holds again")
        self._then.current(served)


def say(words: str) -> None:
    """A line of the log."""
    print(words, file=sys.stderr, flush=True)


class _Server(uvicorn.Server):
    """Takes the first TERM or ctrl-C as the wish to end, a second one as an order."""

    def __init__(self, config: uvicorn.Config, state: State, drain_s: float, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._state, self._drain_s, self._on_start = state, drain_s, started
        self.signal: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.signal is not None:
            self.should_exit = self.force_exit = True
            return
        self.signal = sig
        self._state.draining = True

    async def main_loop(self) -> None:
        drained = asyncio.create_task(self._drain())
        try:
            await super().main_loop()
        finally:
            drained.cancel()

    async def _drain(self) -> None:
        """Once the server is to end, wait for its answers; new requests are refused meanwhile. uvicorn then gives the
        rest of the time to clients that still read theirs."""
        while not self._state.draining:
            await asyncio.sleep(_LOOK_S)
        say(f"ending: {self._state.requests} requests still get their answers")
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._drain_s):
                while not self._state.is_idle:
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            say(f"ending: {self._state.requests} requests are given up after {self._drain_s:g} s")
            self.force_exit = True
        left = self._drain_s - (time.monotonic() - began)
        self.config.timeout_graceful_shutdown = max(1, math.ceil(left))
        self.should_exit = True


@dataclass(frozen=True)
class ServerOptions:
    """How a server runs.

    Attributes:
        token: that requests have to show; "" for none.
        budget: tokens that are computed at a time.
        watch_s: between two looks at the models' folders; 0: never.
    """

    address: Address
    limits: Limits
    budget: int
    token: str = ""
    watch_s: float = 5.0


def serve(options: ServerOptions, models_of: Callable[[Observer], Models], ready: Callable[[str], None]) -> int | None:
    """Serve until a signal asks for the end; returns that signal.

    Args:
        models_of: loads the models.
        ready: is told the server's address once it answers.

    Raises:
        InputError: the address cannot be used, or as the models' loading.
    """
    listening = bound(options.address)
    with listening:
        metrics = Metrics()
        models = models_of(Log(metrics))
        engine = Engine(options.budget, options.limits.queue_tokens, metrics.computed)
        state = State()
        metrics.watch("queue_rows", "Sequences that wait for the model.", lambda: engine.waiting_rows)
        metrics.watch("queue_tokens", "Tokens that wait for the model.", lambda: engine.waiting_tokens)
        metrics.watch("requests_in_progress", "Requests that are being read or answered.", lambda: state.requests)
        with ThreadPoolExecutor(1, thread_name_prefix="texts") as desk:
            parts = Parts(models, engine, options.limits, metrics, state, desk)
            config = uvicorn.Config(
                make_app(parts, options.token),
                http=partial(ImpatientProtocol, head_s=options.limits.body_s),  # type: ignore[arg-type]
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=1,
            )
            url = options.address.url(listening.getsockname()[1])
            server = _Server(config, state, options.limits.drain_s, lambda: ready(url))
            watch = Refresher(models, options.watch_s) if options.watch_s else None
            try:
                server.run([listening])
            finally:
                if watch:
                    watch.close()
                engine.close()
    return server.signal


STOPPED_BY_A_PERSON = signal.SIGINT
