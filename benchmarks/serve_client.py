"""Clients that each send the next request when they have an answer, in a process of their own.

    python benchmarks/serve_client.py REQUESTS PORT CLIENTS SECONDS

REQUESTS is a file of JSON: {"path": ..., "bodies": [...]}. The bodies are sent in turn, over connections that stay
open.
Prints JSON: requests per second, percentiles of the latency (s), and how many answers had each status. It imports
nothing heavy and looks at no more of an answer than its head, so that it takes little from the server beside it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path


def main() -> int:
    """Send, and print what was measured."""
    file, port, clients, seconds = sys.argv[1:]
    asked = json.loads(Path(file).read_text())
    requests = itertools.cycle([framed(asked["path"], body.encode()) for body in asked["bodies"]])
    print(json.dumps(asyncio.run(measured(requests, int(port), int(clients), float(seconds)))))
    return 0


def framed(path: str, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    return head.encode() + b"\r\n" + body


async def measured(requests: Iterator[bytes], port: int, clients: int, seconds: float) -> dict[str, object]:
    """What some clients see. The time ends with the last answer: nothing that was sent is left out."""
    latencies: list[float] = []
    statuses: Counter[str] = Counter()
    began = time.perf_counter()
    await asyncio.gather(*(client(requests, port, began + seconds, latencies, statuses) for _ in range(clients)))
    took = time.perf_counter() - began
    latencies.sort()
    return {
        "clients": clients,
        "requests": len(latencies),
        "requests_per_s": len(latencies) / took,
        "latency_s": {f"p{share}": at(latencies, share / 100) for share in (50, 90, 99)},
        "statuses": dict(statuses),
    }


async def client(
    requests: Iterator[bytes], port: int, until: float, latencies: list[float], statuses: Counter[str]
) -> None:
    """One of them; a connection that is lost is opened again."""
    while time.perf_counter() < until:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            statuses["not connected"] += 1
            await asyncio.sleep(0.1)
            continue
        try:
            while time.perf_counter() < until:
                began = time.perf_counter()
                writer.write(next(requests))
                status = await answer(reader)
                statuses[status] += 1
                if status == "200":
                    latencies.append(time.perf_counter() - began)
                elif status == "429":
                    await asyncio.sleep(0.05)
        except (OSError, asyncio.IncompleteReadError):
            statuses["lost"] += 1
        finally:
            writer.close()


async def answer(reader: asyncio.StreamReader) -> str:
    """Read an answer whose length its head says; returns the status."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.split(b"content-length:")[1].split(b"\r\n")[0]
    await reader.readexactly(int(length))
    return head.split(b" ", 2)[1].decode()


def at(latencies: list[float], share: float) -> float | None:
    """The percentile of sorted values; None without any."""
    return latencies[min(len(latencies) - 1, int(share * len(latencies)))] if latencies else None


if __name__ == "__main__":
    sys.exit(main())
