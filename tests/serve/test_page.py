"""The page at /, in a real browser: what a person types, sees, and cannot break."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertjobs.serve.page import PAGE
from tests.serve.browser import Page, browser
from tests.serve.client import Running, serving

RESULT = "document.querySelector('#result').innerText"
HOSTILE = "Harry <img src=x onerror=\"document.title='broken'\"> likes apples </script><b>film</b>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as made:
        yield made


def opened(page: Page, server: Running) -> None:
    page.open(f"http://{server.host}/")
    page.wait_for("document.querySelectorAll('#model option').length > 0")


def ask(page: Page, model: str, route: str, **texts: str) -> str:
    """What the page shows after a person has chosen, typed and clicked."""
    page.choose("#model", model)
    page.choose("#route", route)
    page.evaluate("document.querySelector('#result').hidden = true")
    for name, text in texts.items():
        page.write(f"#{name}", text)
    page.click("#ask")
    page.wait_for("!document.querySelector('#result').hidden")
    return str(page.evaluate(RESULT))


def picture(page: Page, name: str) -> None:
    """Keep what is seen where BERTJOBS_PICTURES names a folder."""
    if folder := os.environ.get("BERTJOBS_PICTURES"):
        page.picture(Path(folder) / f"{name}.png")


def test_it_loads_nothing_from_elsewhere(server: Running) -> None:
    assert b"http" not in PAGE.replace(b"http-equiv", b"")
    headers = server.get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]


def test_the_models_are_there_to_choose(page: Page, server: Running) -> None:
    opened(page, server)
    names = page.evaluate("[...document.querySelectorAll('#model option')].map((one) => one.value)")
    assert names == ["films", "stars", "topics", "names", "answers", "passages", "words"]
    page.choose("#model", "stars")
    assert page.evaluate("[...document.querySelectorAll('#route option')].map((one) => one.value)") == [
        "/classify",
        "/rerank",
    ]


def test_names_are_coloured_where_the_server_says(page: Page, server: Running) -> None:
    opened(page, server)
    text = "\U0001f34e Harry likes apples, and a film."
    shown = ask(page, "names", "/ner", text=text)
    entities = server.post("/ner", {"text": text}).content["entities"]
    marks = page.evaluate("[...document.querySelectorAll('mark')].map((one) => one.innerText.split('\\n')[0].trim())")
    assert len(marks) == len(entities) > 0
    for mark, entity in zip(marks, entities, strict=True):
        assert mark.startswith(entity["text"])
        assert mark.removeprefix(entity["text"]).strip() == entity["type"]
        assert f"{entity['probability']:.4f}" in shown
    assert page.evaluate("document.querySelector('.text').textContent.includes('\U0001f34e')")
    colour = page.evaluate("getComputedStyle(document.querySelector('mark')).backgroundColor")
    assert colour not in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)")
    picture(page, "names")


def test_text_is_shown_and_never_run(page: Page, server: Running) -> None:
    opened(page, server)
    title = page.evaluate("document.title")
    ask(page, "names", "/ner", text=HOSTILE)
    assert page.evaluate("document.querySelectorAll('#result img, #result b, #result script').length") == 0
    shown = "[...document.querySelector('.text').childNodes].map((one) => (one.firstChild ?? one).textContent).join('')"
    assert page.evaluate(shown) == HOSTILE
    assert page.evaluate("document.title") == title


def test_an_answer_a_class_words_and_passages(page: Page, server: Running) -> None:
    opened(page, server)
    asked = {"question": "what does harry like ?", "context": "harry likes apples and a film ."}
    answer = server.post("/qa", asked).content
    shown = ask(page, "answers", "/qa", **asked)
    assert shown.startswith(answer["answer"])
    assert page.evaluate("document.querySelector('mark').firstChild.textContent") == answer["answer"]
    picture(page, "answers")
    label = server.post("/classify", {"model": "films", "text": "a fine film"}).content["label"]
    assert ask(page, "films", "/classify", text="a fine film").startswith(label)
    picture(page, "films")
    guesses = server.post("/fill-mask", {"text": "a [MASK] film"}).content["masks"][0]
    assert guesses[0]["token"] in ask(page, "words", "/fill-mask", text="a [MASK] film")
    texts = ["bad apples", "a fine film"]
    (best, _) = server.post("/rerank", {"model": "passages", "query": "a film", "texts": texts}).content
    shown = ask(page, "passages", "/rerank", query="a film", texts="\n".join(texts))
    assert shown.index(texts[best["index"]]) < shown.index(texts[1 - best["index"]])
    assert "1.0000" in ask(page, "words", "/v1/embeddings", input="a film\na film")


def test_an_error_is_said_in_words(page: Page, server: Running) -> None:
    opened(page, server)
    assert "text 1 has no [MASK]" in ask(page, "words", "/fill-mask", text="a film")
    assert page.evaluate("document.querySelectorAll('.error').length") == 1


def test_it_asks_for_a_token(page: Page, folders: dict[str, Path], tmp_path: Path) -> None:
    with serving(tmp_path, folders["films"], "--token-env", "SECRET", environ={"SECRET": "t0k3n"}) as guarded:
        page.open(f"http://{guarded.host}/")
        page.wait_for(f"{RESULT}.includes('there is no token')")
        page.write("#token", "t0k3n")
        page.evaluate("document.querySelector('#token').dispatchEvent(new Event('change'))")
        page.wait_for("document.querySelectorAll('#model option').length > 0")
        assert ask(page, "films", "/classify", text="a fine film")
