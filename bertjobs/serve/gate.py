"""What every request passes: is the server ending, who asks, how many are there, what becomes of errors."""

from __future__ import annotations

import hmac
import json
import sys
import time
import traceback
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bertjobs.serve.body import Incoming
from bertjobs.serve.limits import Limits
from bertjobs.serve.metrics import Metrics
from bertjobs.serve.refusal import BUSY, FAILED, STOPPING, UNAUTHORISED, Refusal, as_json, headers

OPEN = ("/", "/v2/health/live", "/v2/health/ready")
"""Paths that need no token: the page, which asks for it, and what a watchdog looks at."""


SHOW = "Authorization: Bearer TOKEN"

WATCHED = ("/v2/health/", "/metrics")
"""Paths that answer however much there is to do, and until the end."""


@dataclass
class State:
    """What changes while a server runs.

    Attributes:
        requests: that are being read or answered.
        draining: whether no new ones are taken.
    """

    requests: int = 0
    draining: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return self.requests == 0


class Place:
    """A request's place among those that are being read or answered; taken and left once."""

    def __init__(self, state: State) -> None:
        self._state, self._is_taken = state, False

    def take(self) -> None:
        self._state.requests += 1
        self._is_taken = True

    def leave(self) -> None:
        self._state.requests -= self._is_taken
        self._is_taken = False


class Gate:
    """Around the application: refuses what may not pass, counts, and turns errors into answers.

    Args:
        token: that requests have to show; "" lets everybody pass.
    """

    def __init__(self, app: ASGIApp, state: State, limits: Limits, metrics: Metrics, token: str) -> None:
        self._app, self._state, self._limits, self._metrics = app, state, limits, metrics
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, code, started, seconds = time.perf_counter(), FAILED, False, 0.0
        incoming, place = Incoming(receive), Place(self._state)

        async def noting(message: Message) -> None:
            nonlocal code, started, seconds
            if message["type"] == "http.response.start":
                code, started = message["status"], True
            elif not message.get("more_body", False) and not incoming.is_over:  # or the connection could be closed
                await send({**message, "more_body": True})
                seconds = time.perf_counter() - began
                place.leave()  # it has its answer
                await incoming.drop()
                message = {"type": "http.response.body"}
            await send(message)

        scope["bertjobs.model"] = ""
        try:
            try:
                self._check(scope)
                place.take()
                self._check_room(scope)
                await self._app(scope, incoming, noting)
            except Exception as error:
                _log(error)
                if not started:
                    await answer_refusal(as_refusal(error), scope, noting)
        finally:
            place.leave()
            route = getattr(scope.get("route"), "path", "")
            self._metrics.answered(route, scope["bertjobs.model"], code, seconds or time.perf_counter() - began)

    def _check(self, scope: Scope) -> None:
        """Whether the server still takes requests, and this client's."""
        path = scope["path"]
        if self._state.draining and not path.startswith(WATCHED):
            raise Refusal("the server is ending", status=STOPPING, retry_after_s=5, closes=True)
        if self._token and path not in OPEN:
            kind, _, shown = Headers(scope=scope).get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(shown.strip().encode(), self._token):
                what = "the token is wrong" if shown else "there is no token"
                raise Refusal(what, status=UNAUTHORISED, where="Authorization", hint=SHOW)

    def _check_room(self, scope: Scope) -> None:
        if self._state.requests > self._limits.requests and not scope["path"].startswith(WATCHED):
            raise Refusal(f"{self._limits.requests:,} requests are being answered already", status=BUSY,
                          retry_after_s=1)  # fmt: skip


def as_refusal(error: Exception) -> Refusal:
    """What is answered to an error."""
    if isinstance(error, Refusal):
        return error
    return Refusal("the server failed to answer this", status=FAILED, hint="its log says where")


def _log(error: Exception) -> None:
    """Log an error that nobody expected, without its words: they may quote a request."""
    if not isinstance(error, Refusal):
        frames = "".join(traceback.format_tb(error.__traceback__))
        print(f"error: {type(error).__name__} while a request was answered\n{frames}", file=sys.stderr, flush=True)


async def answer_refusal(refusal: Refusal, scope: Scope, send: Send) -> None:
    """Send what a refusal says."""
    body = json.dumps(as_json(refusal, scope["path"])).encode()
    head = {"content-type": "application/json", "content-length": str(len(body)), **headers(refusal)}
    raw = [(name.encode(), value.encode()) for name, value in head.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
