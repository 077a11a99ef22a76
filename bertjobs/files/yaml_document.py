"""A YAML file that people write: its content, the line of each key, and what is wrong with it in plain words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from bertjobs.errors import InputError


@dataclass(frozen=True)
class YamlDocument:
    """The content of a file, and where it stands there.

    Attributes:
        label: what errors call the file.
        content: what YAML makes of it.
        root: the same as nodes, which know their lines; None if the file is empty.
    """

    label: str
    content: Any
    root: yaml.Node | None = None

    def line(self, *path: Any) -> int:
        """The line, counted from 1, of the key that ``path`` leads to, or of the last key on the way that there is."""
        node, line = self.root, 1
        for key in path:
            if not isinstance(node, yaml.MappingNode):
                break
            pairs = [pair for pair in node.value if pair[0].value == str(key)]
            if not pairs:
                break
            line, node = pairs[-1][0].start_mark.line + 1, pairs[-1][1]
        return line

    def place(self, *path: Any) -> str:
        """Where ``path`` is, in words: "own.yml, line 3: recipes.mine.seed"."""
        place = f"{self.label}, line {self.line(*path)}"
        return f"{place}: {'.'.join(map(str, path))}" if path else place


def read_document(text: str, label: str) -> tuple[YamlDocument, list[tuple[int, InputError]]]:
    """The document in a text, and by line the keys that it gives twice, which YAML forbids and its parsers let pass.

    Raises:
        InputError: the text is not YAML; says where and why.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return YamlDocument(label, {}), []
        twice = _keys_twice(root, label)
        return YamlDocument(label, loader.construct_document(root), root), twice
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise syntax_error(error, text, label) from None


def syntax_error(error: Exception, text: str, label: str) -> InputError:
    """What PyYAML cannot read, as people say it."""
    if not isinstance(error, yaml.MarkedYAMLError):
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return InputError(f"not valid YAML: {reason}", where=label)
    lines = text.splitlines()
    what, hint, mark = _in_words(error, lines)
    place = f"{label}, line {min(mark.line, len(lines) - 1) + 1}, column {mark.column + 1}" if mark else label
    return InputError(f"not valid YAML: {what}", where=place, hint=hint)


_QUOTES = "put the value in quotes"
_ALIGN = "keys that belong together start in the same column"
_TOKENS = {"<block mapping start>", "<block sequence start>"}


def _in_words(error: yaml.MarkedYAMLError, lines: Sequence[str]) -> tuple[str, str | None, yaml.Mark | None]:
    """What is wrong, what to do, and where."""
    problem, opened, mark = error.problem or "", error.context_mark, error.problem_mark
    if mark is None:
        return problem or error.context or "unreadable", None, opened
    token = problem.rpartition(" ")[2].strip("'") if "found" in problem else ""
    if "start>'" in problem and "expected" in problem and any(name in problem for name in _TOKENS):
        return _misaligned(lines, mark), _ALIGN, mark
    if problem.startswith("expected <block end>") and token in ("}", "]"):
        return f"'{token}' closes nothing that was opened", None, mark
    if problem.startswith("expected <block end>") and opened and opened.line == mark.line:
        return "there is more text after the end of a value", _QUOTES, mark
    if problem.startswith("expected <block end>"):
        what = f"line {mark.line + 1} does not continue what begins in line {opened.line + 1}" if opened else problem
        return what, f"{_ALIGN}; a value with special characters stands in quotes", mark
    if problem.startswith("mapping values are not allowed"):
        return _unexpected_colon(lines, mark)
    if match := re.match(r"expected ',' or '([\]}])'", problem):
        opening = {"]": "[", "}": "{"}[match[1]]
        return f"'{opening}' is not closed, or a comma is missing after it", f"add ',' or '{match[1]}'", opened or mark
    if "'\\t'" in problem:
        return f"line {mark.line + 1} is indented with a tab", "indent with spaces", mark
    if match := re.match(r"found character '(.)' that cannot start any token", problem):
        return f"a value cannot start with {match[1]!r}", _QUOTES, mark
    if problem == "found unexpected end of stream" and "quoted" in (error.context or ""):
        return "a quotation mark is never closed", "close it, on the same line", opened or mark
    if match := re.match(r"found undefined alias '(.*)'", problem):
        return f"*{match[1]} refers to nothing: there is no &{match[1]} before it", f"for text, {_QUOTES}", mark
    if problem == "could not find expected ':'":
        return "a key has no ':' after it", "write `key: value`", opened or mark
    if problem == "but found another document":
        return "a second document begins, but a file may contain only one", "remove the line '---'", mark
    if problem.startswith("sequence entries are not allowed"):
        return "a list cannot begin here", "write it as [a, b], or each item on a line of its own after '- '", mark
    if match := re.match(r"found unknown escape character '(.*)'", problem):
        return f"\\{match[1]} means nothing between double quotes", "use single quotes", mark
    if problem == "found unhashable key":
        return "a key must be one word", None, mark
    return problem, None, mark


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _misaligned(lines: Sequence[str], mark: yaml.Mark) -> str:
    """A line that starts between the columns of the keys above it."""
    own = _indentation(lines[mark.line])
    above: list[int] = []
    for line in reversed(lines[: mark.line]):
        if line.strip() and not line.lstrip().startswith("#") and (not above or _indentation(line) < above[0]):
            above.insert(0, _indentation(line))
    listed = " and ".join(filter(None, [", ".join(map(str, above[:-1])), *map(str, above[-1:])]))
    return f"line {mark.line + 1} is indented by {own} space{'s' * (own != 1)}, but the keys above it by {listed}"


def _unexpected_colon(lines: Sequence[str], mark: yaml.Mark) -> tuple[str, str | None, yaml.Mark]:
    """A ':' where no key can be: in a value, or because of the line before."""
    if ": " in lines[mark.line][: mark.column]:
        return "a value contains ': '", _QUOTES, mark
    before = next((i for i in range(mark.line - 1, -1, -1) if lines[i].strip() and lines[i].strip()[0] != "#"), None)
    if before is None:
        return "':' is not expected here", _QUOTES, mark
    if not re.search(r":(\s|$)", lines[before]):
        at = yaml.Mark(mark.name, 0, before, _indentation(lines[before]), None, 0)
        return f"line {before + 1} has no ': ' between a key and a value", "write `key: value`", at
    what = f"line {mark.line + 1} is indented deeper than line {before + 1}, whose key has a value already"
    return what, _ALIGN, mark


def _keys_twice(root: yaml.Node, label: str) -> list[tuple[int, InputError]]:
    errors = []
    todo, visited = [root], set()
    while todo:
        node = todo.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    mark = key.start_mark
                    if key.value in lines:
                        place = f"{label}, line {mark.line + 1}, column {mark.column + 1}"
                        hint = f"the first is in line {lines[key.value]}"
                        error = InputError(f"key {key.value!r} is given twice", where=place, hint=hint)
                        errors.append((mark.line + 1, error))
                    lines.setdefault(key.value, mark.line + 1)
                todo.append(value)
    return errors
