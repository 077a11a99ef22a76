"""200 requests at once, 5% of them bad: each bad one gets its answer, each good one its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bertjobs.finetune.loading import load_trained
from bertjobs.finetune.predict import Predictor
from tests.cluster.slurm import PATIENCE_S
from tests.finetune.models import WORDS
from tests.serve.client import Running, serving

AT_ONCE = 200
BODY_BYTES = 20_000
HUNG_UP = 0
"""Stands for the status of a request whose client does not wait for it."""

PLAIN = [word for word in WORDS if word.isalpha()]


@dataclass(frozen=True)
class Sent:
    """A request, and what is to come back: a status, and of good ones the answer."""

    path: str
    body: bytes
    status: int = 200
    expected: Any = None
    claims: int = -1
    """The length that its head says, if it is not the body's."""


@pytest.fixture(scope="module")
def server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With a queue that takes all of them, and small packs, so that there are many."""
    names = ("films", "names", "passages")
    limits = ("--max-body-bytes", BODY_BYTES, "--body-seconds", 1.5, "--batch-tokens", 200, "--watch-seconds", 0)
    with serving(tmp_path_factory.mktemp("faults"), *(folders[name] for name in names), *limits) as running:
        yield running


def good(folders: dict[str, Path], count: int, draw: random.Random) -> list[Sent]:
    """Requests of different lengths to several routes and models, with what the models say of them here."""
    models = {name: load_trained(folders[name], torch.device("cpu")) for name in ("films", "names", "passages")}
    made = []
    for kind in itertools.islice(itertools.cycle(("classify", "predict", "ner", "rerank")), count):
        text = " ".join(draw.choices(PLAIN, k=draw.randint(1, 50)))
        name = {"ner": "names", "rerank": "passages"}.get(kind, "films")
        model = models[name]
        if kind == "rerank":
            passages = [" ".join(draw.choices(PLAIN, k=draw.randint(1, 30))) for _ in range(5)]
            asked = [{"query": "a film", "passage": passage} for passage in passages]
            odds = [one["log_odds"] for one in Predictor(model).predict(model.task.from_text(asked))]
            body: Any = {"query": "a film", "texts": passages, "raw_scores": True}
            made.append(Sent("/rerank", json.dumps(body).encode(), expected=sorted(odds, reverse=True)))
            continue
        (said,) = Predictor(model).predict(model.task.from_text([{"text": text}]))
        if kind == "ner":
            made.append(Sent("/ner", json.dumps({"text": text}).encode(), expected=said["tags"]))
        else:
            path = "/classify" if kind == "classify" else "/v1/models/films:predict"
            body = {"text": text} if kind == "classify" else {"instances": [text]}
            made.append(Sent(path, json.dumps(body).encode(), expected=list(said["probabilities"].values())))
    return made


def bad() -> list[Sent]:
    """One of each kind; the last two never send all of their body."""
    ids = {"instances": [{"input_ids": [2, 5, 3]}, {"input_ids": [2, 1000, 3]}]}
    tensor = {"name": "text", "shape": [3], "datatype": "BYTES", "data": ["a film"]}
    return [
        Sent("/classify", b'{"text": "a film"', 400),
        Sent("/classify", b'{"text": "' + b"film " * BODY_BYTES + b'"}', 413),
        Sent("/classify", b'{"text": "a film", "modle": "films"}', 422),
        Sent("/classify", b'{"text": "a f\xfflm"}', 400),
        Sent("/v1/models/films:predict", json.dumps(ids).encode(), 422),
        Sent("/v2/models/films/infer", json.dumps({"inputs": [tensor]}).encode(), 422),
        Sent("/v2/models/flims/infer", b"{}", 404),
        Sent("/classify", json.dumps({"text": "film " * 300}).encode(), 422),
        Sent("/classify", b'{"text": "a film', 408, claims=100),
        Sent("/classify", b'{"text": "a film', HUNG_UP, claims=100),
    ]


async def answered(port: int, sent: Sent) -> tuple[int, Any]:
    """The status and the content that come back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        length = len(sent.body) if sent.claims < 0 else sent.claims
        writer.write(
            f"POST {sent.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        writer.write(sent.body)
        await writer.drain()
        if sent.status == HUNG_UP:
            await asyncio.sleep(0.1)
            return HUNG_UP, None
        raw = await reader.read()
    finally:
        writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


def said(sent: Sent, content: Any) -> Any:
    """Of an answer what `Sent.expected` is about."""
    if sent.path == "/rerank":
        return [one["score"] for one in content]
    if sent.path == "/ner":
        return content["tags"]
    return list((content if sent.path == "/classify" else content["predictions"][0])["probabilities"].values())


def test_each_bad_request_gets_its_answer_and_no_good_one_is_lost(server: Running, folders: dict[str, Path]) -> None:
    draw = random.Random(3)
    requests = [*bad(), *good(folders, AT_ONCE - len(bad()), draw)]
    assert len(bad()) * 20 == AT_ONCE
    draw.shuffle(requests)
    packs = server.metric("bertjobs_batch_tokens_count")

    async def all_at_once() -> list[tuple[int, Any]]:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.gather(*(answered(server.port, sent) for sent in requests))

    for sent, (status, content) in zip(requests, asyncio.run(all_at_once()), strict=True):
        assert status == sent.status, (sent, content)
        if sent.status == 200:
            found = said(sent, content)
            assert found == (sent.expected if sent.path == "/ner" else pytest.approx(sent.expected, abs=1e-4))
        elif sent.status != HUNG_UP:
            assert content["error"]
    assert server.metric("bertjobs_requests_total", code="499") == 1
    assert server.metric("bertjobs_requests_total", code="500") == 0
    assert server.metric("bertjobs_requests_total", code="200", model="films") >= 95
    assert 0 < server.metric("bertjobs_batch_tokens_count") - packs < AT_ONCE
    assert (server.metric("bertjobs_queue_rows"), server.metric("bertjobs_queue_tokens")) == (0, 0)
    assert "Traceback" not in server.log


def test_a_full_queue_turns_away_and_loses_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    limits = ("--max-queue-tokens", 400, "--max-tokens", 400, "--batch-tokens", 60, "--watch-seconds", 0)
    body = json.dumps({"instances": ["a fine film and a bad film " * 8] * 6}).encode()
    with serving(tmp_path, folders["films"], *limits) as running:
        sent = Sent("/v1/models/films:predict", body)

        async def all_at_once() -> list[tuple[int, Any]]:
            return await asyncio.gather(*(answered(running.port, sent) for _ in range(60)))

        answers = asyncio.run(all_at_once())
        statuses = {status for status, _ in answers}
        assert statuses <= {200, 429}
        assert 200 in statuses
        first = next(content for status, content in answers if status == 200)["predictions"][0]["probabilities"]
        for status, content in answers:
            if status == 200:
                assert len(content["predictions"]) == 6
                for one in content["predictions"]:
                    assert one["probabilities"] == pytest.approx(first, abs=1e-4)
            else:
                assert "tokens wait already, and at most 400 may" in content["error"]
