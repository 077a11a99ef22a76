"""The page at /: one file, which loads nothing from elsewhere and may run nothing but its own script."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

_TEXT = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def _hash_of(tag: str) -> str:
    """What a content security policy calls the content of the page's one element of this tag."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", _TEXT, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


PAGE = _TEXT.encode()
PAGE_HEADERS = {
    "content-security-policy": f"default-src 'none'; script-src {_hash_of('script')}; style-src {_hash_of('style')}; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
