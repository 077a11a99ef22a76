"""How text from elsewhere is shown; colours are for terminals that know them and users who want them."""

from __future__ import annotations

import io
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import InputError, nearest
from bertjobs.wording import PLAIN, Colour, Paint, columns, harmless, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        ("12%\r100%", "12%\\x0d100%"),
        ("\x9b31mred", "\\x9b31mred"),
        ("gpj.\u202egnp", "gpj.\\u202egnp"),
        ("a\u2067b\u2028c", "a\\u2067b\\u2028c"),
        ("\ud800", "\\ud800"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("Bücher 本 हिन्दी 👩", "Bücher 本 हिन्दी 👩"),
    ],
)
def test_what_a_terminal_obeys_is_written_out(text: str, expected: str) -> None:
    assert harmless(text) == expected


@given(st.text())
def test_harmless_text_can_be_printed_and_holds_no_control_characters(text: str) -> None:
    clean = harmless(text)
    clean.encode("utf-8")
    assert not [c for c in clean if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n"]
    assert not [c for c in clean if unicodedata.bidirectional(c) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI")]
    assert harmless(clean) == clean


def test_errors_are_harmless_to_a_terminal() -> None:
    error = InputError("sbatch refused: \x1b[31mno", where="/data/\x9b1m", hint="see \u202eabc\nand more")
    assert error.render() == (
        "error: sbatch refused: \\x1b[31mno\n  where: /data/\\x9b1m\n  hint:  see \\u202eabc\nand more"
    )


def test_a_value_of_any_kind_is_shown_in_few_words() -> None:
    bomb: list[object] = [1]
    for _ in range(60):
        bomb = [bomb, bomb]
    assert len(shown(bomb)) < 200
    assert shown(10**6000) == "a very large int"
    assert shown("fp16") == "'fp16'"


def test_what_was_typed_is_not_suggested() -> None:
    """It did not work: "there is no run named 'dgx1-16g'; did you mean 'dgx1-16g'?" helps nobody."""
    assert nearest("dgx1-16g", ["dgx1-16g", "dgx1-32g"]) == "did you mean 'dgx1-32g'?"
    assert nearest("dgx1-16g", ["dgx1-16g"]) is None
    assert nearest("abc", ["xyz", "abc"]) == "choose one of: xyz"


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


def test_colours_stay_where_they_are_shown_and_nothing_else_does() -> None:
    on = Paint(True)
    text = f"{on('RUNNING', Colour.GOOD)} \x1b[2J"
    assert harmless(text, on) == "\x1b[32mRUNNING\x1b[0m \\x1b[2J"
    assert harmless(text) == "\\x1b[32mRUNNING\\x1b[0m \\x1b[2J"
