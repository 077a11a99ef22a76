"""A webhook on this machine: what it was told, and how it misbehaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "s3cret-path-of-the-channel"


class Webhook:
    """A server whose address is a secret. ``hangs``: it answers nothing; ``status``: what it answers with."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.told: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.hangs, self.status = False, 200
        self.address = f"http://127.0.0.1:{server.server_address[1]}/{SECRET}"


@contextmanager
def served() -> Iterator[Webhook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.told.append(json.loads(body))
            hook.paths.append(self.path)
            while hook.hangs:
                time.sleep(0.1)
            self.send_response(hook.status)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hook = Webhook(server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        hook.hangs = False
        server.shutdown()
        server.server_close()
        thread.join()
