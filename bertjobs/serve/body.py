"""Reading a request's body: within a size and a time; and dropping what nobody read of it."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from bertjobs.serve.limits import Limits
from bertjobs.serve.refusal import ENCODED, GONE, TOO_LARGE, TOO_SLOW, Refusal

LINGER_S = 5.0
"""How long a client that has its answer may still send: one whose connection is closed meanwhile may not see it."""


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        Refusal: it is too large or too slow, compressed, or the client hung up.
    """
    if (coding := request.headers.get("content-encoding", "identity")) != "identity":
        raise Refusal(f"the body is compressed: {coding[:20]!r}", status=ENCODED, where="Content-Encoding",
                      hint="send it as it is", closes=True)  # fmt: skip
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.body_bytes and "expect" in request.headers:
        raise _too_large(limits)  # the client waits for a word before it sends
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limits.body_bytes:
                    raise _too_large(limits)
                body += chunk
    except TimeoutError:
        raise Refusal(f"the body did not arrive within {limits.body_s:g} s", status=TOO_SLOW, closes=True) from None
    except ClientDisconnect:
        raise Refusal("the client hung up", status=GONE) from None
    return bytes(body)


class Incoming:
    """A request's messages, of which those that nobody asked for can be dropped.

    Attributes:
        is_over: whether all of the body has been taken, or the client has hung up.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive, self.is_over = receive, False

    async def __call__(self) -> Message:
        """The next message."""
        message = await self._receive()
        self.is_over = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def drop(self) -> None:
        """Take what is left of the body, for `LINGER_S` at most."""
        try:
            async with asyncio.timeout(LINGER_S):
                while not self.is_over:
                    await self()
        except TimeoutError:
            return


def _too_large(limits: Limits) -> Refusal:
    return Refusal(f"the body is larger than {limits.body_bytes:,} bytes", status=TOO_LARGE, closes=True,
                   hint="send several requests")  # fmt: skip
