"""Files behind http:// and https://. A server need not say how long a file is, nor give parts of it."""

from __future__ import annotations

import http.client
import io
import re
import ssl
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from bertjobs.data.corpus.persistent import PersistentReader, UnavailableError, persistently

TIMEOUT_S = 60.0
"""A server that sends nothing for so long is given up, and asked again."""

_PASSING = {408, 425, 429, 500, 502, 503, 504}
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class HttpFile:
    """What a server says of a file.

    Attributes:
        size: bytes; None if it does not say.
        parts: whether it sends a part of the file when asked.
        version: when it was last changed; else the server's own name for this state of it, "" if it has none.
    """

    size: int | None
    parts: bool
    version: str


class _Body(io.RawIOBase):
    """What is left of a file; ends before its time with a ConnectionError."""

    def __init__(self, response: Any, left: int | None) -> None:
        self._response, self._left = response, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            # One read of the connection's: of several, those before one that fails would be lost.
            part = self._response.read1(len(buffer))
        except TimeoutError:
            raise TimeoutError(f"the server sent nothing for {TIMEOUT_S:g} s") from None
        except (http.client.HTTPException, ssl.SSLError, ValueError) as error:  # the last: a chunk's length is cut off
            raise ConnectionError("the connection ended early") from error
        count = len(part)
        buffer[:count] = part
        if self._left is not None:
            self._left -= count
            if not count and len(buffer) and self._left > 0:
                raise ConnectionError(f"the connection ended {self._left:,} bytes early")
        return count

    def close(self) -> None:
        self._response.close()
        super().close()


def look_up(url: str) -> HttpFile:
    """What its server says of a file.

    Raises:
        FileNotFoundError: the server does not have it (404, 410).
        UnavailableError: the server refuses, or could not be reached.
    """
    return persistently(lambda: _look_up(url), url, remote=True)


def _look_up(url: str) -> HttpFile:
    with _request(url, "bytes=0-0") as response:
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        # The time first: servers of one address may have several names for the same file.
        version = response.headers.get("Last-Modified") or response.headers.get("ETag") or ""
        if response.status == 206 and match:
            return HttpFile(None if match[2] == "*" else int(match[2]), True, version)
        if response.status == 416:
            return HttpFile(0, True, version)
        length = response.headers.get("Content-Length")
        return HttpFile(None if length is None else int(length), False, version)


def open_at(url: str, place: int) -> Any:
    """The bytes of a file from a place on. A server that sends no parts sends all, and what is before is skipped.

    Raises:
        OSError: as ``look_up``; or the connection failed.
    """
    response = _request(url, f"bytes={place}-" if place else "")
    if response.status == 416:  # there is nothing at this place
        response.close()
        return io.BytesIO()
    length = response.headers.get("Content-Length")
    body = _Body(response, None if length is None else int(length))
    if place and response.status != 206:
        skipped = memoryview(bytearray(_BLOCK))
        while place and (count := body.readinto(skipped[: min(place, _BLOCK)])):
            place -= count
    return body


def open_http(url: str) -> PersistentReader:
    """The bytes of a file, seekable; a seek asks the server anew."""
    return PersistentReader(url, lambda place: open_at(url, place), lambda: _size(url), True)


def _size(url: str) -> int:
    size = look_up(url).size
    return count_bytes(url) if size is None else size


def count_bytes(url: str) -> int:
    """A file's bytes, where its server does not say how many there are: it is read for that."""
    print(f"{url}: its server does not say how long it is, so it is read once to count", file=sys.stderr, flush=True)
    block, size = bytearray(_BLOCK), 0
    with open_http(url) as reader:
        while count := reader.readinto(block):
            size += count
    return size


def _request(url: str, part: str) -> Any:
    """A server's answer, 200, 206 or 416.

    Raises:
        FileNotFoundError, UnavailableError: as ``look_up``.
        ValueError: it is not an address.
        OSError: the server has trouble, or cannot be reached.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": "bertjobs"} | ({"Range": part} if part else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        answer = f"{error.code} {error.reason}"
        if error.code in (404, 410):
            raise FileNotFoundError(url) from None
        if error.code in _PASSING:
            raise ConnectionError(f"the server answers {answer}") from None
        raise UnavailableError(
            f"the server refuses {url!r}: {answer}",
            where="--corpus",
            hint="check the address, and that you may read it without signing in",
        ) from None
    except TimeoutError:
        raise TimeoutError(f"the server did not answer for {TIMEOUT_S:g} s") from None
    except urllib.error.URLError as error:
        lasting = isinstance(error.reason, ssl.SSLCertVerificationError)
        if isinstance(error.reason, OSError) and (lasting or not isinstance(error.reason, ssl.SSLError)):
            raise error.reason from None
        raise ConnectionError(str(error.reason)) from None
    except http.client.InvalidURL as error:
        raise ValueError(f"not an address: {error}") from error
    except http.client.HTTPException as error:
        raise ConnectionError(f"the server's answer is not HTTP: {error!r}") from error
