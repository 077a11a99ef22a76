"""A web server for one test, which can serve a file from the middle on, and hang up in the middle of one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)  # path, first byte
    headers: list[dict[str, str]] = field(default_factory=list)  # of each request
    ranges: bool = True
    hangs_up_after: int | None = None  # bytes of a body, or never
    url: str = ""


@contextmanager
def served() -> Iterator[Site]:
    """A site while it answers."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = 0
            if site.ranges and (given := self.headers.get("Range")):
                start = int(given.removeprefix("bytes=").split("-")[0])
            body = site.files.get(self.path)
            site.asked.append((self.path, start))
            site.headers.append(dict(self.headers.items()))
            if body is None or start >= len(body):
                self.send_error(404 if body is None else 416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            end = len(body) if site.hangs_up_after is None else start + site.hangs_up_after
            self.wfile.write(body[start:end])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
