"""docs/troubleshooting.md has a section for each verdict of the doctor, and its table leads to all of them."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from bertjobs.launch.doctor.remedies import Verdict
from bertjobs.run.causes import Cause
from tests.docs.pages import SITE, Page, slug

PAGE = Page(SITE / "troubleshooting.md")
SECTIONS = [after.content for token, after in zip(PAGE.tokens, PAGE.tokens[1:], strict=False) if token.tag == "h3"]
NAMES = [slug(section) for section in SECTIONS if section]
KIND = get_type_hints(Verdict)["cause"]
VERDICTS = [str(verdict) for kind in get_args(KIND) or (KIND,) for verdict in kind]


def test_there_are_verdicts() -> None:
    assert {"done", "running", "hang"} <= set(VERDICTS)


@pytest.mark.parametrize("word", sorted({*VERDICTS, *map(str, Cause)}))
def test_a_verdict_has_a_section(word: str) -> None:
    """Or, if the journal has its own word for it, is named in one."""
    assert slug(word) in NAMES or word in PAGE.code_spans()


def test_every_section_is_in_the_table() -> None:
    assert sorted(set(NAMES)) == sorted(link[1:] for link in PAGE.links() if link.startswith("#"))
