"""Reading a request's body: within a size and a time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from bertjobs.serve.limits import Limits
from bertjobs.serve.refusal import ENCODED, GONE, TOO_LARGE, TOO_SLOW, Refusal

SWALLOWED = 16
"""How many times the limit is read of a body that is too large: a client that still sends would not see the answer."""


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
            read = 0
            async for chunk in request.stream():
                read += len(chunk)
                if read <= limits.body_bytes:
                    body += chunk
                elif read > SWALLOWED * limits.body_bytes:
                    break
    except TimeoutError:
        raise Refusal(f"the body did not arrive within {limits.body_s:g} s", status=TOO_SLOW, closes=True) from None
    except ClientDisconnect:
        raise Refusal("the client hung up", status=GONE) from None
    if read > limits.body_bytes:
        raise _too_large(limits)
    return bytes(body)


def _too_large(limits: Limits) -> Refusal:
    return Refusal(f"the body is larger than {limits.body_bytes:,} bytes", status=TOO_LARGE, closes=True,
                   hint="send several requests")  # fmt: skip
