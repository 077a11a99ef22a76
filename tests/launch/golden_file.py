"""Golden files: what is rendered is compared with a file that a person has read."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Compare ``text`` with golden/NAME; RENEW_GOLDEN=1 writes it anew instead, for `git diff` to show."""
    file = FOLDER / name
    if os.environ.get("RENEW_GOLDEN") == "1":
        file.write_text(text, encoding="utf-8")
    expected = file.read_text(encoding="utf-8") if file.exists() else ""
    assert text == expected, (
        f"{file} differs from what is rendered now. If the change is meant: "
        f"RENEW_GOLDEN=1 python -m pytest {Path(__file__).parent}, then read `git diff`."
    )
