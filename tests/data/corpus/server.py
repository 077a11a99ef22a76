"""A web server that does what real ones do: drops, stalls, refuses, and does not say how long a file is."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """What the server does.

    Attributes:
        files: contents by path.
        parts: it answers with a part of a file when asked.
        length: it says how long its answer is; else it is sent in chunks, or, with ``bare``, until the connection ends.
        statuses: of the next answers, 0 for a good one.
        drops: of the next good answers, after how many bytes of the body the connection is cut; -1 for a whole one.
        dropping: after how many bytes each further answer's is, if at all.
        stalls: how many of the next answers stop before their body.
        etag: the name of the files' state.
        asked: path and range of each request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    parts: bool = True
    length: bool = True
    bare: bool = False
    statuses: list[int] = field(default_factory=list)
    drops: list[int] = field(default_factory=list)
    dropping: int | None = None
    stalls: int = 0
    etag: str = '"1"'
    asked: list[tuple[str, str]] = field(default_factory=list)
    end: threading.Event = field(default_factory=threading.Event)

    def body_sent(self, size: int) -> int:
        """How many of the bytes of an answer's body are sent."""
        drop = self.drops.pop(0) if self.drops else -1 if self.dropping is None else self.dropping
        return size if drop < 0 else min(drop, size)


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """The address of a server that behaves so, without a slash at its end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.close_connection = True
            with suppress(ConnectionError):
                self._answer()

        def _answer(self) -> None:
            wanted = self.headers.get("Range", "")
            behaviour.asked.append((self.path, wanted))
            if behaviour.statuses and (status := behaviour.statuses.pop(0)):
                self.send_error(status)
                return
            if self.path not in behaviour.files:
                self.send_error(404)
                return
            body = behaviour.files[self.path]
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted) if behaviour.parts else None
            if match and int(match[1]) >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if match else 200)
            if match:
                first, last = int(match[1]), min(int(match[2] or len(body)), len(body) - 1)
                total = len(body) if behaviour.length else "*"
                self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
                body = body[first : last + 1]
            self.send_header("ETag", behaviour.etag)
            self._send(body, probe=wanted == "bytes=0-0")

        def _send(self, body: bytes, probe: bool) -> None:
            chunked = not behaviour.length and not behaviour.bare
            if behaviour.length:
                self.send_header("Content-Length", str(len(body)))
            elif chunked:
                self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.flush()
            if probe:
                sent = len(body)
            elif behaviour.stalls:
                behaviour.stalls -= 1
                behaviour.end.wait(30)
                return
            else:
                sent = behaviour.body_sent(len(body))
            for start in range(0, sent, 10_000):
                part = body[start : min(start + 10_000, sent)]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            if chunked and sent == len(body):
                self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        behaviour.end.set()
        server.shutdown()
        server.server_close()
        thread.join()
