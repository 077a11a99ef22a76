"""The page about serving: each of its curl lines gets an answer, and its limits are the program's."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjobs.cli.serve import LIMITS
from bertjobs.serve.limits import Limits
from bertjobs.serve.texts import TEXT_ROUTES
from tests.docs.pages import SITE, Page
from tests.serve.client import Running, serving
from tests.serve.conftest import folders  # noqa: F401

PAGE = Page(SITE / "serving.md")
TEXT = PAGE.path.read_text(encoding="utf-8")
LINES = [line for block in PAGE.code_blocks() for line in block.splitlines() if line.startswith("curl ")]
NAMES = {"films": "reviews", "names": "names", "answers": "answers", "passages": "passages", "words": "words"}
"""Models of the tests, and what the page calls them."""


@pytest.fixture(scope="module")
def server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:  # noqa: F811
    models = [f"{ours}={folders[name]}" for name, ours in NAMES.items()]
    environ = {"BERT_TOKEN": "t0k3n"}
    with serving(tmp_path_factory.mktemp("docs"), *models, "--token-env", "BERT_TOKEN", environ=environ) as running:
        yield running


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("8000")[1][:60])
@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_a_line_of_the_page_gets_an_answer(server: Running, line: str) -> None:
    words = shlex.split(line.replace("127.0.0.1:8000", server.host).replace("$BERT_TOKEN", "t0k3n"))
    more = [] if "Authorization" in line else ["-H", "Authorization: Bearer t0k3n"]
    done = subprocess.run([*words, *more, "--fail-with-body"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert not done.stdout or json.loads(done.stdout)


def test_it_has_lines_for_all_routes() -> None:
    assert len(LINES) > 12
    for route in TEXT_ROUTES:
        assert any(route.path in line for line in LINES), route.path
        for field in route.fields:
            assert f"`{field}`" in TEXT or field in ("dimensions", "user"), field


def test_its_limits_are_the_programs() -> None:
    limits = vars(Limits())
    assert set(limits) == set(LIMITS)
    for flag, value in re.findall(r"`--(max-[a-z-]+|[a-z]+-seconds)`[^()]{0,2}\(?([\d,]+)", TEXT):
        name = flag.removeprefix("max-").replace("-", "_").replace("_seconds", "_s")
        if name in limits and name != "body_bytes":
            assert float(value.replace(",", "")) == limits[name], flag
    assert limits["body_bytes"] == 2 << 20
