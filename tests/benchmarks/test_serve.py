"""What the comparison of servers sends, counts and accepts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.benchmarks.test_data import BENCHMARKS, load
from tests.serve.client import serving
from tests.serve.conftest import folders  # noqa: F401


@pytest.fixture(scope="module")
def serve() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield load("benchmark_serve", BENCHMARKS / "serve.py")


def runs(rate: float) -> list[dict[str, Any]]:
    latency = {"p50": 0.1, "p90": 0.2, "p99": 0.3}
    one = {"clients": 50, "requests": 10, "requests_per_s": rate, "processor_s_per_request": None}
    return [{**one, "latency_s": latency, "statuses": {"200": 10}}]


def test_it_is_compared_with_the_better_of_the_plain_servers(serve: ModuleType) -> None:
    plain = {"plain, threads": runs(5), "plain, async": runs(9)}
    assert serve.reached({"bertjobs": runs(27), **plain}, [1, 50])
    assert not serve.reached({"bertjobs": runs(26), **plain}, [1, 50])
    triton = {"bertjobs, KServe, ids": runs(20), "triton, ids": runs(20)}
    assert serve.reached({"bertjobs": runs(27), **plain, **triton}, [50])
    assert not serve.reached({**triton, "triton, ids": runs(21)}, [50])


def test_texts_are_short_and_long_ones_mixed(serve: ModuleType) -> None:
    texts = serve.texts(100, 1)
    words = [len(text.split()) for text in texts]
    assert texts == serve.texts(100, 1)
    assert (len(texts), min(words) >= 4, max(words) <= 300) == (100, True, True)
    assert 55 <= sum(count <= 30 for count in words) <= 65
    assert words != sorted(words)


def test_the_table_names_what_was_not_answered(serve: ModuleType) -> None:
    (one,) = runs(5.0)
    lines = serve.table({"bertjobs": [one | {"statuses": {"200": 10, "429": 2}}]}).splitlines()
    assert lines[1].split() == ["bertjobs", "50", "5.0", "100.0", "300.0", "-", "2", "x", "429"]


def test_clients_count_what_they_get(folders: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    bodies = [json.dumps({"text": "a fine film"}), json.dumps({"txt": "a fine film"})]
    (tmp_path / "requests.json").write_text(json.dumps({"path": "/classify", "bodies": bodies}))
    with serving(tmp_path, folders["films"]) as server:
        words = [BENCHMARKS / "serve_client.py", tmp_path / "requests.json", server.port, 3, 0.5]
        done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=True)
        seen = json.loads(done.stdout)
        answered = server.metric("bertjobs_requests_total", route="/classify")
    assert set(seen["statuses"]) == {"200", "422"}
    assert seen["requests"] == seen["statuses"]["200"]
    assert sum(seen["statuses"].values()) == answered
    assert seen["latency_s"]["p50"] <= seen["latency_s"]["p99"]
