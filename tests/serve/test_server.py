"""The server as a whole: limits, token, metrics, models that are replaced, and its end."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bertjobs.serve.server import Address, bound
from tests.conftest import Bertjobs, wait_until
from tests.finetune.models import their_folder
from tests.serve.client import Answer, Running, serving

SENTENCES = "BertForSequenceClassification"
KEPT_BYTES = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[-1])
"""Of a connection, by the system, on the side that writes, at most."""


def raw(server: Running, data: bytes) -> bytes:
    """What comes back for bytes, until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(data)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_a_body_that_is_too_large(server: Running) -> None:
    for size in (20_001, 300_000, 20_000_000):
        answer = server.post("/classify", b"x" * size)
        assert answer.status == 413
        assert answer.content["error"] == "the body is larger than 20,000 bytes"
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("head", "status"),
    [("POST /classify", 413), ("POST /classfy", 404), ("POST /classify HTTP/1.1\r\nContent-Encoding: gzip", 415)],
)
def test_a_client_that_reads_once_it_has_sent_all_gets_its_answer(server: Running, head: str, status: int) -> None:
    first, _, more = head.partition(" HTTP/1.1\r\n")
    chunk, count = b"x" * 10_000, 20
    lines = [f"{first} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(chunk) * count}"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, *filter(None, [more]), "", ""]).encode())
        for _ in range(count):
            connection.sendall(chunk)
            time.sleep(0.05)
        assert connection.recv(65536).startswith(f"HTTP/1.1 {status}".encode())
        assert connection.recv(65536) == b"", "closed, and not reset"


