"""docs/troubleshooting.md has a section for each verdict of the doctor, and its table leads to all of them."""

from __future__ import annotations

import pytest

from bertjobs.launch.doctor.log_errors import Cause
from tests.docs.pages import SITE, Page, slug

PAGE = Page(SITE / "troubleshooting.md")
SECTIONS = [after.content for token, after in zip(PAGE.tokens, PAGE.tokens[1:], strict=False) if token.tag == "h3"]
VERDICTS = [slug(section) for section in SECTIONS if section]


@pytest.mark.parametrize("cause", Cause)
def test_a_verdict_has_a_section(cause: Cause) -> None:
    assert slug(cause) in VERDICTS


def test_every_section_is_in_the_table() -> None:
    assert sorted(set(VERDICTS)) == sorted(link[1:] for link in PAGE.links() if link.startswith("#"))
