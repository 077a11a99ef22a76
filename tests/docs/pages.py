"""The Markdown pages of the repository, parsed: links, headings, code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs"


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it: lower case, punctuation out, spaces to hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def tokens(self) -> list[Token]:
        parser = MarkdownIt("commonmark").enable("table")
        return parser.parse(self.path.read_text(encoding="utf-8"))

    def inline(self) -> Iterator[Token]:
        """The tokens inside paragraphs, headings and tables."""
        for token in self.tokens:
            yield from token.children or ()

    def links(self) -> list[str]:
        """The targets of all links and pictures."""
        targets = [token.attrGet("href") or token.attrGet("src") for token in self.inline()]
        return [str(target) for target in targets if target]

    def headings(self) -> list[str]:
        """As a reader sees them."""
        pairs = zip(self.tokens, self.tokens[1:], strict=False)
        texts = [after.children or () for token, after in pairs if token.type == "heading_open"]
        return ["".join(child.content for child in children) for children in texts]

    def anchors(self) -> set[str]:
        """What a link to the page may name after its ``#``: equal headings are numbered."""
        made: list[str] = []
        for name in map(slug, self.headings()):
            earlier = sum(name == other for other in map(slug, self.headings()[: len(made)]))
            made.append(f"{name}-{earlier}" if earlier else name)
        return set(made)

    def code_spans(self) -> list[str]:
        """`Code` inside text."""
        return [token.content for token in self.inline() if token.type == "code_inline"]

    def code_blocks(self) -> list[str]:
        """Indented and fenced blocks, except for the site's own directives."""
        blocks = [token for token in self.tokens if token.type in ("code_block", "fence")]
        return [token.content for token in blocks if not token.info.startswith("{")]


PAGES = [
    Page(path)
    for path in sorted([*ROOT.glob("*.md"), *SITE.glob("*.md"), *(ROOT / "data").glob("*.md")])
]  # fmt: skip
