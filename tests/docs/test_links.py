"""Links in README, docs/ and the other pages lead somewhere: to an existing file, and to a heading that it has.

Nothing here needs a network. Web addresses are not followed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, SITE, Page

WEB = re.compile(r"[a-z]+:")


def broken(page: Page, target: str) -> str | None:
    """What is wrong with a link of a page, or None."""
    if WEB.match(target):
        return None
    path, _, anchor = target.partition("#")
    file = (page.path.parent / path).resolve() if path else page.path
    if not file.is_relative_to(ROOT) or not file.exists():
        return f"{target}: there is no such file"
    if anchor and anchor not in Page(file).anchors():
        return f"{target}: {file.name} has no such heading"
    if page.path.parent == SITE and file.suffix == ".md" and file.parent != SITE:
        return f"{target}: the site holds the pages of docs/ only; name the file instead"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Page) -> None:
    wrong = [words for target in page.links() if (words := broken(page, target))]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[x](there.md)", None),
        ("[x](there.md#a-heading-with-code-twice)", None),
        ("[x](there.md#a-heading-with-code-twice-1)", None),
        ("[x](#own)", None),
        ("![x](picture.png)", None),
        ("[x](https://example.org/nowhere)", None),
        ("[x](nowhere.md)", "nowhere.md: there is no such file"),
        ("[x](There.md)", "There.md: there is no such file"),
        ("[x](../../outside.md)", "../../outside.md: there is no such file"),
        ("[x](there.md#nothing)", "there.md#nothing: there.md has no such heading"),
        ("[x](#nothing)", "#nothing: page.md has no such heading"),
    ],
)
def test_a_broken_link_is_detected(
    text: str, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.docs.test_links.ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# A heading, with `code`: twice\n\n# A heading, with `code`: twice\n")
    (tmp_path / "picture.png").write_text("")
    (tmp_path / "page.md").write_text(f"# Own\n\n{text}\n")
    page = Page(tmp_path / "page.md")
    assert [broken(page, target) for target in page.links()] == [words]


def test_every_page_is_in_the_site() -> None:
    index = (SITE / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(listed) == sorted(
        page.path.stem for page in PAGES if page.path.parent == SITE and page.path.stem != "index"
    )
