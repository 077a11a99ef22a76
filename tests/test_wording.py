"""Colours are for terminals that know them and users who want them; they take no width."""

from __future__ import annotations

import io
import re

import pytest

from bertjobs.wording import PLAIN, Colour, Paint, columns

XTERM = {"TERM": "xterm"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "on"),
    [
        (Terminal(), XTERM, True),
        (Terminal(), {**XTERM, "NO_COLOR": ""}, True),
        (Terminal(), {**XTERM, "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {}, False),
        (io.StringIO(), XTERM, False),
    ],
)
def test_colour_is_for_terminals(stream: io.StringIO, environ: dict[str, str], on: bool) -> None:
    assert Paint.of(stream, environ).on is on


def test_paint_changes_nothing_where_it_is_off_or_says_nothing() -> None:
    assert PLAIN("RUNNING", Colour.GOOD) == "RUNNING"
    assert Paint(True)("RUNNING", None) == "RUNNING"
    assert Paint(True)("", Colour.BAD) == ""
    assert Paint(True)("RUNNING", Colour.GOOD) == "\x1b[32mRUNNING\x1b[0m"


def test_colours_take_no_width() -> None:
    def table(paint: Paint) -> list[str]:
        rows = [["a", "RUNNING", "x"], ["long name", "DONE", "y"]]
        return columns([[name, paint(state, Colour.GOOD), last] for name, state, last in rows])

    plain = table(PLAIN)
    assert plain == ["a          RUNNING  x", "long name  DONE     y"]
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in table(Paint(True))] == plain
    assert table(Paint(True)) != plain