def test_a_body_that_is_too_slow(server: Running) -> None:
    began = time.monotonic()
    answer = raw(server, b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert b"HTTP/1.1 408" in answer
    assert b"the body did not arrive within 2 s" in answer
    assert time.monotonic() - began >= 1.9


@pytest.mark.parametrize("sent", [b"", b"POST /classify HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_is_too_slow(server: Running, sent: bytes) -> None:
    began = time.monotonic()
    answer = raw(server, sent)
    assert answer.startswith(b"HTTP/1.1 408") if sent else answer == b""
    assert time.monotonic() - began >= 1.9


def test_a_second_head_that_is_too_slow(server: Running) -> None:
    """A slow drip does not gain time: the limit runs from the head's first byte."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        time.sleep(2.5)  # between requests it may take its time
        began = time.monotonic()
        for byte in b"GET /v2/h":
            connection.sendall(bytes([byte]))
            time.sleep(0.2)
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began >= 1.9


def test_a_compressed_body(server: Running) -> None:
    answer = server.post("/classify", {"text": "a"}, {"Content-Encoding": "gzip"})
    assert answer.status == 415
    assert "the body is compressed: 'gzip'" in answer.content["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "hint"),
    [
        ("GET", "/classfy", 404, "did you mean '/classify'?"),
        ("GET", "/classify", 405, None),
        ("POST", "/v2", 405, None),
        ("DELETE", "/v2/models/films", 405, None),
    ],
)
def test_other_routes_and_methods(server: Running, method: str, path: str, status: int, hint: str | None) -> None:
    answer = server.send(method, path, None, None)
    assert answer.status == status
    if hint:
        assert answer.content["hint"] == hint
    assert path in answer.content["error"]


def test_head_is_answered_and_a_405_says_which_methods_there_are(server: Running) -> None:
    """RFC 9110, 9.3.2 and 15.5.6."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for path in ("/v2/health/ready", "/v2/health/live", "/metrics", "/", "/v2/models/films/ready"):
        connection.request("HEAD", path)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b""), path
    connection.request("GET", "/classify")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Allow")) == (405, "POST")
    answer.read()
    connection.close()


def test_metrics_count_by_route_model_and_code(server: Running) -> None:
    def count(**labels: str) -> float:
        return server.metric("bertjobs_requests_total", **labels)

    good = {"route": "/v2/models/{name}/infer", "model": "films", "code": "200"}
    before, packs = count(**good), server.metric("bertjobs_batch_tokens_count", model="films")
    bad = count(route="/classify", code="422")
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a film"]}]}
    assert server.post("/v2/models/films/infer", body).status == 200
    assert server.post("/classify", {"txt": 1}).status == 422
    server.get("/nowhere/at/all")
    assert count(**good) == before + 1
    assert count(route="/classify", code="422") == bad + 1
    assert count(route="", code="404") >= 1
    assert server.metric("bertjobs_batch_tokens_count", model="films") == packs + 1
    assert server.metric("bertjobs_request_seconds_count", route=good["route"], model="films") >= 1
    assert server.metric("bertjobs_model_version", model="films") == 1
    assert (server.metric("bertjobs_queue_rows"), server.metric("bertjobs_queue_tokens")) == (0, 0)
    assert server.metric("bertjobs_requests_in_progress") == 1  # that which asks
    assert server.metric("process_resident_memory_bytes") > 1e7


def test_a_client_that_hangs_up_is_counted(server: Running) -> None:
    before = server.metric("bertjobs_requests_total", code="499")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
    wait_until(lambda: server.metric("bertjobs_requests_total", code="499") == before + 1)


def test_the_schema_of_the_routes_is_served(server: Running) -> None:
    paths = server.get("/openapi.json").content["paths"]
    assert {"/classify", "/v2/models/{name}/infer", "/v1/models/{name}:predict"} <= set(paths)


def test_only_this_machine_is_served_by_default(server: Running) -> None:
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    places = [line.split()[1] for line in listening if line.split()[3] == "0A"]
    assert [place for place in places if int(place.split(":")[1], 16) == server.port] == [f"0100007F:{server.port:04X}"]


@pytest.fixture(scope="module")
def guarded(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("guarded")
    words = (folders["films"], "--token-env", "SECRET", "--max-requests", 2, "--watch-seconds", 0)
    with serving(place, *words, environ={"SECRET": "s3cr3t-t0k3n"}) as running:
        yield running


def test_a_token_is_needed(guarded: Running) -> None:
    body = {"text": "a film"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cr3t-t0k3n"}):
        answer = guarded.post("/classify", body, headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.content["hint"] == "Authorization: Bearer TOKEN"
    for path in ("/metrics", "/v1/models", "/v2", "/openapi.json", "/nowhere"):
        assert guarded.get(path).status == 401
    assert guarded.post("/classify", body, {"Authorization": "Bearer s3cr3t-t0k3n"}).status == 200
    for path in ("/", "/v2/health/live", "/v2/health/ready"):
        assert guarded.get(path).status == 200
    assert "s3cr3t" not in guarded.log
    command = Path(f"/proc/{guarded.process.pid}/cmdline").read_bytes()
    assert b"s3cr3t" not in command


def test_too_many_requests_at_once(guarded: Running) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cr3t-t0k3n\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", guarded.port)) as one, \
            socket.create_connection(("127.0.0.1", guarded.port)) as other:  # fmt: skip
        one.sendall(head)
        other.sendall(head)
        answers = []

        def is_refused() -> bool:  # once both heads have been read
            answers.append(guarded.post("/classify", {"text": "a"}, {"Authorization": "Bearer s3cr3t-t0k3n"}))
            return answers[-1].status == 429

        wait_until(is_refused)
        assert int(answers[-1].headers["retry-after"]) >= 1
    wait_until(lambda: guarded.get("/v2/health/live").status == 200)


def test_who_has_no_token_takes_nobody_s_place(guarded: Running) -> None:
    """Such a client has its answer, and is only given time to send what it promised."""
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    with ExitStack() as stack:
        for path in (b"/classify", b"/classify", b"/v2/health/live", b"/"):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", guarded.port), timeout=60))
            connection.sendall(head % path)
            assert connection.recv(12) in (b"HTTP/1.1 401", b"HTTP/1.1 405")
        answer = guarded.post("/classify", {"text": "a"}, {"Authorization": "Bearer s3cr3t-t0k3n"})
        assert answer.status == 200


def test_a_folder_is_replaced_while_it_is_asked(folders: dict[str, Path], tmp_path: Path) -> None:
    """No request is lost, and each answer is of one of the two models."""
    folder = Path(shutil.copytree(folders["films"], tmp_path / "films"))
    their_folder(tmp_path / "new", SENTENCES, ("bad", "good", "fair", "odd"))
    answers: list[Answer] = []
    with serving(tmp_path, folder, "--watch-seconds", 0.2) as server:
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                answers.append(server.post("/classify", {"text": "a fine film"}))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            folder.rename(tmp_path / "old")
            (tmp_path / "new").rename(folder)
            wait_until(lambda: answers and answers[-1].content["version"] == "2")
            (folder / "config.json").write_text("{")
            wait_until(lambda: server.metric("bertjobs_model_stale", model="films") == 1)
            time.sleep(0.3)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert server.metric("bertjobs_model_loads_total", result="failed") >= 1
        assert "its replacement cannot be loaded, version 2 stays" in server.log
    assert {answer.status for answer in answers} == {200}
    seen = {(answer.content["version"], len(answer.content["probabilities"])) for answer in answers}
    assert seen == {("1", 3), ("2", 4)}
    for version in ("1", "2"):
        assert len({json.dumps(one.content["label"]) for one in answers if one.content["version"] == version}) == 1


def slow_bodies(server: Running, count: int) -> list[socket.socket]:
    """Requests of which the last byte is missing."""
    body = json.dumps({"text": "a fine film"}).encode()
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    made = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(count)]
    for connection in made:
        connection.sendall(head + body[:-1])
    return made


def test_term_ends_it_once_the_answers_are_given(folders: dict[str, Path], tmp_path: Path) -> None:
    with serving(tmp_path, folders["films"]) as server:
        kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        kept.request("GET", "/v2/health/ready")
        response = kept.getresponse()
        response.read()
        assert response.status == 200
        waiting = slow_bodies(server, 5)
        wait_until(lambda: server.metric("bertjobs_requests_in_progress") == 6)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/v2/health/ready").status == 503)
        refused = server.post("/classify", {"text": "a film"})
        assert refused.status == 503
        assert refused.content["error"] == "the server is ending"
        assert refused.headers["retry-after"]
        assert server.get("/v2/health/live").status == 200
        kept.request("POST", "/classify", b"{}")
        assert kept.getresponse().status == 503
        for connection in waiting:
            connection.sendall(b"}")
        for connection in waiting:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.close()
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log


def test_a_slow_reader_gets_its_whole_answer_though_the_server_ends(folders: dict[str, Path], tmp_path: Path) -> None:
    """It is larger than what the system keeps of a connection on either side."""
    count = 15_000
    with serving(tmp_path, folders["words"], "--max-rows", count, "--max-tokens", 4 * count,
                 "--max-queue-tokens", 4 * count) as server:  # fmt: skip
        body = json.dumps({"input": ["a"] * count}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(
                b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            answer = bytearray(connection.recv(4096))
            server.process.send_signal(signal.SIGTERM)
            time.sleep(2.5)  # more than uvicorn itself would wait
            while part := connection.recv(1 << 16):
                answer += part
        assert server.process.wait(60) == 0
    head, _, content = bytes(answer).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert len(content) > 1.5 * KEPT_BYTES, "the system would have kept all of it"
    assert len(json.loads(content)["data"]) == count


def test_what_does_not_finish_in_time_is_given_up(folders: dict[str, Path], tmp_path: Path) -> None:
    with serving(tmp_path, folders["films"], "--drain-seconds", 0.5, "--body-seconds", 100) as server:
        waiting = slow_bodies(server, 2)
        wait_until(lambda: server.metric("bertjobs_requests_in_progress") == 3)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert "2 requests are given up after 0.5 s" in server.log
        for connection in waiting:
            connection.close()


def test_ctrl_c_ends_it_with_130(folders: dict[str, Path], tmp_path: Path) -> None:
    with serving(tmp_path, folders["films"]) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 130
        assert "Traceback" not in server.log


def test_what_cannot_be_served(inside: Bertjobs, folders: dict[str, Path]) -> None:
    films = folders["films"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases: dict[tuple[object, ...], str] = {
            ("nowhere",): "there is no run named 'nowhere'",
            (films, films): "two models are called 'films'",
            (films, "--token-env", "NOT_SET"): "the environment has no NOT_SET",
            (films, "--host", "nowhere.invalid"): "there is no address 'nowhere.invalid'",
            (films, "--port", taken.getsockname()[1]): "cannot be used: Address already in use",
            (films, "--port", 70000): "70000 is not a port",
            (films, "--max-rows", 0): "0 is not a number above 0",
            (films, "--max-queue-tokens", 10): "one request may have 32,768",
            (films, "--max-row", 10): "did you mean '--max-rows'?",
        }
        for words, message in cases.items():
            done = inside("serve", *words)
            assert (done.returncode, message in done.stderr) == (64, True), done.stderr
            assert "Traceback" not in done.stderr


def test_an_address_for_everybody_without_a_token_is_noted(folders: dict[str, Path], tmp_path: Path) -> None:
    with serving(tmp_path, folders["films"], "--host", "0.0.0.0") as server:
        assert "note: everybody who reaches 0.0.0.0 can use the models: no --token-env was given" in server.log
        assert server.get("/v2/health/ready").status == 200


def test_without_its_packages_it_says_what_to_install(folders: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import importlib.util as util, sys\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'uvicorn' else find(name, *more)\n"
        "from bertjobs.cli.main import main\n"
        f"sys.exit(main(['serve', {str(folders['films'])!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "uvicorn is not installed here" in done.stderr
    assert "pip install 'bertjobs[serve]'" in done.stderr


def test_small_answers_do_not_wait_for_an_acknowledgement() -> None:
    """asyncio only turns Nagle's algorithm off where a socket says that it is TCP's: an answer took 40 ms without."""
    with bound(Address("127.0.0.1", 0)) as listening:
        assert listening.proto == socket.IPPROTO_TCP
