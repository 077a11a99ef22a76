"""What is wrong with a YAML file, in plain words, with its line."""

from __future__ import annotations

import pytest

from bertjobs.errors import InputError
from bertjobs.files.yaml_document import YamlDocument, read_document

TEXT = """\
# a comment
recipes:
  mine:
    seed: 1
    phases:
      1: {lr: 2,
          steps: 3}
  <<: &more {other: {seed: 4}}
"""


def document(text: str) -> YamlDocument:
    read, twice = read_document(text, "own.yml")
    assert twice == []
    return read


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), "own.yml, line 1"),
        (("recipes",), "own.yml, line 2: recipes"),
        (("recipes", "mine", "seed"), "own.yml, line 4: recipes.mine.seed"),
        (("recipes", "mine", "phases", 1, "steps"), "own.yml, line 7: recipes.mine.phases.1.steps"),
        (("recipes", "mine", "nothing", "deeper"), "own.yml, line 3: recipes.mine.nothing.deeper"),
        (("recipes", "other", "seed"), "own.yml, line 8: recipes.other.seed"),
    ],
)
def test_a_key_has_a_line(path: tuple[object, ...], place: str) -> None:
    assert document(TEXT).place(*path) == place


def test_an_empty_file_has_no_keys() -> None:
    assert document("# nothing\n").content == {}
    assert document("").place("recipes") == "own.yml, line 1: recipes"


def test_all_duplicate_keys_are_reported() -> None:
    read, twice = read_document("a: 1\nb: {c: 1, c: 2}\na: 3\n", "own.yml")
    assert read.content == {"a": 3, "b": {"c": 2}}
    errors = dict(twice)
    assert sorted(errors) == [2, 3]
    assert (errors[3].what, errors[3].where) == ("key 'a' is given twice", "own.yml, line 3, column 1")
    assert errors[3].hint == "the first is in line 1"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a:\n  b:\n    c: 1\n   d: 2\n", 4, "line 4 is indented by 3 spaces, but the keys above it by 0, 2 and 4"),
        ("a:\n    b: 1\n  c: 2\n", 3, "line 3 is indented by 2 spaces, but the keys above it by 0 and 4"),
        ("  a: 1\nb: 2\n", 2, "line 2 is indented by 0 spaces, but the keys above it by 2"),
        ("a:\n  b:\n  - 1\n # no\n - 2\n", 5, "line 5 is indented by 1 space, but the keys above it by 0 and 2"),
        ("a: 1\n  b: 2\n", 2, "line 2 is indented deeper than line 1, whose key has a value already"),
        ("a:\n  b\n\n  c: 1\n", 2, "line 2 has no ': ' between a key and a value"),
        ("a:\n  b:x\n  c: 1\n", 2, "line 2 has no ': ' between a key and a value"),
        ("a:\n\tb: 1\n", 2, "line 2 is indented with a tab"),
        ("a: b: c\n", 1, "a value contains ': '"),
        ("a: 1\nb: {c: [1, 2\n", 2, "'[' is not closed, or a comma is missing after it"),
        ("a: {b: 1\nc: 2\n", 1, "'{' is not closed, or a comma is missing after it"),
        ("a: {b: 1 c: 2}\n", 1, "'{' is not closed, or a comma is missing after it"),
        ("a: {b: 1}}\n", 1, "'}' closes nothing that was opened"),
        ("a: 1\nb: 'c\nd: 2\n", 2, "a quotation mark is never closed"),
        ("a: 1\nb: @c\n", 2, "a value cannot start with '@'"),
        ("a: *b\n", 1, "*b refers to nothing"),
        ("a: 1\n---\nb: 2\n", 2, "a second document begins, but a file may contain only one"),
        ("a: - 1\n", 1, "a list cannot begin here"),
        ("- 1\na: 2\n", 2, "line 2 does not continue what begins in line 1"),
        ("a: 'b' c\n", 1, "there is more text after the end of a value"),
        ('a: "\\q"\n', 1, "\\q means nothing between double quotes"),
        ("{[1]: 2}: 3\n", 1, "a key must be one word"),
        ("a\nb: 1\n", 1, "line 1 has no ': ' between a key and a value"),
    ],
)
def test_what_is_not_yaml_is_reported_in_plain_words(text: str, line: int, what: str) -> None:
    with pytest.raises(InputError) as error:
        read_document(text, "own.yml")
    assert error.value.what.startswith(f"not valid YAML: {what}")
    assert f"own.yml, line {line}, column " in str(error.value.where)
    for jargon in ("block", "token", "mapping", "scalar", "stream"):
        assert jargon not in str(error.value)


@pytest.mark.parametrize(
    "text", ["a: \x01", "[" * 5000, "a: 2024-99-99", "a: !!python/object/apply:os.system [id]", "%x\n", "a: &\n"]
)
def test_anything_else_has_its_own_error_too(text: str) -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        read_document(text, "own.yml")
